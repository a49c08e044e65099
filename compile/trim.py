"""Memory that is free is given back to the system: glibc keeps what it once took for small pieces, by default.

A graph's weights are pieces of some MB each, and glibc takes those from its own heap once the first such piece was
freed. A ViT-H (2.5 GB) left 10 GiB of nothing in the process that waits for the builds to come.
"""

import ctypes
import gc
import mmap
import sys
from pathlib import Path

MUCH = 3 * 2**29  # bytes held from which the half second pays that it takes to find objects which hold each other


def trim() -> None:
    """Give back what this process holds and does not use: milliseconds. Does nothing where there is no glibc."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if give_back is None:
        return
    give_back(0)
    if held() > MUCH:
        gc.collect()
        give_back(0)


def held() -> int:
    """Return the bytes of memory that this process holds. Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
