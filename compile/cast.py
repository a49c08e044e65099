"""Cast: rewrite a graph so that every tensor that fp16 can hold is fp16, with fp32 inputs and outputs.

Promise: inputs and outputs stay fp32 under their names; nodes that the recipe keeps so, that saw values beyond a
quarter of fp16's range in calibration, that ONNX defines for fp32 only, that say so in their doc string (see
split_norms), or that hold a body (If, Loop, Scan) stay fp32 and are listed in `kept_float` with the reason; Q/DQ nodes
and their scales are the same numbers as before; node names and order are kept.

Ours and not onnxconverter-common's `float16`: that one writes an invalid graph where an output of the graph is read
inside, where a weight is shared with a node that stays fp32, and where an integer is cast to float; it needs time
quadratic in the nodes (36 s for ViT-B); and it clips initializers at 10,000 with a warning, Inf masks not at all.
Here a tiny constant never becomes 0 (an epsilon must not), Inf stays Inf, and what fp16 cannot hold keeps its node in
fp32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from deploy_compile import keep, onnx_graph
from deploy_compile.results import Form, Graph
from deploy_compile.results_int8 import Ranges
from deploy_compile.retype import Retyping, half_slots
from deploy_compile.split_norms import STAYS_FP32
from deploy_recipes.recipe import Keep

LARGEST = 65504.0 / 4  # of an fp16 tensor in calibration: the margin is for what calibration did not see


def cast(
    out: Path, graph: Graph, ranges: Ranges, precision: str, keep_fp32: Sequence[Keep] = (), form: Form = ""
) -> Graph:
    """Write `PRECISION.onnx` into `out`: `fp16` from the fp32 graph, `int8_fp16` from the int8 graph.

    `ranges` are those of the fp32 graph. In the form `fp32_scales` the Q/DQ nodes and what they feed keep fp32 scales
    and sums, and only the rest is fp16. Raises ValueError where the result is not what this stage promises, DeployError
    where a glob of `keep_fp32` names no node.
    """
    model = onnx_graph.load(graph.path)
    before = _pairs(model)
    reach = _reach(model, ranges)
    writer = Retyping(model)
    kept = {node.name: reason for node in model.graph.node if (reason := _refusal(node, model, writer.floats, reach))}
    floats = [node for node in model.graph.node if writer.floats.intersection((*node.input, *node.output))]
    kept |= keep.kept(floats, keep_fp32, "keep_fp32", "float node")
    quantized = _quantized(model) if form == "fp32_scales" else set[str]()
    writer.write({**dict.fromkeys(quantized, "its scales are fp32"), **kept})
    path = onnx_graph.save(model, out / f"{precision}.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    names = [node.name for node in model.graph.node]
    if _pairs(model) != before or len(set(names)) != len(names):
        raise ValueError(f"casting to {precision} changed the Q/DQ nodes or made a node name twice")
    kept_float = {**kept, **graph.kept_float}
    return replace(graph, path=path, precision=precision, nodes=len(names), kept_float=kept_float, form=form)


def _quantized(model: onnx.ModelProto) -> set[str]:
    """Return the names of the Q/DQ nodes and of the nodes that read what was quantized."""
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    made = {node.output[0] for node in pairs if node.op_type == "DequantizeLinear"}
    return {node.name for node in pairs} | {node.name for node in model.graph.node if made.intersection(node.input)}


def _pairs(model: onnx.ModelProto) -> tuple[int, int]:
    ops = [node.op_type for node in model.graph.node]
    return ops.count("QuantizeLinear"), ops.count("DequantizeLinear")


def _reach(model: onnx.ModelProto, ranges: Ranges) -> dict[str, float]:
    """Return the largest finite magnitude of every float tensor: seen in calibration, or stored as a constant."""
    reach = {name: max(abs(seen.least), abs(seen.largest)) for name, seen in ranges.tensors.items()}
    links = onnx_graph.links(model)
    for name, tensor in links.constants.items():
        if tensor.data_type == TensorProto.FLOAT:
            values = onnx_graph.array(tensor)
            reach[name] = float(np.abs(values).max(initial=0.0, where=np.isfinite(values)))
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            made_by = links.producers.get(node.input[0])
            most = 128.0 * reach[node.input[1]]
            reach[node.output[0]] = min(most, reach.get(made_by.input[0], most)) if made_by else most
    return reach


def _refusal(node: onnx.NodeProto, model: onnx.ModelProto, floats: set[str], reach: Mapping[str, float]) -> str:
    """Say why a node must stay fp32, or nothing."""
    touched = [name for name in (*node.input, *node.output) if name in floats]
    if any(attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for attribute in node.attribute):
        return f"{node.op_type} holds a body, which stays fp32"
    if touched and not _takes_half(node, model, floats):
        return f"ONNX defines {node.op_type} for fp32 only"
    if node.doc_string.startswith(STAYS_FP32):
        return node.doc_string.removeprefix(STAYS_FP32)
    worst = max(touched, key=lambda name: reach.get(name, 0.0), default="")
    if reach.get(worst, 0.0) > LARGEST:
        return f"{worst} reaches {reach[worst]:.4g}, beyond a quarter of fp16's range ({LARGEST:.0f})"
    return ""


def _takes_half(node: onnx.NodeProto, model: onnx.ModelProto, floats: set[str]) -> bool:
    inputs, outputs = half_slots(node, model)
    slots = [*zip(node.input, inputs, strict=True), *zip(node.output, outputs, strict=True)]
    return any(half for name, half in slots if name in floats)
