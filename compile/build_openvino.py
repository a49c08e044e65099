"""OpenVINO on a CPU: the graph is what ships; it is compiled here to see that it compiles, and into what.

The device compiles it again on first load, with the same properties (`deploy_runtime.backend_openvino`). Two traps:
OpenVINO runs fp32 graphs in bf16 wherever the processor can, unless told otherwise, and answers a wish for bf16 on a
processor without it by running fp32. So the precision is always set, and what each layer got is read from the
compiled model (`get_runtime_model`), whose layers name the operators that were fused into them.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy_compile.build import Refused, Unauditable
from deploy_compile.heavy import heavy_aliases, heavy_nodes
from deploy_compile.results import Layer
from deploy_compile.rewrite_openvino import rewrite
from deploy_runtime import backend_openvino
from deploy_runtime.errors import DeployError
from deploy_runtime.spec import Batch, Tensor

# The runtime model's types of layers that do heavy arithmetic.
HEAVY_LAYERS = ("Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul")
# Those that do it only where they hold a matrix product: attention fused into one kernel. Other operators of the same
# type bear names derived from a heavy node's, so that here only the node's own name counts.
FUSED_LAYERS = ("Subgraph", "ScaledDotProductAttention", "ScaledDotProductAttentionWithKVCache")
PRECISION_OF = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}
WIDEST = ("fp32", "bf16", "fp16", "int8")  # the widest first


def build(
    out: Path,
    graph: Path,
    fp32: Path,
    precision: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    batch: Batch,
    threads: int,
) -> tuple[Path, tuple[Layer, ...]]:
    """Compile `graph` as the device will; return what ships with the precision of each heavy node of `fp32`.

    That is the graph itself, or its form in `out` where OpenVINO would compute it wrongly (`rewrite_openvino`).

    Raises Refused where OpenVINO does not take the graph or this processor lacks the precision.
    """
    if precision.startswith("int8"):
        graph = rewrite(graph, out / "model.onnx")
    try:
        session = backend_openvino.open(graph, precision, inputs, outputs, batch, threads, cache=None)
    except DeployError as error:
        raise Refused(error.message, error.fix) from error
    # The very engine that the device will run, which the runtime rightly keeps to itself.
    operators = session._request.get_compiled_model().get_runtime_model().get_ordered_ops()  # type: ignore[attr-defined]
    return graph, layers([facts(operator) for operator in operators], heavy_nodes(fp32), heavy_aliases(fp32))


def facts(operator: Any) -> dict[str, str]:
    """Return what the runtime model tells of an operator in words."""
    told = operator.get_rt_info()
    return {key: told[key].astype(str) for key in ("layerType", "originalLayersNames", "runtimePrecision")}


def layers(
    operators: Iterable[Mapping[str, str]], nodes: Mapping[str, str], aliases: Mapping[str, str]
) -> tuple[Layer, ...]:
    """Map the compiled layers back onto the heavy `nodes` (name -> operator); one that is not found is left out."""
    found: dict[str, str] = {}
    for operator in operators:
        precision = ""
        for node in heavy_of(operator, nodes, aliases):
            precision = precision or _precision(operator)
            found[node] = min(found.get(node, precision), precision, key=WIDEST.index)
    return tuple(Layer(node, op, found[node]) for node, op in nodes.items() if node in found)


def heavy_of(operator: Mapping[str, str], nodes: Mapping[str, str], aliases: Mapping[str, str]) -> set[str]:
    """Return the heavy nodes that a compiled layer computes.

    A layer lists the operators fused into it: an ONNX node by its name, by that name and a suffix (`/WithoutBiases`,
    which the importer adds where it splits off a bias), or by another name that it goes by once it is fused with its
    bias (`aliases`: name -> node).
    """
    originals = operator["originalLayersNames"].split(",")
    if operator["layerType"] in FUSED_LAYERS:
        named = set(nodes).intersection(originals)
        return named | {aliases[name] for name in originals if named and name in aliases}  # (q @ k) * scale
    return _named(originals, nodes, aliases) if operator["layerType"] in HEAVY_LAYERS else set()


def _named(originals: Iterable[str], nodes: Mapping[str, str], aliases: Mapping[str, str]) -> set[str]:
    named: set[str] = set()
    for original in originals:
        stem = original
        while stem and stem not in nodes:
            stem = stem.rpartition("/")[0]
        if stem:
            named.add(stem)
        elif original in aliases:
            named.add(aliases[original])
    return named


def _precision(operator: Mapping[str, str]) -> str:
    """Return the precision a layer computes in. Raises Unauditable for one that is not known here."""
    told = operator["runtimePrecision"]
    if told not in PRECISION_OF:
        raise Unauditable(f"OpenVINO names a precision that is not known here: {told}")
    return PRECISION_OF[told]
