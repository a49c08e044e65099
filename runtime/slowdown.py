"""Is a bundle slower here than its base? What `load` would open of each is timed, both taking turns in one run.

A slowdown counts only where the near end of its interval is beyond the allowance, and shows a second time in new
processes: nothing inside the noise is called a regression. What is too noisy to tell is "not run". The trap: it is a
ratio of this machine; where that is not like the one the bundle is for, do not time.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from deploy_runtime import backends, engine_process, selection, timing
from deploy_runtime.changes import Side
from deploy_runtime.drift import Verdict
from deploy_runtime.evidence import Candidate
from deploy_runtime.model import usual_threads
from deploy_runtime.result import Outcome, Row

SLOWER = 1.10  # times the base's latency that the low end of the interval may reach
SECONDS = 20.0  # for timing both, once they are open
NAME = "latency against base"


@dataclass(frozen=True)
class Ratio:
    """The median time of a bundle's engine over that of its base's, with its bootstrap 95 % interval."""

    value: float
    low: float
    high: float
    new_ms: float
    base_ms: float
    rounds: int

    @property
    def outcome(self) -> Outcome:
        """Failed where all of the interval is beyond the allowance; where it is wide and lies on both sides, none."""
        wide = self.low < self.value * (1 - timing.WITHIN) or self.high > self.value * (1 + timing.WITHIN)
        return "failed" if self.low > SLOWER else "not run" if self.high > SLOWER and wide else "passed"


class NotTimedError(Exception):
    """There are no times to compare, and why."""


def latency(new: Side, base: Side, here: Mapping[str, Row], backend: str | None, seconds: float | None) -> Row:
    """Time what each of the two would run here beside the other. `here` holds what ran of the new one, by candidate."""
    if seconds is None:
        return Row(NAME, "not run", "no timing was asked for")
    if (new.found.batch.best, new.found.inputs) != (base.found.batch.best, base.found.inputs):
        return Row(NAME, "not run", "the inputs or the batch sizes are others")
    passed = {name for name, row in here.items() if row.outcome == "passed"}
    ours = next((row for row in selection.runnable(new.found, backend) if row.name in passed), None)
    theirs = next(
        (row for row in selection.runnable(base.found, backend) if not backends.get(row.backend).missing()), None
    )
    if ours is None or theirs is None:
        return Row(NAME, "not run", f"nothing of {'the bundle' if ours is None else 'the base'} can be timed here")
    threads, again = usual_threads(new.found), ""
    try:
        ratio = measure(new, ours, base, theirs, threads, seconds)
        if ratio.outcome == "failed":
            once, ratio = ratio, measure(new, ours, base, theirs, threads, seconds)
            again = f" ({once.value:.2f} in another run before)"
    except NotTimedError as error:
        return Row(NAME, "not run", str(error))
    stands_in = "" if ours.name == new.chosen.name else f" in place of the chosen {new.chosen.name}"
    noisy = "too noisy to tell: " if ratio.outcome == "not run" else ""
    detail = (
        f"{noisy}{ours.name}{stands_in} {ratio.new_ms:.2f} ms, base {theirs.name} {ratio.base_ms:.2f} ms: "
        f"{ratio.value:.2f}x ({ratio.low:.2f} to {ratio.high:.2f}){again}, at most {SLOWER:.2f} at the low end; "
        f"{ratio.rounds} rounds, {threads} thread{'s' if threads > 1 else ''}"
    )
    verdict = Verdict(
        "", "latency_ratio_low", ratio.low, SLOWER, ratio.outcome != "failed", f"median {ratio.value:.3f}"
    )
    return Row(NAME, ratio.outcome, detail, (verdict,))


def measure(new: Side, ours: Candidate, base: Side, theirs: Candidate, threads: int, seconds: float) -> Ratio:
    """Time one candidate of each, in processes of their own. Raises NotTimedError where one does not pass or dies."""
    engines = {"new": (new.folder, new.found, ours), "base": (base.folder, base.found, theirs)}
    times, failed = engine_process.times(engines, threads, seconds, baseline="base")
    if not times:
        words = {"new": ours.name, "base": f"base's {theirs.name}"}
        raise NotTimedError("; ".join(f"{words[side]}: {reason}" for side, reason in failed.items()))
    medians = {side: float(np.median(seconds)) * timing.MS for side, seconds in times.items()}
    return Ratio(
        *timing.ratio_interval(times["new"], times["base"]), medians["new"], medians["base"], times["new"].size
    )
