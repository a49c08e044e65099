"""Engines of full TensorRT for the GPU of this machine, by the code that a device runs. Not run on hardware.

The engine stands in this machine's own cache, where the runtime looks for it; what the bundle ships is the graph, from
which another machine builds its own (`python -m deploy_runtime build`). Runs in a process of its own, always.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from deploy_compile.build import Refused
from deploy_compile.heavy import heavy_nodes
from deploy_compile.results import Layer
from deploy_runtime import backend_tensorrt, device_build, device_cache, engine_key
from deploy_runtime.errors import DeployError
from deploy_runtime.spec import Batch, Tensor
from deploy_runtime.tensorrt_build import RefusedError, Settings


def build(out: Path, graph: Path, fp32: Path, inputs: Sequence[Tensor], batch: Batch) -> tuple[Path, tuple[Layer, ...]]:
    """Build the engine of `graph`; return the graph as it ships and the precision of each heavy node that is told.

    Raises Refused where TensorRT does not take the graph, DeployError where it or the cache is missing.
    """
    trt, _ = backend_tensorrt.libraries()
    version = backend_tensorrt.version()
    file = out / "graph.onnx"
    shutil.copyfile(graph, file)
    data = graph.with_name(f"{graph.name}.data")
    if data.exists():  # above 2 GiB; the graph names it
        shutil.copyfile(data, out / data.name)
    engine = engine_key.place(file, version, batch)
    if device_cache.writable(engine_key.FOLDER) is None:
        raise DeployError(f"{engine.parent} cannot be written", f"Set {device_cache.VARIABLE} to a folder that can.")
    nodes = heavy_nodes(fp32)
    try:
        made = device_build.made_in(
            trt, file, file.name, engine, tuple(nodes), inputs, batch, Settings(), lambda _: None
        )
    except RefusedError as refusal:
        raise Refused(refusal.message, refusal.fix) from refusal
    return file, tuple(Layer(node, op, made.layers[node]) for node, op in nodes.items() if node in made.layers)
