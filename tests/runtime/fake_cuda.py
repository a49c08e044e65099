"""CUDA's runtime on the host's memory, for tests of how our code moves data and records runs. No GPU is in it."""

import ctypes
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def _nothing() -> None:
    raise AssertionError("a graph was launched before one was recorded")


class FakeCuda:
    """CUDA's runtime as `cuda.bindings` gives it, on the host's memory; what is captured runs when it is launched."""

    def __init__(self, captures: bool = True) -> None:
        self.captures, self.memory, self.calls = captures, dict[int, Any](), list[str]()
        self.capturing, self.recorded, self.refuses = False, _nothing, ""
        self.cudaError_t = SimpleNamespace(cudaSuccess=0)
        self.cudaMemcpyKind = SimpleNamespace(
            cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3
        )
        self.cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def call(*args: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            if name == self.refuses:
                return 2, None
            return self._answer(name, args)

        return call

    def _answer(self, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if name == "cudaMalloc":
            buffer = ctypes.create_string_buffer(args[0])
            self.memory[ctypes.addressof(buffer)] = buffer
            return 0, ctypes.addressof(buffer)
        if name == "cudaFree":
            del self.memory[args[0]]
        if name == "cudaMemcpyAsync":
            ctypes.memmove(args[0], args[1], args[2])
        if name in ("cudaStreamBeginCapture", "cudaStreamEndCapture"):
            self.capturing = name == "cudaStreamBeginCapture"
        if name == "cudaGraphLaunch":
            self.recorded()
        if name == "cudaStreamEndCapture":
            return (0, "graph") if self.captures else (900, None)
        values = {
            "cudaStreamCreate": (7,),
            "cudaGraphInstantiate": ("recorded",),
            "cudaGetErrorString": (b"no memory",),
        }
        return (0, *values.get(name, ()))


def at(address: int, shape: Sequence[int]) -> Array:
    """Return the float32 array that lies at an address."""
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).reshape(shape)
