import sys
from pathlib import Path

import pytest

from deploy_compile.trim import trim

PIECES, BYTES = 2000, 100_000  # each small enough for glibc's own heap


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="no other system tells in /proc what a process holds")
def test_what_is_free_between_pieces_in_use_goes_back() -> None:
    pieces = [bytearray(BYTES) for _ in range(PIECES)]
    del pieces[:-1]  # the last one keeps the heap from shrinking by itself
    before = resident()
    trim()
    assert before - resident() > PIECES * BYTES / 2
    assert len(pieces[0]) == BYTES
