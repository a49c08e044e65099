"""One candidate in a process of its own, proved on the golden samples first and then timed turn by turn.

A library that crashes takes its own process with it, and whoever times passes the candidate over. The trap: a process
costs a second to start and a copy of the weights; close it (leave the `with`) as soon as the times are there.
"""

import multiprocessing
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from deploy_runtime import golden, timing
from deploy_runtime.evidence import Candidate, Manifest
from deploy_runtime.model import open_session

DIED = "it died while it was timed"
OPEN_S, TURN_S = 600.0, 300.0  # the longest that one may take to open and pass, and for two runs


def times(
    engines: Mapping[str, tuple[Path, Manifest, Candidate]],
    threads: int,
    seconds: float,
    baseline: str | None = None,
    patience: int = 0,
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, str]]:
    """Time candidates (folder, manifest, row) taking turns; seconds by round, and why others were passed over, by name.

    No times where none passes, or where the `baseline` does not or is left alone. `patience` is that of
    `timing.interleave_survivors`.
    """
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        opened = {name: stack.enter_context(EngineProcess(*engine, threads)) for name, engine in engines.items()}
        for name, process in list(opened.items()):
            if reason := process.opened():
                failed[name] = reason
                del opened[name]
        turns = {name: partial(process.turn, name) for name, process in opened.items()}
        return timing.interleave_survivors(turns, failed, seconds, baseline, patience=patience), failed


class EngineProcess:
    """A candidate of a bundle. A context manager; ask `opened` before the first `turn`."""

    def __init__(self, folder: Path, found: Manifest, row: Candidate, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child, folder, found, row, threads), daemon=True)
        self._process.start()
        child.close()

    def opened(self) -> str:
        """Wait until it stands and has passed; why it did not, or nothing."""
        try:
            return str(self._pipe.recv()) if self._pipe.poll(OPEN_S) else f"it did not open within {OPEN_S:g} s"
        except EOFError:
            return "it died while it was opened"

    def turn(self, name: str) -> float:
        """Return the seconds of a warm run."""
        try:
            self._pipe.send("turn")
            if self._pipe.poll(TURN_S):
                return float(self._pipe.recv())
        except (EOFError, OSError) as error:
            raise timing.Died(name, DIED) from error
        raise timing.Died(name, DIED)

    def __enter__(self) -> "EngineProcess":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pipe.close()  # the child ends with it
        self._process.join(1.0)
        self._process.kill()
        self._process.join()


def _serve(pipe: Connection, folder: Path, found: Manifest, row: Candidate, threads: int) -> None:
    """Run in the process: prove the candidate, then answer turns until the pipe closes."""
    samples = golden.read(folder, "inputs", found.inputs, found.golden.samples)
    answers = golden.read(folder, "outputs", found.outputs, found.golden.samples)
    proved = golden.run(folder, found, row, samples, answers, threads)
    if proved.outcome != "passed":
        pipe.send(proved.detail)
        return
    size = found.batch.best
    given = {name: np.resize(array, (size, *array.shape[1:])) for name, array in samples.items()}
    with open_session(folder, found, row, threads) as session:
        pipe.send("")
        while _asked(pipe):
            pipe.send(timing.warm(lambda: session.run(given)))


def _asked(pipe: Connection) -> bool:
    try:
        pipe.recv()
    except EOFError:
        return False
    return True
