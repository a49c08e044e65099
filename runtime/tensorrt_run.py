"""An engine on the GPU, of TensorRT or TensorRT-RTX: the same calls for both. Not run on hardware: no GPU was at hand.

Buffers for the largest batch stand on the GPU from the start; a run copies in, computes, copies out. Where the library
has no way of its own to record a run as a CUDA graph, one is captured for each shape on its second run: the first one
lets the library set up what a capture must not see. What was checked without a GPU: every call exists in TensorRT
10.3, 10.16, 11.0, 11.4 and TensorRT-RTX 1.7 (tests/runtime/test_tensorrt_api.py).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from deploy_runtime.errors import DeployError
from deploy_runtime.session import Array, Session
from deploy_runtime.spec import Batch, Tensor

Shapes = tuple[tuple[int, ...], ...]


class Opened(Session):
    """`context` runs the engine, `runtime` is `cuda.bindings.runtime`; `closing` is called before the context goes."""

    def __init__(
        self,
        runtime: Any,
        context: Any,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        batch: Batch,
        captures: bool,
        closing: Callable[[], None] = lambda: None,
    ) -> None:
        if context is None:
            raise DeployError("the GPU has no memory left for this engine", "Free some, or use a smaller batch.")
        self._runtime, self._closing = runtime, closing
        self._context: Any = context
        self._inputs, self._outputs, self._captures = list(inputs), list(outputs), captures
        self._buffers, self._graphs = dict[str, int](), dict[Shapes, Any]()  # None: run once, not captured yet
        self._stream = self._ask(runtime.cudaStreamCreate())
        for tensor in (*inputs, *outputs):
            size = math.prod(tensor.at(batch.most)) * np.dtype(tensor.dtype).itemsize
            self._buffers[tensor.name] = int(self._ask(runtime.cudaMalloc(size)))
            self._context.set_tensor_address(tensor.name, self._buffers[tensor.name])

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Run one batch into new arrays."""
        batch = len(next(iter(inputs.values())))
        answers = {tensor.name: np.empty(tensor.at(batch), tensor.dtype) for tensor in self._outputs}
        self.run_into(inputs, answers)
        return answers

    def run_into(self, inputs: dict[str, Array], answers: Mapping[str, Array]) -> None:
        """Run one batch: copy in, compute, copy out, and wait for the GPU."""
        kinds = self._runtime.cudaMemcpyKind
        arrays = {tensor.name: np.ascontiguousarray(inputs[tensor.name]) for tensor in self._inputs}
        for name, array in arrays.items():
            self._context.set_input_shape(name, array.shape)
            self._copy(self._buffers[name], array.ctypes.data, array.nbytes, kinds.cudaMemcpyHostToDevice)
        self._compute(tuple(array.shape for array in arrays.values()))
        for name, array in answers.items():
            self._copy(array.ctypes.data, self._buffers[name], array.nbytes, kinds.cudaMemcpyDeviceToHost)
        self._ask(self._runtime.cudaStreamSynchronize(self._stream))

    def close(self) -> None:
        """Give the GPU's memory back. May be called twice."""
        if self._context is None:
            return
        self._closing()
        self._context = None
        for graph in self._graphs.values():
            if graph is not None:
                self._ask(self._runtime.cudaGraphExecDestroy(graph))
        for address in self._buffers.values():
            self._ask(self._runtime.cudaFree(address))
        self._ask(self._runtime.cudaStreamDestroy(self._stream))

    def _compute(self, shapes: Shapes) -> None:
        if self._graphs.get(shapes) is not None:
            self._ask(self._runtime.cudaGraphLaunch(self._graphs[shapes], self._stream))
            return
        if self._captures and shapes in self._graphs:
            self._graphs[shapes] = self._capture()
        if self._graphs.get(shapes) is not None:
            self._ask(self._runtime.cudaGraphLaunch(self._graphs[shapes], self._stream))
            return
        self._enqueue()
        self._graphs.setdefault(shapes, None)

    def _capture(self) -> Any:
        """Record one run as a CUDA graph; None where this engine cannot be recorded, and it is never tried again."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._ask(self._runtime.cudaStreamBeginCapture(self._stream, mode))
        ran = self._context.execute_async_v3(int(self._stream))
        code, graph = self._runtime.cudaStreamEndCapture(self._stream)
        if not ran or code != self._runtime.cudaError_t.cudaSuccess:
            self._runtime.cudaGetLastError()  # clears it
            self._captures = False
            return None
        try:
            return self._ask(self._runtime.cudaGraphInstantiate(graph, 0))
        finally:
            self._ask(self._runtime.cudaGraphDestroy(graph))

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(int(self._stream)):
            raise DeployError("TensorRT did not run the engine", "Verify the bundle on this machine.")

    def _copy(self, to: int, source: int, size: int, kind: Any) -> None:
        self._ask(self._runtime.cudaMemcpyAsync(to, source, size, kind, self._stream))

    def _ask(self, answer: tuple[Any, ...]) -> Any:
        """Return what a CUDA call gave, after its error code. Raises DeployError with CUDA's own words."""
        code, *values = answer
        if code != self._runtime.cudaError_t.cudaSuccess:
            said = self._runtime.cudaGetErrorString(code)[1].decode()
            raise DeployError(f"the GPU failed: {said}", "See whether nvidia-smi still answers and has memory left.")
        return values[0] if values else None
