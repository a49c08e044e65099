"""ONNX Runtime: a graph is what ships; it is optimised here to see that it loads, and into which operators.

On an x86 processor clips are computed as pictures (`lower_onnxruntime`), and INT8 needs another form of the same
quantized graph (`rewrite_onnxruntime`): the symmetric one runs its slow kernels. What each node got is read from the
optimised graph that ONNX Runtime itself saves, at the level below the last: the last only changes memory layouts, and
in doing so loses the names of convolutions. That it leaves the number of operators of each precision alone is checked.
The trap: a convolution whose *output* is not quantized, too, is computed in float without a word.
"""

import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from deploy_compile.build import Refused, Unauditable
from deploy_compile.heavy import heavy_nodes
from deploy_compile.lower_onnxruntime import lower_float
from deploy_compile.results import Layer
from deploy_compile.results_int8 import Ranges
from deploy_compile.rewrite_onnxruntime import rewrite
from deploy_runtime import backend_onnxruntime
from deploy_runtime.spec import Batch, Tensor

# Operators of the optimised graph by the kind of arithmetic that they do on integers; every other one is float.
INTEGER_OPS = frozenset(
    {"QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
     "QGemm", "QLinearConvTranspose"}
)  # fmt: skip
FLOAT_OPS = frozenset(
    {"Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "MatMul", "FusedMatMul", "Gemm", "FusedGemm"}
)
FLOAT_TYPES = {1: "fp32", 10: "fp16", 16: "bf16"}  # onnx.TensorProto's numbers
X86 = frozenset({"x86_64", "AMD64"})  # platform.machine() of the processors whose U8 kernels are the fast ones


def build(
    out: Path,
    graph: Path,
    fp32: Path,
    precision: str,
    ranges: Ranges | None,
    provider: str,
    inputs: Sequence[Tensor],
    batch: Batch,
) -> tuple[Path, tuple[Layer, ...]]:
    """Make `graph` ready for ONNX Runtime; return the file with the precision of each heavy node of `fp32`.

    Raises Refused where ONNX Runtime does not take it.
    """
    file, x86 = graph, platform.machine() in X86
    if precision.startswith("int8"):
        assert ranges is not None, "INT8 is only ever built after calibration"
        file = rewrite(graph, out / "model.onnx", ranges, unsigned=x86, batch=batch if x86 else None)
    elif x86 and provider == "CPUExecutionProvider":
        with suppress(DecodeError), _refusing():  # what is no graph is refused below, in ONNX Runtime's words
            file = lower_float(graph, out / "model.onnx", batch)
    opened = (file, precision, provider, inputs, batch)
    named, final = (_optimised(out, level, *opened) for level in ("ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"))
    if _kinds(named) + _normalisations(named, final) != _kinds(final):
        raise Unauditable(
            f"ONNX Runtime's last optimisation level turned {dict(_kinds(named))} into {dict(_kinds(final))}"
        )
    return file, layers(named, heavy_nodes(fp32))


def layers(model: Any, nodes: Mapping[str, str]) -> tuple[Layer, ...]:
    """Map the operators of an optimised graph back onto the heavy `nodes` (name -> operator), by their names."""
    types = _float_types(model)
    found = {_stem(node.name, nodes): _precision(node, types) for node in model.graph.node if _kind(node)}
    return tuple(Layer(node, op, found[node]) for node, op in nodes.items() if node in found)


def _stem(name: str, nodes: Mapping[str, str]) -> str:
    """Return the heavy node that a fused operator was made from: `/MatMul` of `/MatMul/MatMulScaleFusion/`."""
    stem = name.removeprefix("fused ")  # with an activation
    while stem and stem not in nodes:
        stem = stem.rpartition("/")[0]
    return stem or name


def _optimised(
    out: Path, level: str, graph: Path, precision: str, provider: str, inputs: Sequence[Tensor], batch: Batch
) -> Any:
    """Return the graph as ONNX Runtime optimises it for the batch that is served, without its weights."""
    import onnx

    ort: Any = import_module("onnxruntime")  # it has no types

    saved = out / f"{level.lower()}.onnx"
    options = backend_onnxruntime.options(ort, inputs, batch, 1)  # those of the device
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(saved)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", f"{saved.name}.data")
    with _refusing():
        left_out = backend_onnxruntime.LEFT_OUT.get(precision)
        session = ort.InferenceSession(graph, options, providers=[provider], disabled_optimizers=left_out)
    if provider not in session.get_providers():  # it goes on with the CPU, and only prints so
        raise Refused(f"ONNX Runtime's {provider} does not load here", "Install the libraries that it needs.")
    model = onnx.load(saved, load_external_data=False)
    for file in (saved, saved.with_name(f"{saved.name}.data")):
        file.unlink(missing_ok=True)
    return model


@contextmanager
def _refusing() -> Iterator[None]:
    """Raise Refused for what ONNX Runtime raises."""
    state: Any = import_module("onnxruntime").capi.onnxruntime_pybind11_state  # its exceptions share no parent
    refusals = tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
    try:
        yield
    except refusals as error:
        raise Refused(
            f"ONNX Runtime does not take the graph: {' '.join(str(error).split())[:400]}", "Another backend may."
        ) from error


def _kind(node: Any) -> str:
    """Return `integer`, `float`, or nothing for an operator that does no heavy arithmetic."""
    if node.op_type in INTEGER_OPS:
        return "integer"
    return "float" if node.op_type in FLOAT_OPS else ""


def _kinds(model: Any) -> Counter[str]:
    return Counter(kind for node in model.graph.node if (kind := _kind(node)))


def _normalisations(named: Any, final: Any) -> Counter[str]:
    """Return how many batch normalisations the last level writes as convolutions of one place in its own layout."""
    before, after = (sum(n.op_type == "BatchNormalization" for n in model.graph.node) for model in (named, final))
    return Counter({"float": before - after} if before > after else {})


def _float_types(model: Any) -> Mapping[str, int]:
    """Return the element type of every tensor whose type the optimised graph states."""
    graph = model.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    types.update(
        {info.name: info.type.tensor_type.elem_type for info in (*graph.input, *graph.output, *graph.value_info)}
    )
    return types


def _precision(node: Any, types: Mapping[str, int]) -> str:
    if _kind(node) == "integer":
        return "int8"
    told = [types[name] for name in (*node.input, *node.output) if name in types]
    if not told:  # between operators of its own, whose types it does not state: where there is one, it is that
        told = sorted(FLOAT_TYPES.keys() & set(types.values()))
    if not told or (len(told) > 1 and not {*node.input, *node.output} & types.keys()):
        raise Unauditable(f"ONNX Runtime's optimised graph does not say in which type {node.name} computes")
    return FLOAT_TYPES[told[0]]
