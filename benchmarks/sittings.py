"""Ratios of times over several sittings, each of which opened its runners anew.

What a process gets of the machine when it starts - pages, places in the caches - stays with it: six processes of one
engine differ by over 1 %, each time beyond an interval over rounds alone. Who compares things that are within a few
percent opens them several times, and resamples the sittings too.
"""

from collections.abc import Sequence

import numpy as np

from deploy_runtime.timing import Array

RESAMPLES = 2_000  # bootstrap


def ratio_interval(sittings: Sequence[tuple[Array, Array]], seed: int = 0) -> tuple[float, float, float]:
    """Return how many times longer the first of each pair took than the second, with its 95 % interval (low, high).

    Each sitting is seconds by round of two runners that ran in the same rounds. The ratio is the geometric mean of the
    sittings' ratios of medians; the interval resamples sittings, and rounds within each (a two-stage bootstrap:
    Davison and Hinkley, Bootstrap Methods and their Application, 1997, 3.8).
    """
    if not sittings:
        raise ValueError("no sitting was timed")
    random = np.random.default_rng(seed)
    logs = np.array([_resampled(one, other, random) for one, other in sittings])  # [sittings, RESAMPLES]
    picked = random.integers(0, len(sittings), (len(sittings), RESAMPLES))
    low, high = np.exp(np.quantile(logs[picked, np.arange(RESAMPLES)].mean(axis=0), (0.025, 0.975)))
    ratio = float(np.exp(np.mean([np.log(np.median(one) / np.median(other)) for one, other in sittings])))
    return ratio, min(float(low), ratio), max(float(high), ratio)


def _resampled(one: Array, other: Array, random: np.random.Generator) -> Array:
    rounds = random.integers(0, len(one), (RESAMPLES, len(one)))
    logs: Array = np.log(np.median(one[rounds], axis=1) / np.median(other[rounds], axis=1))
    return logs
