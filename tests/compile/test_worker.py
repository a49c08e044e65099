import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy_compile.worker import Crashed, Worker, call
from deploy_runtime.errors import UsageError

OURS = """
import os, ctypes
from deploy_runtime.errors import UsageError

def refuse(): raise UsageError("the value 3 is odd", "Give an even one.")
def segfault(): print("about to read address zero", flush=True); os.kill(os.getpid(), 11)
def alarm(text): raise RuntimeError(text)
def hungry(): raise MemoryError
def shout(): os.write(1, b"to stdout\\n"); os.write(2, b"to stderr\\n"); return "quiet"
def threads(): return os.environ["OMP_NUM_THREADS"]
def closure(): return lambda: 0

class Counter:
    def __init__(self, start): self.value = start
    def add(self, step): self.value += step; return self.value
"""


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "worked.py").write_text(OURS)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_value_comes_back() -> None:
    assert call("math:sqrt", 9.0) == 3.0


def test_a_deploy_error_keeps_its_type_and_words(ours: None) -> None:
    with pytest.raises(UsageError) as caught:
        call("worked:refuse")
    assert (caught.value.message, caught.value.fix) == ("the value 3 is odd", "Give an even one.")


def test_a_bug_of_ours_stays_an_ordinary_exception_with_its_traceback() -> None:
    with pytest.raises(TypeError) as caught:
        call("math:sqrt", "nine")
    assert "worker.py" in caught.value.__notes__[0]


def test_a_segfault_is_a_plain_reason_with_the_last_output(ours: None) -> None:
    with pytest.raises(Crashed, match=r"killed by signal 11 \(SIGSEGV\)") as caught:
        call("worked:segfault")
    assert caught.value.log == "about to read address zero"


@pytest.mark.parametrize(
    ("function", "args", "reason"),
    [
        ("worked:alarm", ("the engine said no\nin two lines",), "RuntimeError: the engine said no in two lines"),
        ("worked:alarm", ("std::bad_alloc",), "ran out of memory"),
        ("worked:hungry", (), "ran out of memory"),
        ("os:_exit", (3,), "ended by itself with exit code 3"),
    ],
)
def test_other_ends_are_plain_reasons(ours: None, function: str, args: tuple[object, ...], reason: str) -> None:
    with pytest.raises(Crashed, match=f"^{reason}$"):
        call(function, *args)


def test_a_call_that_takes_too_long_is_killed() -> None:
    begun = time.monotonic()
    with pytest.raises(Crashed, match=r"no answer in 0\.3 s"):
        call("time:sleep", 60, timeout_s=0.3)
    assert time.monotonic() - begun < 5


def test_nothing_leaks_onto_the_terminal(ours: None, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("worked:shout") == "quiet"
    assert capfd.readouterr() == ("", "")


def test_threads_are_pinned(ours: None) -> None:
    assert call("worked:threads", threads=3) == "3"


def test_a_value_that_cannot_travel_does_not_break_the_pipe(ours: None) -> None:
    with Worker() as worker:
        with pytest.raises((Crashed, AttributeError)):
            worker.call("worked:closure")
        assert worker.call("math:sqrt", 4.0) == 2.0


def test_an_object_is_held_between_calls(ours: None) -> None:
    with Worker() as worker:
        worker.hold("worked:Counter", 10)
        assert [worker.held("add", step) for step in (1, 2)] == [11, 13]


def test_a_dead_worker_stays_dead(ours: None) -> None:
    with Worker() as worker:
        with pytest.raises(Crashed, match="SIGSEGV"):
            worker.call("worked:segfault")
        with pytest.raises(Crashed, match="SIGSEGV"):
            worker.call("math:sqrt", 4.0)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_dies_with_its_parent(end: signal.Signals) -> None:
    program = (
        "from deploy_compile.worker import Worker\n"
        "with Worker() as worker:\n"
        "    print(worker.call('os:getpid'), flush=True)\n"
        "    worker.call('time:sleep', 600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout as printed:
        child = int(printed.readline())
        assert alive(child)
        os.kill(parent.pid, end)
        parent.wait()
    deadline = time.monotonic() + 5
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(child)
