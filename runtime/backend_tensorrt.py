"""Full TensorRT, 10.3 to 11.4: the engine that this device built from the bundle's graph. Not run on hardware yet.

An engine belongs to one GPU, one TensorRT and one graph, so it never ships: `python -m deploy_runtime build` makes it
and keeps it in the device's cache under a name that says all of that (see `engine_key`). The trap: without a driver
TensorRT's runtime kills the process, so `cuInit` comes before its import.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy_runtime import engine_key
from deploy_runtime.errors import DeployError
from deploy_runtime.session import NotHereError, Session, check_names
from deploy_runtime.spec import Batch, Tensor
from deploy_runtime.tensorrt_contexts import Contexts
from deploy_runtime.tensorrt_library import Library
from deploy_runtime.tensorrt_run import Opened

INSTALL = "pip install 'tensorrt>=10.3,<12' 'cuda-python>=12.6' (a Jetson has TensorRT in its JetPack)"
LIBRARY = Library("tensorrt", "TensorRT", "cuda-python", INSTALL)


def missing() -> str | None:
    """Return why TensorRT cannot be used here: the driver first, then the libraries."""
    return LIBRARY.missing()


def version() -> str:
    """Return TensorRT's version."""
    return str(libraries()[0].__version__)


def open(
    file: Path,
    precision: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    batch: Batch,
    threads: int,
    cache: Path | None,
    target: str = "tensorrt",
) -> Session:
    """Load the engine that was built here from the graph `file` onto the first GPU. See `backends.Backend`.

    Raises NotHereError where none was built on this device.
    """
    del precision, threads, cache, target
    trt, runtime = libraries()
    path = engine_key.place(file, trt.__version__, batch)
    made = engine_key.made(path)
    if made is None:
        raise NotHereError(
            f"no engine was built here from {file.name} for this GPU, TensorRT {trt.__version__} and batch",
            "Run `python -m deploy_runtime build BUNDLE` on this device: it is kept for the next start.",
        )
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != made.engine_sha256:
        raise DeployError(f"{path} was changed since it was built", "Delete it, and build it again.")
    loader = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = loader.deserialize_cuda_engine(content)
    if engine is None:
        raise DeployError(
            f"TensorRT {trt.__version__} does not take {path}", "Delete it, and build it again on this device."
        )
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    check_names(file, names, (*inputs, *outputs))
    contexts = Contexts(engine, engine.create_execution_context, [tensor.name for tensor in inputs])
    return Opened(runtime, contexts, inputs, outputs, batch, captures=True)


def libraries() -> tuple[Any, Any]:
    """Return TensorRT and CUDA's runtime. Raises NotHereError where there is no driver or no library."""
    return LIBRARY.load(missing())
