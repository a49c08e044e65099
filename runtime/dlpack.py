"""Arrays on a GPU by DLPack, without a copy: those of PyTorch, CuPy or JAX read where they lie, ours given to them.

The structures are those of dlpack.h 0.8, which every library still speaks where no version is asked for; the protocol
is the Python array API's (`__dlpack__`, `__dlpack_device__`). The trap: a capsule that nobody took frees its memory
when it goes, so whoever reads an address keeps the capsule until the run is over.
"""

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy_runtime.errors import DeployError

CPU, CUDA = 1, 2  # kDLCPU, kDLCUDA
NAME = b"dltensor"
_KINDS = {0: "i", 1: "u", 2: "f"}  # kDLInt, kDLUInt, kDLFloat


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("number", ctypes.c_int32))


class _Type(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("axes", ctypes.c_int32),
        ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_api = ctypes.pythonapi  # its functions are prototyped here: their own attributes belong to every module of the process
_content = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _Destructor)(("PyCapsule_New", _api))
# As a number: the capsule that a destructor is told of has no owner any more, and must not get one.
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))

_given: dict[int, tuple[_Managed, Any]] = {}  # what others hold of ours, by the address of its structure


@dataclass(frozen=True)
class DeviceArray:
    """A dense array where it lies: `address` on device `kind` and `number`; `owner` keeps it there.

    Hand it to `torch.from_dlpack`, `cupy.from_dlpack` or the like. The outputs of an engine are written over at its
    next run.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    kind: int
    number: int
    owner: Any = None

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, self.number

    def __dlpack__(self, stream: Any = None, **_: Any) -> Any:
        """Return the capsule; the data is complete, since a run waits for the GPU, whatever `stream` reads it."""
        code = {kind: code for code, kind in _KINDS.items()}[self.dtype.kind]
        made = _Managed()
        shape = (ctypes.c_int64 * len(self.shape))(*self.shape)
        made.tensor = _Tensor(
            self.address, _Device(self.kind, self.number), len(self.shape), _Type(code, 8 * self.dtype.itemsize, 1),
            shape, None, 0,
        )  # fmt: skip
        made.deleter = _forget
        _given[ctypes.addressof(made)] = (made, (shape, self.owner))
        return _capsule(ctypes.addressof(made), NAME, _unclaimed)


def _released(managed: Any) -> None:
    _given.pop(ctypes.addressof(managed.contents), None)


def _dropped(capsule: int) -> None:
    """Free what nobody took: whoever takes a capsule gives it another name, and calls the deleter later."""
    if _is_valid(capsule, NAME):
        _given.pop(_pointer(capsule, NAME), None)


_forget, _unclaimed = _Deleter(_released), _Destructor(_dropped)  # kept: C holds their addresses


def on_gpu(array: object) -> bool:
    """Whether an array says that it lives on an NVIDIA GPU."""
    asked = getattr(array, "__dlpack_device__", None)
    return asked is not None and not isinstance(array, np.ndarray) and int(asked()[0]) == CUDA


def view(array: Any, name: str, stream: int | None = None) -> DeviceArray:
    """Return where an array lies, whole and dense, for a run on the CUDA `stream`; its owner is kept with it.

    Raises DeployError for one that is not dense, or of a type that no engine takes.
    """
    kind, number = array.__dlpack_device__()
    capsule = array.__dlpack__() if stream is None else array.__dlpack__(stream=stream)
    address = _content(capsule, NAME)
    tensor = ctypes.cast(address, ctypes.POINTER(_Managed)).contents.tensor
    shape = tuple(tensor.shape[axis] for axis in range(tensor.axes))
    strides = tuple(tensor.strides[axis] for axis in range(tensor.axes)) if tensor.strides else _dense(shape)
    wanted = _dense(shape)
    dense = 0 in shape or all(size < 2 or strides[axis] == wanted[axis] for axis, size in enumerate(shape))
    if not dense:
        raise DeployError(f"input {name} is not dense in memory", f"Give {name}.contiguous(), or a copy of it.")
    if tensor.dtype.code not in _KINDS or tensor.dtype.lanes != 1:
        raise DeployError(f"input {name} is of a type that no engine takes", "Convert it to float32.")
    dtype = np.dtype(f"{_KINDS[tensor.dtype.code]}{tensor.dtype.bits // 8}")
    return DeviceArray((tensor.data or 0) + tensor.offset, shape, dtype, int(kind), int(number), (array, capsule))


def _dense(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
