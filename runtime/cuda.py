"""Whether an NVIDIA driver is here, asked of the driver itself before any TensorRT library is loaded.

The trap this stands for: without a driver TensorRT's runtime does not fail, it kills the process. So `cuInit` comes
first, through ctypes, and nothing else of NVIDIA's is touched until it said yes.
"""

import ctypes
import sys
from functools import cache

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR, cuda.h
MULTIPROCESSORS = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


@cache
def driver() -> str | None:
    """Return why no NVIDIA GPU can be used here, as a short sentence without a full stop; None where one can."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return "no NVIDIA driver found"
    code = int(library.cuInit(0))
    if code == NO_DEVICE:
        return "the NVIDIA driver finds no GPU"
    if code:
        return f"the NVIDIA driver does not start (cuInit gave {code})"
    count = ctypes.c_int(0)
    library.cuDeviceGetCount(ctypes.byref(count))
    return None if count.value else "the NVIDIA driver finds no GPU"


def compute_capability() -> tuple[int, int] | None:
    """Return the compute capability of the first GPU, e.g. (8, 6); None where there is no GPU."""
    found = _attributes(MAJOR, MINOR)
    return None if found is None else (found[0], found[1])


def multiprocessors() -> int:
    """Return the number of streaming multiprocessors of the first GPU; 0 where there is no GPU."""
    return (_attributes(MULTIPROCESSORS) or (0,))[0]


def driver_version() -> str | None:
    """Return the newest CUDA that the driver serves, e.g. `12.6`; None where there is none."""
    if driver() is not None:
        return None
    number = ctypes.c_int(0)
    if ctypes.CDLL(LIBRARY).cuDriverGetVersion(ctypes.byref(number)):
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def _attributes(*wanted: int) -> tuple[int, ...] | None:
    if driver() is not None:
        return None
    library, device, value = ctypes.CDLL(LIBRARY), ctypes.c_int(0), ctypes.c_int(0)
    if library.cuDeviceGet(ctypes.byref(device), 0):
        return None
    found = []
    for attribute in wanted:
        if library.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
            return None
        found.append(value.value)
    return tuple(found)


def gpu() -> str:
    """Return the name of the first GPU, empty where there is none."""
    if driver() is not None:
        return ""
    library, device = ctypes.CDLL(LIBRARY), ctypes.c_int(0)
    name = ctypes.create_string_buffer(256)
    if library.cuDeviceGet(ctypes.byref(device), 0) or library.cuDeviceGetName(name, 256, device):
        return ""
    return name.value.decode(errors="replace")
