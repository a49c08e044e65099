"""Fair timing of things that do the same work: interleaved in one run, until the ratios are known well enough.

A machine drifts: clocks, heat and neighbours change within seconds. So every runner runs once a round, in an order
shuffled anew, and ratios are taken over the same rounds; the drift then falls on all of them alike. The trap: an
interval says how well the ratio is known here and now, not what another machine would give.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from deploy_runtime.evidence import Speed

Array = np.ndarray[Any, Any]

WITHIN = 0.05  # a ratio is known well enough when its 95 % interval lies within this share of it on both sides
PATIENCE = 2  # more goes at a choice that a busy machine leaves in doubt
GO = 1 / 3  # of the budget; only the fastest and what may be as fast run then, often enough in less time
WARM_UP = 2  # runs of each before anything counts: caches fill, lazy kernels compile
LONG_S = 1.0  # what takes longer is warm after one run, and shows nothing of cold caches
LEAST_ROUNDS = 8  # below this a bootstrap says nothing
MOST_ROUNDS = 5_000
LOOK_GROWTH = 1.15  # rounds grow by this between two looks at the intervals, so that looking costs little
RESAMPLES = 1_000  # bootstrap
BLOCK = 2_000_000  # resampled values held at once: 16 MB
P99_RUNS = 1_000  # below this a 99th percentile is the luck of a few runs
MS = 1e3  # milliseconds in a second


def interleave(
    runners: Mapping[str, Callable[[], float]],
    budget_s: float,
    baseline: str | None = None,
    seed: int = 0,
    warm_up: int = WARM_UP,
    least_rounds: int = LEAST_ROUNDS,
    most_rounds: int = MOST_ROUNDS,
) -> dict[str, Array]:
    """Run each runner once a round and return its seconds by round, all of the same length.

    A runner runs once and returns the seconds it took. Ends when the ratio of `baseline` (default: the first runner)
    to every other is known within 5 %, or when `budget_s` seconds have passed and `least_rounds` are done. What a
    runner raises ends the timing.
    """
    names = list(runners)
    first = names[0] if baseline is None else baseline
    order, times = random.Random(seed), {name: list[float]() for name in names}
    start, look = time.perf_counter(), least_rounds
    cold = list(names)
    for _ in range(warm_up):
        cold = [name for name in cold if runners[name]() <= LONG_S]
    while (rounds := len(times[first])) < most_rounds:
        if rounds >= least_rounds and time.perf_counter() - start >= budget_s:
            break
        if rounds >= look:
            if all(_known(times[first], times[name]) for name in names if name != first):
                break
            look = max(rounds + 1, int(rounds * LOOK_GROWTH))
        for name in order.sample(names, len(names)):
            times[name].append(runners[name]())
    return {name: np.array(seconds) for name, seconds in times.items()}


def warm(run: Callable[[], object]) -> float:
    """Run once, and once more where that took less than LONG_S; return the seconds of the last run.

    Caches are cold after another process ran. They fill within milliseconds, which a longer run does not show.
    """
    seconds = LONG_S
    for _ in range(2):
        begun = time.perf_counter()
        run()
        seconds = time.perf_counter() - begun
        if seconds > LONG_S:
            break
    return seconds


class Died(Exception):  # noqa: N818 - an event, told apart from an error
    """A runner is gone, and why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name)
        self.name, self.reason = name, reason


def interleave_survivors(
    runners: Mapping[str, Callable[[], float]],
    failed: dict[str, str],
    budget_s: float,
    baseline: str | None = None,
    least_rounds: int = LEAST_ROUNDS,
    patience: int = 0,
) -> dict[str, Array]:
    """Interleave; where a runner raises Died, note why in `failed` and begin again with the others.

    Empty where none is left, or the baseline is gone or alone. The budget is for all beginnings together. While one
    runner beside the baseline leads by more than 5 % and that may be noise, it and those that may be as fast run up to
    `patience` more goes, and so have more rounds than the others, of which the first are those of all. Slow runners,
    whose `least_rounds` alone take more than the budget and all goes, are not timed again.
    """
    ends = time.monotonic() + (1 + patience * GO) * budget_s
    times = _survivors(runners, failed, budget_s, baseline, least_rounds)
    for _ in range(patience):
        rivals = _rivals({name: seconds for name, seconds in times.items() if name != baseline})
        if not rivals or time.monotonic() > ends:
            break
        more = _survivors({name: runners[name] for name in rivals}, failed, GO * budget_s, None, least_rounds)
        times |= {name: np.concatenate([times[name], seconds]) for name, seconds in more.items()}
        times = {name: seconds for name, seconds in times.items() if name not in failed}
    return times


