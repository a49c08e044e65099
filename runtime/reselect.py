"""Time a bundle's candidates on the machine at hand, and choose again by the rule that the builder used.

Every candidate is opened in a process of its own, answers the golden samples there first, and is timed only where they
pass; then all take turns. A library that crashes takes its own process with it, and its candidate is passed over.
"""

import multiprocessing
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from deploy_runtime import check, manifest, preference, selection, timing
from deploy_runtime.errors import GateError
from deploy_runtime.evidence import Candidate, Manifest
from deploy_runtime.model import open_session, usual_threads
from deploy_runtime.preference import Preference, Timed

SECONDS = 20.0  # for all candidates together, once they are open
DIED = "it died while it was timed"
OPEN_S, TURN_S = 600.0, 300.0  # the longest that one may take to open and pass, and for two runs


def reselect(
    bundle: str | Path, threads: int | None = None, seconds: float = SECONDS
) -> tuple[Preference, Mapping[str, str]]:
    """Choose again here and remember it; also return why candidates were passed over, by name.

    Raises DeployError for a bundle that is damaged, and GateError where no candidate passes here.
    """
    folder = Path(bundle)
    found = manifest.read(folder)
    manifest.verify_files(folder, found)
    digest = manifest.digest(folder)
    rows = {row.name: row for row in selection.order(found, digest).usable}
    cores = threads or usual_threads(found)
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        opened = {name: stack.enter_context(_Timed(folder, found, row, cores)) for name, row in rows.items()}
        for name, process in list(opened.items()):
            if reason := process.opened():
                failed[name] = reason
                del opened[name]
        turns = {name: partial(process.turn, name) for name, process in opened.items()}
        times = timing.interleave_survivors(turns, failed, seconds)
    if not times:
        raise GateError(
            f"no candidate of {found.name} passes here",
            "; ".join(f"{name}: {reason}" for name, reason in failed.items()) or "Run verify to see why.",
        )
    chosen, timed = _choose(rows, times)
    preferred = Preference(chosen, cores, datetime.now(UTC).date().isoformat(), timed)
    preference.keep(digest, list(rows.values()), preferred)
    return preferred, failed


def _choose(rows: Mapping[str, Candidate], times: Mapping[str, np.ndarray[Any, Any]]) -> tuple[str, tuple[Timed, ...]]:
    fastest = min(times, key=lambda name: float(np.median(times[name])))
    timed = {
        name: Timed(name, float(np.median(own)) * timing.MS, *timing.ratio_interval(own, times[fastest]))
        for name, own in times.items()
    }
    order = sorted(timed.values(), key=lambda one: one.milliseconds)
    rivals = {one.candidate: one.lag for one in order if one.candidate == fastest or one.lag_low <= 1.0}
    chosen = selection.simplest({name: rows[name].precision for name in rivals}, rivals)
    return chosen, tuple(order)


class _Timed:
    """One candidate in a process of its own."""

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
        """Run once to warm up, then once more, and return the seconds of that."""
        try:
            self._pipe.send("turn")
            if self._pipe.poll(TURN_S):
                return float(self._pipe.recv())
        except (EOFError, OSError) as error:
            raise timing.Died(name, DIED) from error
        raise timing.Died(name, DIED)

    def __enter__(self) -> "_Timed":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pipe.close()  # the child ends with it
        self._process.join(1.0)
        self._process.kill()
        self._process.join()


def _serve(pipe: Connection, folder: Path, found: Manifest, row: Candidate, threads: int) -> None:
    """Run in the process: prove the candidate, then answer turns until the pipe closes."""
    samples = check.golden(folder, "inputs", found.inputs, found.golden.samples)
    answers = check.golden(folder, "outputs", found.outputs, found.golden.samples)
    proved = check.run_golden(folder, found, row, samples, answers, threads)
    if proved.outcome != "passed":
        pipe.send(proved.detail)
        return
    size = found.batch.best
    given = {name: np.resize(array, (size, *array.shape[1:])) for name, array in samples.items()}
    with open_session(folder, found, row, threads) as session:
        pipe.send("")
        while _asked(pipe):
            session.run(given)
            begun = time.perf_counter()
            session.run(given)
            pipe.send(time.perf_counter() - begun)


def _asked(pipe: Connection) -> bool:
    try:
        pipe.recv()
    except EOFError:
        return False
    return True


def said(found: Preference, failed: Mapping[str, str]) -> Sequence[str]:
    """Return what a person reads: every candidate with its time, the chosen one marked, and what was passed over."""
    lines = [
        f"{'->' if one.candidate == found.chosen else '  '} {one.candidate:24s} {one.milliseconds:9.2f} ms  "
        f"{one.lag:.2f}x the fastest ({one.lag_low:.2f} to {one.lag_high:.2f})"
        for one in found.timed
    ]
    lines += [f"   {name:24s} passed over: {reason}" for name, reason in failed.items()]
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    return [*lines, f"{found.chosen} is what `load` takes on this machine from now on ({threads})"]
