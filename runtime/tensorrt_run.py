"""An engine on the GPU, of TensorRT or TensorRT-RTX: the same calls for both. Not run on hardware: no GPU was at hand.

Buffers for the largest batch stand on the GPU from the start; a run copies in, computes, copies out; a stream's state
stays there. Where the library has no way of its own to record a run as a CUDA graph, one is captured for each set of
shapes and buffers on its second run: the first one lets the library set up what a capture must not see.

What was checked without a GPU: every call exists in TensorRT 10.3 to 11.4 and TensorRT-RTX 1.7 (test_tensorrt_api.py),
and stand-ins for both libraries are driven through it (test_tensorrt_run.py).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from deploy_runtime import dlpack
from deploy_runtime.dlpack import DeviceArray
from deploy_runtime.errors import DeployError
from deploy_runtime.session import Array, Kept, Session
from deploy_runtime.spec import Batch, Tensor
from deploy_runtime.tensorrt_contexts import Contexts

DEVICE = 0  # the first GPU
ALIGNED = 256  # bytes, of an address that TensorRT takes
Key = tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]  # of a recorded run: shapes of the inputs, all addresses


class Opened(Session):
    """`contexts` run the engine, `runtime` is `cuda.bindings.runtime`; `closing` is called before the contexts go."""

    def __init__(
        self,
        runtime: Any,
        contexts: Contexts,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        batch: Batch,
        captures: bool,
        closing: Callable[[], None] = lambda: None,
    ) -> None:
        self._runtime, self._closing = runtime, closing
        self._contexts, self._closed = contexts, False
        self._outputs, self._captures = list(outputs), captures
        self._kinds = runtime.cudaMemcpyKind
        self._graphs = dict[Key, Any]()  # None: run once, not captured yet
        self._stream = self._ask(runtime.cudaStreamCreate())
        self._taken = set[int]()  # addresses of all memory on the GPU
        contexts.of({tensor.name: tensor.at(batch.least) for tensor in inputs}, int(self._stream))  # not at a first run
        tensors = (*inputs, *outputs)
        self._own = {t.name: self.take(math.prod(t.at(batch.most)) * np.dtype(t.dtype).itemsize) for t in tensors}

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Run one batch into new arrays."""
        batch = next(iter(inputs.values())).shape[0]
        answers = {tensor.name: np.empty(tensor.at(batch), tensor.dtype) for tensor in self._outputs}
        self.run_into(inputs, answers)
        return answers

    def run_into(self, inputs: dict[str, Array], answers: Mapping[str, Array]) -> None:
        """Run one batch: copy in what is not there, compute, copy out, and wait for the GPU."""
        self._run_mixed(inputs, answers)

    def run_with(
        self,
        inputs: Mapping[str, Array],
        answers: Mapping[str, Array],
        there: Mapping[str, int],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        """Run one batch of which some tensors stay on the GPU: `there` are their addresses, `shapes` of the inputs."""
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        sizes = {**{name: array.shape for name, array in arrays.items()}, **shapes}
        context = self._contexts.of(sizes, int(self._stream))
        for name, own in self._own.items():
            context.bind(name, there.get(name, own))
        for name, shape in sizes.items():
            context.shape(name, shape)
        for name, array in arrays.items():
            self.upload(array, self._own[name])
        self._compute(context.handle, (tuple(sizes.values()), tuple(context.bound[name] for name in self._own)))
        for name, array in answers.items():
            self.download(self._own[name], array)
        self.wait()

    def view(self, array: Any, name: str) -> DeviceArray:
        """Return where an input lies, ready for this engine's own CUDA stream."""
        found = dlpack.view(array, name, int(self._stream))
        if found.number != DEVICE:
            raise DeployError(
                f"input {name} lives on GPU {found.number}, and the engine on GPU {DEVICE}",
                f"Move it there: {name}.to('cuda:{DEVICE}').",
            )
        return found

    def run_there(self, inputs: Mapping[str, Array | DeviceArray]) -> dict[str, DeviceArray]:
        """Run one batch, reading inputs that are on the GPU where they lie; outputs stay there until the next run."""
        size = self._run_mixed(inputs, {})
        return {
            tensor.name: DeviceArray(
                self._own[tensor.name], tensor.at(size), np.dtype(tensor.dtype), dlpack.CUDA, DEVICE, self
            )
            for tensor in self._outputs
        }

    def _run_mixed(self, inputs: Mapping[str, Array | DeviceArray], answers: Mapping[str, Array]) -> int:
        """Run inputs of both kinds; return the size of the batch."""
        there, shapes, host = dict[str, int](), dict[str, tuple[int, ...]](), dict[str, Array]()
        for name, array in inputs.items():
            if not isinstance(array, DeviceArray):
                host[name] = array
                continue
            shapes[name], there[name] = array.shape, array.address
            if array.address % ALIGNED:
                bytes_ = math.prod(array.shape) * array.dtype.itemsize
                self._copy(self._own[name], array.address, bytes_, self._kinds.cudaMemcpyDeviceToDevice)
                del there[name]
        self.run_with(host, answers, there, shapes)
        return next(iter(inputs.values())).shape[0]

    def carry(self, following: Mapping[str, str], before: Mapping[str, Array]) -> Kept:
        """Return the state of a new stream, which stays on the GPU from step to step."""
        return DeviceKept(self, following, before)

    def take(self, size: int) -> int:
        """Return the address of so many new bytes on the GPU."""
        address = int(self._ask(self._runtime.cudaMalloc(size)))
        self._taken.add(address)
        return address

    def free(self, address: int) -> None:
        """Give memory back, and the recorded runs that use it. Does nothing after `close`, which gave back all."""
        if address not in self._taken:
            return
        for key in [key for key in self._graphs if address in key[1]]:
            self._destroy(self._graphs.pop(key))
        self._contexts.forget(address)
        self._taken.remove(address)
        self._ask(self._runtime.cudaFree(address))

    def upload(self, array: Array, address: int) -> None:
        """Begin to copy an array to the GPU."""
        self._copy(address, array.ctypes.data, array.nbytes, self._kinds.cudaMemcpyHostToDevice)

    def download(self, address: int, array: Array) -> None:
        """Begin to copy an array from the GPU."""
        self._copy(array.ctypes.data, address, array.nbytes, self._kinds.cudaMemcpyDeviceToHost)

    def wait(self) -> None:
        """Wait until everything begun is done."""
        self._ask(self._runtime.cudaStreamSynchronize(self._stream))

    def close(self) -> None:
        """Give the GPU's memory back. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._closing()
        self._contexts.close()
        for graph in self._graphs.values():
            self._destroy(graph)
        self._graphs.clear()
        for address in list(self._taken):
            self.free(address)
        self._ask(self._runtime.cudaStreamDestroy(self._stream))

    def _destroy(self, graph: Any) -> None:
        if graph is not None:
            self._ask(self._runtime.cudaGraphExecDestroy(graph))

    def _compute(self, handle: Any, key: Key) -> None:
        ours = self._taken.issuperset(key[1])  # where a caller's arrays lie is not worth a recording
        if self._captures and ours and key in self._graphs and self._graphs[key] is None:
            self._graphs[key] = self._capture(handle)
        if self._graphs.get(key) is not None:
            self._ask(self._runtime.cudaGraphLaunch(self._graphs[key], self._stream))
            return
        self._enqueue(handle)
        if ours:
            self._graphs.setdefault(key, None)

    def _capture(self, handle: Any) -> Any:
        """Record one run as a CUDA graph; None where this engine cannot be recorded, and it is never tried again."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._ask(self._runtime.cudaStreamBeginCapture(self._stream, mode))
        ran = handle.execute_async_v3(int(self._stream))
        code, graph = self._runtime.cudaStreamEndCapture(self._stream)
        if not ran or code != self._runtime.cudaError_t.cudaSuccess:
            self._runtime.cudaGetLastError()  # clears it
            self._captures = False
            return None
        try:
            return self._ask(self._runtime.cudaGraphInstantiate(graph, 0))
        finally:
            self._ask(self._runtime.cudaGraphDestroy(graph))

    def _enqueue(self, handle: Any) -> None:
        if not handle.execute_async_v3(int(self._stream)):
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


class DeviceKept(Kept):
    """State on the GPU in two sets of buffers: a run reads one, writes the other, and they change places."""

    def __init__(self, opened: Opened, following: Mapping[str, str], before: Mapping[str, Array]) -> None:
        self._opened, self._following = opened, following
        self._like = {name: (array.shape, array.dtype) for name, array in before.items()}
        self._shapes = {name: array.shape for name, array in before.items()}
        self._before = {name: opened.take(array.nbytes) for name, array in before.items()}
        self._after = {name: opened.take(array.nbytes) for name, array in before.items()}
        self.write(before)

    def run_into(self, inputs: Mapping[str, Array], answers: Mapping[str, Array]) -> None:
        """Run one chunk and take turns; only frames go up and answers come down."""
        following = {output: self._after[name] for name, output in self._following.items()}
        self._opened.run_with(inputs, answers, {**self._before, **following}, self._shapes)
        self._before, self._after = self._after, self._before

    def read(self) -> dict[str, Array]:
        """Copy it from the GPU."""
        arrays = {name: np.empty(shape, dtype) for name, (shape, dtype) in self._like.items()}
        for name, array in arrays.items():
            self._opened.download(self._before[name], array)
        self._opened.wait()
        return arrays

    def write(self, state: Mapping[str, Array]) -> None:
        """Copy it to the GPU."""
        arrays = {name: np.ascontiguousarray(array) for name, array in state.items()}
        for name, array in arrays.items():
            self._opened.upload(array, self._before[name])
        self._opened.wait()

    def close(self) -> None:
        """Free both sets."""
        for address in (*self._before.values(), *self._after.values()):
            self._opened.free(address)