def _rivals(times: Mapping[str, Array]) -> list[str]:
    """Return the fastest and all that may be as fast, none where each of those is within WITHIN of it anyway."""
    if not times:
        return []
    first = fastest(times)
    lags = {name: lead(seconds, times[first])[:2] for name, seconds in times.items()}
    rivals = [name for name, (_, low) in lags.items() if low <= 1]
    return rivals if any(lags[name][0] > 1 + WITHIN for name in rivals) else []


def fastest(times: Mapping[str, Array]) -> str:
    """Return the runner of the least median: one of those with the most rounds, where not all have as many."""
    most = max(map(len, times.values()))
    return min((name for name in times if len(times[name]) == most), key=lambda name: float(np.median(times[name])))


def lead(baseline: Array, candidate: Array) -> tuple[float, float, float]:
    """Return the ratio of `ratio_interval` over the rounds that both ran, which are the first of the longer."""
    both = min(len(baseline), len(candidate))
    return ratio_interval(baseline[:both], candidate[:both])


def _survivors(
    runners: Mapping[str, Callable[[], float]],
    failed: dict[str, str],
    budget_s: float,
    baseline: str | None,
    least_rounds: int,
) -> dict[str, Array]:
    ends, left = time.monotonic() + budget_s, dict(runners)
    while left and (baseline is None or (baseline in left and len(left) > 1)):
        try:
            return interleave(left, ends - time.monotonic(), baseline, least_rounds=least_rounds)
        except Died as death:  # noqa: PERF203 - a death is rare and ends the turn
            failed[death.name] = death.reason
            del left[death.name]
    return {}


def ratio_interval(
    baseline: Sequence[float] | Array, candidate: Sequence[float] | Array, seed: int = 0
) -> tuple[float, float, float]:
    """Return the ratio of the medians, baseline over candidate, with its bootstrap 95 % interval (low, high).

    Both are seconds by round; rounds are resampled as pairs (Efron's percentile bootstrap).
    """
    base, other = np.asarray(baseline, np.float64), np.asarray(candidate, np.float64)
    if base.shape != other.shape or base.ndim != 1 or base.size == 0:
        raise ValueError(f"the times of {base.shape} and {other.shape} rounds are no pairs")
    random_rounds = np.random.default_rng(seed)
    ratios, step = [], max(1, BLOCK // base.size)
    for done in range(0, RESAMPLES, step):
        rounds = random_rounds.integers(0, base.size, (min(step, RESAMPLES - done), base.size))
        ratios.append(np.median(base[rounds], axis=1) / np.median(other[rounds], axis=1))
    low, high = np.quantile(np.concatenate(ratios), (0.025, 0.975))
    ratio = float(np.median(base) / np.median(other))
    return ratio, min(float(low), ratio), max(float(high), ratio)


def speed(torch_times: Sequence[float] | Array, times: Sequence[float] | Array, threads: int) -> Speed:
    """Return the latency of a candidate beside PyTorch's, from their seconds by round."""
    ratio, low, high = ratio_interval(torch_times, times)
    milliseconds = np.asarray(times, np.float64) * MS
    return Speed(
        ratio=ratio,
        low=low,
        high=high,
        p50_ms=float(np.median(milliseconds)),
        p90_ms=float(np.quantile(milliseconds, 0.9)),
        torch_p50_ms=float(np.median(np.asarray(torch_times, np.float64))) * MS,
        runs=milliseconds.size,
        threads=threads,
        p99_ms=float(np.quantile(milliseconds, 0.99)) if milliseconds.size >= P99_RUNS else None,
    )


def _known(base: Sequence[float], other: Sequence[float]) -> bool:
    ratio, low, high = ratio_interval(base, other)
    return low >= ratio * (1 - WITHIN) and high <= ratio * (1 + WITHIN)
