"""Timing with clocks that the test makes: what counts is the order, the pairing and when it ends."""

import time
from collections.abc import Callable
from functools import partial
from itertools import cycle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_runtime import timing

seconds = st.floats(1e-6, 10.0)


class Clock:
    """A clock that stands still unless it is moved."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic


def test_every_round_runs_each_once_in_an_order_that_changes() -> None:
    ran: list[str] = []

    def runner(name: str) -> Callable[[], float]:
        return lambda: ran.append(name) or 0.001  # type: ignore[func-returns-value]

    names = ["torch", "a", "b"]
    times = timing.interleave({name: runner(name) for name in names}, budget_s=60.0, least_rounds=30)
    assert {len(array) for array in times.values()} == {30}  # equal times are known at the first look
    rounds = [tuple(ran[i : i + 3]) for i in range(timing.WARM_UP * 3, len(ran), 3)]
    assert {tuple(sorted(one)) for one in rounds} == {("a", "b", "torch")}
    assert len(set(rounds)) > 3
    again = timing.interleave({name: runner(name) for name in names}, budget_s=60.0, least_rounds=30)
    assert ran[: len(ran) // 2] == ran[len(ran) // 2 :]  # seeded
    assert set(again) == set(times)


def test_it_goes_on_until_the_ratio_is_known() -> None:
    noise = np.random.default_rng(0)
    noisy = {"torch": lambda: float(noise.uniform(1, 3)), "a": lambda: float(noise.uniform(1, 3))}
    times = timing.interleave(noisy, budget_s=60.0)
    rounds = len(times["torch"])
    assert 100 < rounds < timing.MOST_ROUNDS
    ratio, low, high = timing.ratio_interval(times["torch"], times["a"])
    assert 0.95 * ratio <= low <= ratio <= high <= 1.05 * ratio


def test_it_ends_with_its_budget_after_the_least_rounds() -> None:
    noise = np.random.default_rng(0)

    def slow() -> float:
        time.sleep(0.002)
        return float(noise.uniform(1, 100))

    start = time.perf_counter()
    times = timing.interleave({"torch": slow, "a": slow}, budget_s=0.0, least_rounds=5)
    assert len(times["a"]) == 5
    assert time.perf_counter() - start < 5.0


def test_what_a_runner_raises_is_the_callers() -> None:
    def broken() -> float:
        raise RuntimeError("died")

    with pytest.raises(RuntimeError, match="died"):
        timing.interleave({"torch": lambda: 1.0, "a": broken}, budget_s=1.0)


def test_a_drift_that_hits_both_leaves_the_ratio_alone() -> None:
    drift = np.linspace(1.0, 3.0, 200)
    ratio, low, high = timing.ratio_interval(2.0 * drift, drift)
    assert ratio == pytest.approx(2.0)
    assert [low, high] == pytest.approx([2.0, 2.0])


@given(st.lists(st.tuples(seconds, seconds), min_size=1, max_size=40))
def test_the_interval_holds_the_ratio_and_is_the_same_every_time(pairs: list[tuple[float, float]]) -> None:
    base, other = map(list, zip(*pairs, strict=True))
    ratio, low, high = timing.ratio_interval(base, other)
    assert low <= ratio <= high
    assert ratio == pytest.approx(float(np.median(base) / np.median(other)))
    assert timing.ratio_interval(base, other) == (ratio, low, high)


def test_times_that_are_no_pairs_are_refused() -> None:
    for other in ([1.0], []):
        with pytest.raises(ValueError, match="no pairs"):
            timing.ratio_interval([1.0, 2.0], other)


def test_speed_is_in_milliseconds_and_p99_needs_a_thousand_runs() -> None:
    times = np.linspace(0.001, 0.002, timing.P99_RUNS)
    speed = timing.speed(times * 4, times, threads=2)
    assert speed.ratio == pytest.approx(4.0)
    assert speed.p50_ms == pytest.approx(1.5)
    assert speed.p90_ms == pytest.approx(1.9)
    assert speed.torch_p50_ms == pytest.approx(6.0)
    assert (speed.runs, speed.threads) == (timing.P99_RUNS, 2)
    assert speed.p99_ms == pytest.approx(1.99)
    assert timing.speed(times[1:] * 4, times[1:], threads=2).p99_ms is None


@pytest.mark.parametrize(("seconds", "more"), [([0.5], 0), ([0.99], 0), ([0.1, 1.7], timing.PATIENCE)])
def test_a_lead_in_doubt_is_timed_for_longer(seconds: list[float], more: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "time", Clock())
    runners: dict[str, Callable[[], float]] = {
        "base": lambda: 5.0,
        "slow": lambda: 3.0,
        "steady": lambda: 1.0,
        "other": partial(next, cycle(seconds)),
    }
    found = timing.interleave_survivors(runners, {}, 0.0, "base", least_rounds=11, patience=timing.PATIENCE)
    doubted = 11 * (1 + more)
    rounds = {name: len(times) for name, times in found.items()}
    assert rounds == {"base": 11, "slow": 11, "steady": doubted, "other": doubted}


def test_a_rival_that_dies_while_it_is_timed_for_longer_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "time", Clock())
    doubtful, failed, left = cycle([0.1, 1.7]), dict[str, str](), iter(range(15))

    def other() -> float:
        if next(left, None) is None:
            raise timing.Died("other", "killed")
        return next(doubtful)

    runners: dict[str, Callable[[], float]] = {"base": lambda: 5.0, "steady": lambda: 1.0, "other": other}
    found = timing.interleave_survivors(runners, failed, 0.0, "base", least_rounds=11, patience=timing.PATIENCE)
    assert (list(found), failed) == (["base", "steady"], {"other": "killed"})


def test_the_fastest_is_one_of_those_that_were_timed_for_longer() -> None:
    times = {"slow": np.full(5, 1.0), "a": np.full(9, 3.0), "b": np.full(9, 2.0)}  # the machine slowed down
    assert timing.fastest(times) == "b"
    assert timing.lead(np.arange(1.0, 10.0), np.ones(5)) == timing.ratio_interval(np.arange(1.0, 6.0), np.ones(5))


def test_runners_that_take_the_whole_patience_for_the_least_rounds_are_not_timed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)

    def took(seconds: float) -> float:
        clock.now += seconds
        return seconds

    doubtful = cycle([4.0, 68.0])
    runners = {"base": lambda: took(9.0), "steady": lambda: took(40.0), "other": lambda: took(next(doubtful))}
    found = timing.interleave_survivors(runners, {}, 25.0, "base", least_rounds=11, patience=timing.PATIENCE)
    assert {len(times) for times in found.values()} == {11}


@pytest.mark.parametrize(("seconds", "runs"), [(0.5, 2), (1.5, 1)])
def test_a_slow_runner_is_warm_after_one_run(seconds: float, runs: int) -> None:
    warm: list[float] = []

    def runner() -> float:
        warm.append(seconds)
        return seconds

    timing.interleave({"slow": runner}, 0.0, least_rounds=0)
    assert len(warm) == runs


@pytest.mark.parametrize(("seconds", "runs"), [(0.5, 2), (1.5, 1)])
def test_a_turn_is_one_warm_run(seconds: float, runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ran = Clock(), list[float]()
    monkeypatch.setattr(timing, "time", clock)

    def run() -> None:
        clock.now += seconds * (1 if ran else 1.2)  # the first is cold
        ran.append(clock.now)

    assert timing.warm(run) == pytest.approx(seconds if runs == 2 else 1.2 * seconds)
    assert len(ran) == runs


def test_no_lead_over_the_baseline_is_in_doubt() -> None:
    runners: dict[str, Callable[[], float]] = {"base": lambda: 1.0, "other": partial(next, cycle([0.1, 1.7]))}
    found = timing.interleave_survivors(runners, {}, 0.0, "base", least_rounds=11, patience=timing.PATIENCE)
    assert len(found["other"]) == 11
