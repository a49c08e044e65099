"""TensorRT-RTX: engines built anywhere, run on an NVIDIA RTX GPU. Not run on hardware yet: no GPU was at hand.

What was checked without one: every call below exists in the real library, and without a driver nothing of it is
touched. The trap: TensorRT's runtime may kill a process that has no driver, so `cuInit` comes before its import.
Kernels are compiled at the first run; they are kept in the device's cache.
"""

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from deploy_runtime import cuda, device_cache
from deploy_runtime.errors import DeployError
from deploy_runtime.manifest import sha256
from deploy_runtime.session import Array, NotHereError, Session, check_names
from deploy_runtime.spec import Batch, Tensor

INSTALL = "pip install tensorrt_rtx_cu13==1.7.1.116 'cuda-bindings>=13,<14'"


def missing() -> str | None:
    """Return why TensorRT-RTX cannot be used here: the driver first, then the libraries."""
    if reason := cuda.driver():
        return reason
    if not find_spec("tensorrt_rtx"):
        return f"TensorRT-RTX is not installed: {INSTALL}"
    if not find_spec("cuda") or not find_spec("cuda.bindings"):
        return f"cuda-bindings is not installed: {INSTALL}"
    return None


def version() -> str:
    """Return TensorRT-RTX's version."""
    return str(_libraries()[0].__version__)


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
    trt, runtime = _libraries()
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
    kept = None if cache is None else cache / f"{sha256(file)[:32]}.kernels"
    return _Opened(runtime, engine, inputs, outputs, batch, kept)


class _Opened(Session):
    """Buffers for the largest batch stand on the GPU from the start; a run copies in, computes, copies out."""

    def __init__(
        self,
        runtime: Any,
        engine: Any,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        batch: Batch,
        kept: Path | None,
    ) -> None:
        self._runtime, self._kept, self._buffers = runtime, kept, dict[str, int]()
        self._inputs, self._outputs = list(inputs), list(outputs)
        self._stream = self._ask(runtime.cudaStreamCreate())
        settings = engine.create_runtime_config()
        self._kernels = settings.create_runtime_cache()
        if kept is not None and kept.exists():
            self._kernels.deserialize(kept.read_bytes())  # False where it does not fit: then it is compiled again
        settings.set_runtime_cache(self._kernels)
        self._context: Any = engine.create_execution_context(settings)
        if self._context is None:
            raise DeployError("the GPU has no memory left for this engine", "Free some, or use a smaller batch.")
        for tensor in (*inputs, *outputs):
            size = math.prod(tensor.at(batch.most)) * np.dtype(tensor.dtype).itemsize
            self._buffers[tensor.name] = int(self._ask(runtime.cudaMalloc(size)))
            self._context.set_tensor_address(tensor.name, self._buffers[tensor.name])

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        batch = len(next(iter(inputs.values())))
        answers = {tensor.name: np.empty(tensor.at(batch), tensor.dtype) for tensor in self._outputs}
        self.run_into(inputs, answers)
        return answers

    def run_into(self, inputs: dict[str, Array], answers: Mapping[str, Array]) -> None:
        kinds = self._runtime.cudaMemcpyKind
        arrays = {tensor.name: np.ascontiguousarray(inputs[tensor.name]) for tensor in self._inputs}
        for name, array in arrays.items():
            self._context.set_input_shape(name, array.shape)
            self._copy(self._buffers[name], array.ctypes.data, array.nbytes, kinds.cudaMemcpyHostToDevice)
        if not self._context.execute_async_v3(int(self._stream)):
            raise DeployError("TensorRT-RTX did not run the engine", "Verify the bundle on this machine.")
        for name, array in answers.items():
            self._copy(array.ctypes.data, self._buffers[name], array.nbytes, kinds.cudaMemcpyDeviceToHost)
        self._ask(self._runtime.cudaStreamSynchronize(self._stream))

    def close(self) -> None:
        if self._context is None:
            return
        if self._kept is not None:
            device_cache.write(self._kept, bytes(self._kernels.serialize()))
        self._context = None
        for address in self._buffers.values():
            self._ask(self._runtime.cudaFree(address))
        self._ask(self._runtime.cudaStreamDestroy(self._stream))

    def _copy(self, to: int, source: int, size: int, kind: Any) -> None:
        self._ask(self._runtime.cudaMemcpyAsync(to, source, size, kind, self._stream))

    def _ask(self, answer: tuple[Any, ...]) -> Any:
        """Return what a CUDA call gave, after its error code. Raises DeployError with CUDA's own words."""
        code, *values = answer
        if code != self._runtime.cudaError_t.cudaSuccess:
            said = self._runtime.cudaGetErrorString(code)[1].decode()
            raise DeployError(f"the GPU failed: {said}", "See whether nvidia-smi still answers and has memory left.")
        return values[0] if values else None


def _libraries() -> tuple[Any, Any]:
    if reason := missing():
        raise NotHereError(reason.split(":")[0], f"TensorRT-RTX needs an NVIDIA driver and {INSTALL}")
    try:
        import tensorrt_rtx  # type: ignore[import-untyped]
        from cuda.bindings import runtime  # type: ignore[import-untyped]
    except ImportError as error:
        raise DeployError(f"TensorRT-RTX cannot be loaded: {error}", f"Repair it: {INSTALL}") from error
    return tensorrt_rtx, runtime
