"""Functions run in processes of their own, so that a library that crashes or eats the memory is a row, not the end.

A `Worker` runs importable functions by name, in a fresh interpreter, and either gives back their value or raises
what explains its absence:

    DeployError, built-in exceptions    what the function itself raised, same type
    Crashed                             the process died, gave no answer in time, or a library raised its own error

What native code prints goes to a file whose last lines ride on `Crashed.log`, never to the user's terminal. The
worker dies with its parent: its pipe ends, and on Linux the kernel kills it. The trap: that kernel signal is bound to
the *thread* that started the worker, so a Worker must not outlive the thread that opened it.

Parent and child talk over the child's own standard input and output, pickled messages behind an 8-byte length;
nobody else can write there, since the child moves both away before it imports anything.
"""

import contextlib
import importlib
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from types import TracebackType
from typing import IO, Any, BinaryIO

from deploy_compile.trim import trim
from deploy_runtime.errors import DeployError

TIMEOUT_S = 600.0  # the longest that one call may take unless its caller says otherwise
CLOSE_S = 5.0  # how long a worker has for its own clean end before it is killed
LOG_BYTES = 64 * 1024  # how much of a worker's output is looked at
LOG_LINES = 20  # how many last lines of it are kept
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# Idle threads sleep instead of spinning, or one worker would slow the next one's turn.
QUIET_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
MEMORY_WORDS = ("std::bad_alloc", "out of memory", "cannot allocate memory", "failed to allocate memory")
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Crashed(Exception):  # noqa: N818 - named as the status that it becomes
    """No value came back. `reason` is one plain line, `log` the last lines that the process printed."""

    def __init__(self, reason: str, log: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.log = log


class Worker:
    """A process that runs functions by name, one at a time. A context manager; see the module for its errors.

    `threads` pins the OpenMP, MKL and OpenBLAS threads of the process. A worker that has raised Crashed because it
    died or was too slow is closed.
    """

    def __init__(self, threads: int | None = None) -> None:
        environment = {**os.environ, **QUIET_THREADS}
        if threads is not None:
            environment.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        # -P: a module in the user's folder that is called `onnx` must not hide the real one.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "deploy_compile.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
        )
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        self._send((os.getpid(), sys.path))

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def call(self, function: str, *args: Any, timeout_s: float = TIMEOUT_S) -> Any:
        """Run `function`, written `module:name`, on plain (picklable) arguments and return what it returns."""
        return self._ask(("call", function, args), timeout_s)

    def hold(self, function: str, *args: Any, timeout_s: float = TIMEOUT_S) -> None:
        """Run `function` and keep the object that it returns inside the worker."""
        self._ask(("hold", function, args), timeout_s)

    def held(self, method: str, *args: Any, timeout_s: float = TIMEOUT_S) -> Any:
        """Call a method of the object kept by `hold` and return what it returns."""
        return self._ask(("held", method, args), timeout_s)

    def close(self) -> None:
        """End the process and give its resources back. Safe to call twice."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died first, with something unread
            self._process.stdin.close()
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _ask(self, message: tuple[str, str, tuple[Any, ...]], timeout_s: float) -> Any:
        self._send(message)
        try:
            answer = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            self._process.kill()
            self._process.wait()
            raise self._crashed(f"no answer in {timeout_s:g} s") from None
        if answer is None:
            raise self._crashed(_death(self._process.wait()))
        kind, value = answer
        if kind == "value":
            return value
        if kind == "raised":
            raise value
        log = self._tail()
        raise Crashed(value, log)

    def _send(self, message: Any) -> None:
        assert self._process.stdin is not None
        try:
            _write(self._process.stdin, message)
        except (BrokenPipeError, ValueError):  # ValueError: the pipe was closed after an earlier crash
            raise self._crashed(_death(self._process.wait())) from None

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            while (answer := _read(pipe)) is not None:
                self._answers.put(answer)
        self._answers.put(None)

    def _crashed(self, reason: str) -> Crashed:
        crash = Crashed(reason, self._tail())
        self.close()
        return crash

    def _tail(self) -> str:
        if self._log.closed:
            return ""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - LOG_BYTES))
        lines = self._log.read().decode(errors="replace").splitlines()
        return "\n".join(line for line in lines[-LOG_LINES:] if line.strip())


def call(function: str, *args: Any, timeout_s: float = TIMEOUT_S, threads: int | None = None) -> Any:
    """Run one function in a fresh process and return what it returns; see the module for what it may raise."""
    with Worker(threads) as worker:
        return worker.call(function, *args, timeout_s=timeout_s)


def _death(code: int) -> str:
    """Say in words how a process ended."""
    if code == -signal.SIGKILL:
        return "killed by signal 9 (SIGKILL): most likely it ran out of memory"
    if code < 0:
        return f"killed by signal {-code} ({signal.Signals(-code).name})"
    return f"ended by itself with exit code {code}"


def _write(pipe: BinaryIO | IO[bytes], message: Any) -> None:
    body = pickle.dumps(message)
    pipe.write(struct.pack("<Q", len(body)) + body)
    pipe.flush()


def _read(pipe: BinaryIO | IO[bytes]) -> Any:
    """Return the next message, or None at the end of the pipe."""
    head = pipe.read(8)
    if len(head) < 8:
        return None
    (length,) = struct.unpack("<Q", head)
    body = pipe.read(length)
    return pickle.loads(body) if len(body) == length else None  # our own process wrote it, nobody else can


# What follows runs in the child.


def _serve() -> None:
    """Answer messages until the parent closes the pipe."""
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # native code prints where it likes: both streams end in the log
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it closes us
    parent, path = _read(questions)
    _die_with(parent)
    sys.path.extend(entry for entry in path if entry not in sys.path)
    todo: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_hear, args=(questions, todo), daemon=True).start()
    kept: list[Any] = []
    while True:
        kind, name, args = todo.get()
        _write(answers, _answer(kind, name, args, kept))


def _hear(questions: BinaryIO, todo: "queue.SimpleQueue[Any]") -> None:
    """Queue what the parent asks; end the process with the pipe, even in the middle of a call."""
    while (message := _read(questions)) is not None:
        todo.put(message)
    os._exit(0)


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(0)


def _answer(kind: str, name: str, args: tuple[Any, ...], kept: list[Any]) -> tuple[str, Any]:
    try:
        if kind == "held":
            return _sendable(getattr(kept[0], name)(*args))
        module, _, function = name.partition(":")
        value = getattr(importlib.import_module(module), function)(*args)
        if kind == "hold":
            kept[:] = [value]
            trim()
            return "value", None
        return _sendable(value)
    except MemoryError:
        return "crashed", "ran out of memory"
    except Exception as error:
        traceback.print_exc()
        return _told(error)


def _sendable(value: Any) -> tuple[str, Any]:
    pickle.dumps(value)  # raises here, where it can be told, rather than in the middle of a message
    return "value", value


def _told(error: Exception) -> tuple[str, Any]:
    """Hand over our own and Python's errors as they are; what a library raises becomes a plain line."""
    text = str(error)
    if any(word in text.lower() for word in MEMORY_WORDS):
        return "crashed", "ran out of memory"
    ours = isinstance(error, DeployError) or (type(error).__module__ == "builtins" and type(error) is not RuntimeError)
    if ours:
        if not isinstance(error, DeployError):
            error.add_note(f"in a worker process:\n{traceback.format_exc()}")
        error.__traceback__ = error.__cause__ = error.__context__ = None
        return "raised", error
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    return "crashed", f"{type(error).__name__}: {' '.join(lines)[:600]}"


if __name__ == "__main__":
    # Pickle must find one Crashed and one DeployError, so the module is used under its own name, not as __main__.
    importlib.import_module("deploy_compile.worker")._serve()
