"""TensorRT-RTX engines, compiled without a GPU and without running: built here, executed on the user's hardware.

The calls are those of the device's own builder (`deploy_runtime.tensorrt_build`), so that every build here exercises
the code that full TensorRT runs through on a Jetson. Precision of the layers is read from the build log
(see `layer_table`).

polygraphy's loaders were considered: `CreateNetwork` + `CreateConfigRTX` + `EngineBytesFromNetwork` would replace
about twenty lines there, but take their logger from a global and keep no verbose log, which is where the table is; they
raise one text for a parser refusal where `get_error` gives the ONNX node, its operator and the reason apart; and
polygraphy is nothing to ask of a Jetson.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from deploy_compile import layer_table
from deploy_compile.build import Refused, Unauditable
from deploy_compile.heavy import heavy_nodes
from deploy_compile.results import Layer
from deploy_runtime import tensorrt_build
from deploy_runtime.errors import DeployError
from deploy_runtime.spec import Batch, Tensor
from deploy_runtime.tensorrt_build import RefusedError, Settings


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
    settings = Settings(compute_capabilities=tuple(compute_capabilities))
    try:
        plan = tensorrt_build.build(trt, graph, inputs, batch, settings)
    except RefusedError as refusal:
        raise Refused(refusal.message, refusal.fix) from refusal
    engine = out / "engine.trt"
    engine.write_bytes(plan.content)
    nodes = heavy_nodes(fp32)
    try:
        found = layer_table.precisions(layer_table.rows(plan.tables), nodes)
    except ValueError as error:
        raise Unauditable(f"TensorRT-RTX: {error}") from error
    return engine, tuple(Layer(node, op, found[node]) for node, op in nodes.items() if node in found)
