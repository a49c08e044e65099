"""TensorRT-RTX engines, compiled without a GPU and without running: built here, executed on the user's hardware.

Runs in a process of its own, always: a failed build leaves the library in a state in which the next build in the same
process succeeds with every quantized layer compiled in float. The network is strongly typed, so the graph alone
decides precision, and the layer table is read from the build log (see `layer_table`).

polygraphy's loaders were considered: `CreateNetwork` + `CreateConfigRTX` + `EngineBytesFromNetwork` would replace
about twenty lines here, but take their logger from a global and keep no verbose log, which is where the table is; and
they raise one text for a parser refusal where `get_error` gives the ONNX node, its operator and the reason apart.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from deploy_compile import layer_table
from deploy_compile.build import Refused, Unauditable
from deploy_compile.heavy import heavy_nodes
from deploy_compile.results import Layer
from deploy_runtime.errors import DeployError
from deploy_runtime.spec import Batch, Tensor

SHOWN_ERRORS = 3  # parser refusals told in full; the rest are counted


def build(
    out: Path,
    graph: Path,
    fp32: Path,
    inputs: Sequence[Tensor],
    batch: Batch,
    compute_capabilities: Sequence[str],
) -> tuple[Path, tuple[Layer, ...]]:
    """Compile `graph` into `out/engine.trt` for GPUs such as `sm86`; return it with the precision of each heavy node.

    Raises Refused where the parser or the compiler does not take the graph.
    """
    trt: Any = import_module("tensorrt_rtx")  # it has no types

    if not trt.__version__.startswith(layer_table.TABLE_VERSIONS):
        raise DeployError(
            f"TensorRT-RTX {trt.__version__} is installed, and the audit reads the build log of "
            f"{', '.join(layer_table.TABLE_VERSIONS)} only",
            f"Install tensorrt_rtx_cu13=={layer_table.TABLE_VERSIONS[-1]}.*",
        )
    log = _log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        raise _refusal([parser.get_error(index) for index in range(parser.num_errors)])
    plan = builder.build_serialized_network(
        network, _config(trt, builder, network, inputs, batch, compute_capabilities)
    )
    if plan is None:
        told = " ".join(log.errors[:SHOWN_ERRORS]) or "it gave no reason"
        raise Refused(f"TensorRT-RTX could not compile the graph: {told}", "Another backend, or --fp16, may take it.")
    engine = out / "engine.trt"
    engine.write_bytes(memoryview(plan))
    nodes = heavy_nodes(fp32)
    try:
        found = layer_table.precisions(layer_table.rows(log.tables), nodes)
    except ValueError as error:
        raise Unauditable(f"TensorRT-RTX: {error}") from error
    return engine, tuple(Layer(node, op, found[node]) for node, op in nodes.items() if node in found)


def _config(
    trt: Any, builder: Any, network: Any, inputs: Sequence[Tensor], batch: Batch, compute_capabilities: Sequence[str]
) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = len(compute_capabilities)
    for index, name in enumerate(compute_capabilities):
        config.set_compute_capability(_compute_capability(trt, name), index)
    profile = builder.create_optimization_profile()
    frames_open = {value.name for value in map(network.get_input, range(network.num_inputs)) if -1 in value.shape[1:]}
    for tensor in inputs:
        least = tensor.of_frames(1) if tensor.name in frames_open else tensor  # a stream's steps, up to a whole clip
        profile.set_shape(tensor.name, least.at(batch.least), tensor.at(batch.best), tensor.at(batch.most))
    config.add_optimization_profile(profile)
    return config


def _compute_capability(trt: Any, name: str) -> Any:
    known: Mapping[str, Any] = trt.ComputeCapability.__members__
    if name.upper() not in known:
        offered = ", ".join(member.lower() for member in known if member.startswith("SM"))
        raise DeployError(f"TensorRT-RTX builds for no compute capability {name!r}", f"It knows {offered}.")
    return known[name.upper()]


def _log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps the layer table and the errors; prints nothing."""

        def __init__(self) -> None:
            super().__init__()
            self.tables: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if layer_table.START in message:
                self.tables.append(message)
            elif severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message.strip())

    return Log()


def _refusal(errors: Sequence[Any]) -> Refused:
    told = [f"{e.node_operator()} {e.node_name() or '(no name)'}: {_reason(e.desc())}" for e in errors]
    more = f"; and {len(told) - SHOWN_ERRORS} more" if len(told) > SHOWN_ERRORS else ""
    return Refused(
        f"TensorRT-RTX's parser refuses the graph: {'; '.join(told[:SHOWN_ERRORS])}{more}",
        "Replace these operators in the network, or leave out --target rtx.",
    )


def _reason(text: str) -> str:
    """Say what the parser says; for some operators that is only the word "false"."""
    plain = " ".join(text.split()).strip('"')
    return "it is not supported" if plain in ("", "false") else plain
