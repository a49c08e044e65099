"""The fp32 graph and its INT8 form in one, layer by layer: which form each heavy node computes in is said at each run.

Every quantized node becomes an If over the node in float and the node behind its Q/DQ pairs, with a boolean input of
its own; only the branch taken is computed. So one session answers what the output would be with any set of layers in
INT8, which is what sensitivity and fallback ask hundreds of times. The Q/DQ pairs are the INT8 graph's own: with all
switches on, the answers are its answers.
"""

import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploy_compile import biases, onnx_graph, session
from deploy_compile.trim import trim

PAIR = ("QuantizeLinear", "DequantizeLinear")
SUM = "Add"  # of a residual, where join.py quantized its operands: it counts as a layer too
Sample = Mapping[str, np.ndarray]
Answers = Mapping[str, np.ndarray]


class Switched:
    """An opened graph of both forms. `nodes` names the heavy nodes that have an INT8 form, in graph order."""

    def __init__(self, opened: Any, outputs: tuple[str, ...], switches: Mapping[str, str]) -> None:
        self._opened, self._outputs, self._switches = opened, outputs, switches

    @property
    def nodes(self) -> tuple[str, ...]:
        """The heavy nodes that have an INT8 form, in graph order."""
        return tuple(self._switches)

    def run(self, inputs: Sample, int8: Collection[str]) -> Answers:
        """Return the outputs with the nodes of `int8` in INT8 and every other in float."""
        unknown = set(int8) - self._switches.keys()
        if unknown:
            raise ValueError(f"{sorted(unknown)[0]} has no INT8 form in this graph")
        states = {switch: np.array(node in int8) for node, switch in self._switches.items()}
        answers = self._opened.run(list(self._outputs), {**inputs, **states})
        return dict(zip(self._outputs, answers, strict=True))


@contextmanager
def switched(fp32: Path, int8: Path, threads: int) -> Iterator[Switched]:
    """Open both forms of a graph. Raises ValueError where `int8` is not the quantized form of `fp32`."""
    with tempfile.TemporaryDirectory() as place:
        path, outputs, switches = _written(fp32, int8, Path(place))
        trim()
        yield Switched(session.read(path, threads), outputs, switches)


def _written(fp32: Path, int8: Path, folder: Path) -> tuple[Path, tuple[str, ...], dict[str, str]]:
    """Write the graph of both forms. Nothing of it stays in memory, where a session will hold it all again."""
    model, switches = switchable(onnx_graph.load(fp32), onnx_graph.load(int8))
    outputs = tuple(value.name for value in model.graph.output)
    return onnx_graph.save(model, folder / "graph.onnx"), outputs, switches


def switchable(fp32: onnx.ModelProto, int8: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return the graph of both forms, and the name of each quantized node's switch."""
    result = onnx.ModelProto()
    result.CopyFrom(fp32)
    graph, used = result.graph, onnx_graph.taken(fp32) | onnx_graph.taken(int8)
    forms = quantized_forms(fp32, int8)
    floats = list(fp32.graph.node)
    if missing := forms.keys() - {node.name for node in floats}:
        raise ValueError(f"the fp32 graph has no node {min(missing)!r}: these are not two forms of one graph")
    onnx_graph.add_constants(graph, int8, forms.values())
    switches: dict[str, str] = {}
    del graph.node[:], graph.value_info[:]
    for node in floats:
        if node.name not in forms:
            graph.node.append(node)
            continue
        switches[node.name] = switch = onnx_graph.unique(f"{node.name}/int8", used)
        graph.input.append(helper.make_tensor_value_info(switch, TensorProto.BOOL, []))
        graph.node.append(_either(node, forms[node.name], switch, used))
    return result, switches


def quantized_forms(fp32: onnx.ModelProto, int8: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Return each quantized heavy node or sum behind the Q and DQ nodes that give it its data, in order, by its name.

    A product whose bias another node adds is followed by what the INT8 graph adds more than the float graph does. Of
    OpenVINO's form of the INT8 graph (`rewrite_openvino`) the pools behind Q and DQ nodes and the biases that are nodes
    of their own belong to the layers that read and own them.
    """
    links, floats = onnx_graph.links(int8), onnx_graph.links(fp32)
    producers, by_name = links.producers, {node.name: node for node in fp32.graph.node}
    used = onnx_graph.taken(fp32) | onnx_graph.taken(int8)
    found: dict[str, list[onnx.NodeProto]] = {}

    def paired(tensor: str) -> bool:
        node = producers.get(tensor)
        return node is not None and (node.op_type in PAIR or (node.op_type == "MaxPool" and paired(node.input[0])))

    def pairs(tensor: str) -> Iterator[onnx.NodeProto]:
        node = producers.get(tensor)
        if node is not None and paired(tensor):
            for name in node.input:
                yield from pairs(name)
            yield node

    for node in int8.graph.node:
        kind = node.op_type in onnx_graph.HEAVY or node.op_type == SUM
        before = [pair for name in node.input for pair in pairs(name)] if kind else []
        if before:
            more = _more(node, by_name.get(node.name), links, floats, used)
            found[node.name] = [*before, node, *more]
    return found


def _more(
    int8: onnx.NodeProto,
    fp32: onnx.NodeProto | None,
    links: onnx_graph.Links,
    floats: onnx_graph.Links,
    used: set[str],
) -> list[onnx.NodeProto]:
    """Return nodes that add to a product what of its bias the float graph does not: all of it where only the INT8 graph
    adds it by another node, by how much the two differ where both do."""
    if parted := biases.parted(int8, fp32, links):
        return [parted]
    place, float_place = biases.place(int8, links), fp32 and biases.place(fp32, floats)
    if place is None or not float_place or place.node is int8 or place.values is None or float_place.values is None:
        return []
    more = place.values - float_place.values
    if not more.any():
        return []
    value, output = (onnx_graph.unique(f"{int8.output[0]}/{what}", used) for what in ("more", "corrected"))
    constant = helper.make_node("Constant", [], [value], f"{value}/node", value=numpy_helper.from_array(more))
    return [constant, helper.make_node("Add", [int8.output[0], value], [output], f"{output}/node")]


def _either(node: onnx.NodeProto, form: list[onnx.NodeProto], switch: str, used: set[str]) -> onnx.NodeProto:
    branches = {"then_branch": form, "else_branch": [node]}
    graphs: dict[str, Any] = {}
    for name, nodes in branches.items():
        copies, output = onnx_graph.copied(nodes, used)
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        graphs[name] = helper.make_graph(copies, f"{switch}/{name}", [], [result])
    return helper.make_node("If", [switch], list(node.output), onnx_graph.unique(f"{switch}/If", used), **graphs)
