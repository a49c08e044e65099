"""TensorRT-RTX: engines built anywhere, run on an NVIDIA RTX GPU. Not run on hardware yet: no GPU was at hand.

What was checked without one: every call below exists in the real library, and without a driver nothing of it is
touched. The trap: TensorRT's runtime may kill a process that has no driver, so `cuInit` comes before its import.
Kernels are compiled at the first run; they are kept in the device's cache.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from deploy_runtime import cuda, device_cache
from deploy_runtime.errors import DeployError
from deploy_runtime.manifest import sha256
from deploy_runtime.session import Session, check_names
from deploy_runtime.spec import Batch, Tensor
from deploy_runtime.tensorrt_contexts import Contexts
from deploy_runtime.tensorrt_library import Library
from deploy_runtime.tensorrt_run import Opened

INSTALL = "pip install tensorrt_rtx_cu13==1.7.1.116 'cuda-bindings>=13,<14'"
LIBRARY = Library("tensorrt_rtx", "TensorRT-RTX", "cuda-bindings", INSTALL)


def missing() -> str | None:
    """Return why TensorRT-RTX cannot be used here: the driver first, then the libraries."""
    return LIBRARY.missing()


def version() -> str:
    """Return TensorRT-RTX's version."""
    return str(LIBRARY.load(missing())[0].__version__)


def open(
    file: Path,
    precision: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    batch: Batch,
    threads: int,
    cache: Path | None,
    target: str = "rtx",
) -> Session:
    """Load an engine onto the first GPU; precision and threads are the engine's own affair. See `backends.Backend`."""
    del precision, threads, target
    trt, runtime = LIBRARY.load(missing())
    content = file.read_bytes()
    loader = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    validity, _ = loader.get_engine_validity(content)
    engine = None if validity == trt.EngineValidity.INVALID else loader.deserialize_cuda_engine(content)
    if engine is None:
        raise DeployError(
            f"TensorRT-RTX {trt.__version__} does not take {file} on this GPU (compute capability "
            f"{cuda.compute_capability()})",
            f"An engine belongs to one version and its GPUs: {INSTALL}, or build the bundle for this GPU.",
        )
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    check_names(file, names, (*inputs, *outputs))
    config = engine.create_runtime_config()
    config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    kernels = config.create_runtime_cache()
    kept = None if cache is None else cache / f"{sha256(file)[:32]}.kernels"
    if kept is not None and kept.exists():
        kernels.deserialize(kept.read_bytes())  # False where it does not fit: then it is compiled again
    config.set_runtime_cache(kernels)

    def keep_kernels() -> None:
        if kept is not None:
            device_cache.write(kept, bytes(kernels.serialize()))

    contexts = Contexts(engine, partial(engine.create_execution_context, config), [tensor.name for tensor in inputs])
    return Opened(runtime, contexts, inputs, outputs, batch, captures=False, closing=keep_kernels)
