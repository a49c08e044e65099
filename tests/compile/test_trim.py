import sys

import pytest

from deploy_compile import trim as trimming
from deploy_compile.trim import held, trim

PIECES, BYTES = 2000, 100_000  # each small enough for glibc's own heap

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells in /proc what a process holds")


def test_what_is_free_between_pieces_in_use_goes_back() -> None:
    pieces = [bytearray(BYTES) for _ in range(PIECES)]
    del pieces[:-1]  # the last one keeps the heap from shrinking by itself
    before = held()
    trim()
    assert before - held() > PIECES * BYTES / 2
    assert len(pieces[0]) == BYTES


def test_what_only_holds_itself_goes_where_much_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    circle: list[object] = [bytearray(PIECES * BYTES)]
    circle.append(circle)
    del circle
    before = held()
    monkeypatch.setattr(trimming, "MUCH", 0)
    trim()
    assert before - held() > PIECES * BYTES / 2
