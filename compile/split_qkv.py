"""Fused query-key-value products of attention in three: the same numbers, and INT8 where a compiler would lose it.

timm and others compute q, k and v in one matrix product and take it apart behind it. TensorRT-RTX moves that taking
apart into the weights, which dequantizes them: the product was compiled in float without a word (1.7.1). With the
columns of the weights parted here, each product stays INT8. Every number is computed as before.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from deploy_compile import onnx_graph

PARTS = ("q", "k", "v")
APART = [2, 0, 3, 1, 4]  # [batch, tokens, 3, heads, width] to [3, batch, heads, tokens, width]


def split_qkv(model: onnx.ModelProto) -> int:
    """Part, in place, every MatMul + Add + Reshape + Transpose + Split (+ Squeeze) of q, k, v; return how many.

    Anything else than exactly that pattern is left alone.
    """
    links, used = onnx_graph.links(model), onnx_graph.taken(model)
    outputs = {value.name for value in model.graph.output}
    replaced: dict[str, list[onnx.NodeProto]] = {}  # by name of the MatMul
    gone: set[str] = set()
    for product in model.graph.node:
        chain = _chain(product, links, outputs)
        if chain:
            made, constants = _parted(chain, links, used)
            model.graph.initializer.extend(constants)
            replaced[product.name] = made
            gone |= {node.name for node in chain}
    nodes = [new for node in model.graph.node for new in replaced.get(node.name, [] if node.name in gone else [node])]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    onnx_graph.drop_unread(model.graph)
    return len(replaced)


def _chain(product: onnx.NodeProto, links: onnx_graph.Links, outputs: set[str]) -> list[onnx.NodeProto]:
    """Return MatMul, Add, Reshape, Transpose, Split and the three Squeeze that begin at a MatMul, or nothing."""
    chain = [product]
    for wanted in ("MatMul", "Add", "Reshape", "Transpose", "Split"):
        node = chain[-1]
        if node.op_type != wanted:
            return []
        if wanted != "Split":
            readers = links.consumers.get(node.output[0], ())
            if len(readers) != 1 or node.output[0] in outputs:
                return []
            chain.append(readers[0])
    matmul, add, reshape, transpose, split = chain
    ends = [reader for name in split.output for reader in links.consumers.get(name, ())]
    fits = (
        len(split.output) == len(PARTS)
        and [end.op_type for end in ends] == ["Squeeze"] * len(PARTS)
        and not {split.output[i] for i in range(len(PARTS))} & outputs
        and matmul.input[1] in links.constants
        and _bias(add, links) is not None
        and reshape.input[1] in links.constants
        and list(next(a.ints for a in transpose.attribute if a.name == "perm")) == APART
        and onnx_graph.attribute(split, "axis", 0) == 0
        and all(_squeezes_first(end, links) for end in ends)
    )
    if not fits:
        return []
    shape = onnx_graph.array(links.constants[reshape.input[1]])
    return [*chain, *ends] if len(shape) == len(APART) and shape[2] == len(PARTS) else []


def _squeezes_first(node: onnx.NodeProto, links: onnx_graph.Links) -> bool:
    axes = links.constants.get(node.input[1]) if len(node.input) > 1 else None
    return axes is not None and onnx_graph.array(axes).tolist() == [0]


def _bias(add: onnx.NodeProto, links: onnx_graph.Links) -> str | None:
    return next((name for name in add.input if name in links.constants), None)


def _parted(
    chain: Sequence[onnx.NodeProto], links: onnx_graph.Links, used: set[str]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return three chains of MatMul, Add, Reshape and Transpose that end in the tensors of the Squeeze nodes."""
    matmul, add, reshape, transpose, _, *ends = chain
    weights = np.split(onnx_graph.array(links.constants[matmul.input[1]]), len(PARTS), axis=1)
    bias_name = _bias(add, links)
    assert bias_name is not None, "the chain was checked to have one"
    biases = np.split(onnx_graph.array(links.constants[bias_name]), len(PARTS))
    shape = np.delete(onnx_graph.array(links.constants[reshape.input[1]]), 2)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(name: str, values: np.ndarray) -> str:
        name = onnx_graph.unique(name, used)
        constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    for part, weight, bias, end in zip(PARTS, weights, biases, ends, strict=True):
        inputs = [matmul.input[0], constant(f"{matmul.input[1]}_{part}", weight)]
        for old, more in (
            (matmul, ()),
            (add, (constant(f"{bias_name}_{part}", bias),)),
            (reshape, (constant(f"{reshape.input[1]}_{part}", shape),)),
            (transpose, ()),
        ):
            last = old is transpose
            output = end.output[0] if last else onnx_graph.unique(f"{old.output[0]}_{part}", used)
            name = onnx_graph.unique(f"{old.name}/{part}", used)
            nodes.append(helper.make_node(old.op_type, [*inputs, *more], [output], name))
            if last:
                nodes[-1].attribute.append(helper.make_attribute("perm", [0, 2, 1, 3]))
            inputs = [output]
    return nodes, constants
