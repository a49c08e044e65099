"""Make the INT8 graph pass: take layers back to float, most error per millisecond first, until the gates hold.

Promise: the graph handed over passes the recipe's INT8 limits with `margin_db` to spare, on calibration samples and
with Q/DQ pairs as written, or no graph is. Held-out samples are never looked at here: they judge what comes out.

Three stages. `reach`: how much the graph has to spare as it is; where that is enough, nothing else is done. `rank`:
each layer's share of the error, measured alone (see `sensitivity`), and of the time on this processor (see `profile`).
`repair`: the least number of layers, in that order, is found by trying: shares predict where to begin, the gates
decide. Where that order leaves no layer in INT8, the order of the errors alone is tried.
"""

import bisect
import glob
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from deploy_compile import biases, sample_files
from deploy_compile.macs import affordable
from deploy_compile.profile import profile
from deploy_compile.quantize import quantize
from deploy_compile.results import Graph
from deploy_compile.results_int8 import Ranges, Ranked, Reached, Repaired
from deploy_compile.sensitivity import alone, answers, decibels, noise
from deploy_compile.switches import Answers, Sample, Switched, switched
from deploy_recipes.recipe import Keep, Recipe, Task
from deploy_runtime.drift import Drift
from deploy_runtime.evidence import Repair
from deploy_runtime.judge import judge, passed
from deploy_runtime.measure import measure
from deploy_runtime.spec import Limit

SAMPLES, LEAST_SAMPLES = 16, 4  # of the calibration set that the gates are tried on, as many as TRIAL_MACS allow
TRIAL_MACS = 4e11  # of one trial, about 10 s on two cores
RANKED, RANKING_S = 2, 60.0  # of those samples, and seconds, for measuring layers one by one
GROUPED_S = 600.0  # where one sample takes longer, neighbours are measured together: layers are told apart less well
FLOATS, WHOLE = "floats.npz", "whole.npz"  # what `reach` leaves
LEAST_GAIN = 0.01  # of the layers' mean: what a layer is taken to gain in INT8 where the profile shows less


def reach(
    out: Path, fp32: Graph, int8: Graph, recipe: Recipe, calibration: Path, margins_db: Sequence[float], threads: int
) -> Reached:
    """Return by which of the margins the INT8 graph passes as it is, on a folder of one-sample `.npz` files, and the
    answers of both forms, which the two stages below begin from."""
    limit = recipe.limit("int8")
    with _opened(fp32, int8, threads) as both:
        samples = trial_samples(fp32, calibration)
        floats, whole = answers(both, samples, ()), answers(both, samples, both.nodes)
        layers = len(both.nodes)
    drifts = measure(floats, whole, recipe.task)
    passed_by = [margin for margin in margins_db if passed(judge(drifts, tightened(limit, margin)))]
    for path, found in ((out / FLOATS, floats), (out / WHOLE, whole)):
        sample_files.save(path, found)
    return Reached(decibels(noise(floats, whole)), max(passed_by, default=None), layers, out / FLOATS, out / WHOLE)


def rank(
    out: Path, fp32: Graph, int8: Graph, reached: Reached, recipe: Recipe, calibration: Path, threads: int
) -> Ranked:
    """Return every quantized layer with the error that it causes alone and its milliseconds in float and in INT8.

    Errors are those of the samples that have most of the noise with all layers in INT8: the gates add noise up, and one
    sample with values far beyond the others' can hold most of it.
    """
    floats, samples = sample_files.load(reached.floats), trial_samples(fp32, calibration)
    noisiest = _noisiest(floats, sample_files.load(reached.whole))[:RANKED]
    reference = {name: array[noisiest] for name, array in floats.items()}
    with _opened(fp32, int8, threads) as both:
        errors = alone(both, [samples[place] for place in noisiest], reference, RANKING_S, GROUPED_S)
    return Ranked(errors, profile(out, fp32, int8, recipe.inputs))


def repair(
    out: Path,
    fp32: Graph,
    int8: Graph,
    ranges: Ranges,
    reached: Reached,
    ranked: Ranked,
    recipe: Recipe,
    calibration: Path,
    margin_db: float,
    threads: int,
    means: Path | None = None,
) -> Repaired:
    """Return the INT8 graph with as many layers in float as it takes to pass, none where no layer may stay in INT8.

    `means` are those that `int8` was corrected by.
    """
    errors, times = ranked.errors, ranked.times
    limit = tightened(recipe.limit("int8"), margin_db)
    with _opened(fp32, int8, threads) as both:
        trial = _Trials(both, trial_samples(fp32, calibration), recipe.task, reached)
        before = trial.noise(tuple(errors))
        tried = (
            (order, trial.fewest(order, limit, _predicted([errors[node] for node in order], before, limit)))
            for order in _orders(errors, times)
        )
        order, count = next((one for one in tried if one[1] < len(errors)), (list(errors), len(errors)))
        after = trial.noise(order[count:])
    taken = order[:count]
    corrected = len(set(biases.read(means) if means else ()).intersection(order[count:]))
    done = Repair(tuple(taken), len(order), decibels(before), decibels(after), _slower(times, taken), corrected)
    if count == len(order):
        return Repaired(None, done)
    kept = [Keep(glob.escape(node), _reason(errors[node], times.get(node))) for node in taken]
    return Repaired(quantize(out, fp32, ranges, (*recipe.keep_float, *kept), int8.form, means), done)


def tightened(limit: Limit, margin_db: float) -> Limit:
    """Return a limit with room to spare in what it allows of error; how many decisions may differ stays."""
    share = 10.0 ** (-margin_db / 10.0)
    return replace(
        limit,
        cosine=None if limit.cosine is None else 1.0 - (1.0 - limit.cosine) * share,
        sqnr_db=None if limit.sqnr_db is None else limit.sqnr_db + margin_db,
        max_relative=None if limit.max_relative is None else limit.max_relative * share**0.5,
        outputs={name: tightened(own, margin_db) for name, own in limit.outputs.items()},
    )


def trial_samples(fp32: Graph, calibration: Path) -> list[Sample]:
    """Return as many calibration samples as a trial has the time for."""
    return list(islice(sample_files.read(calibration), affordable(fp32.path, TRIAL_MACS, LEAST_SAMPLES, SAMPLES)))


def _opened(fp32: Graph, int8: Graph, threads: int) -> AbstractContextManager[Switched]:
    return switched(fp32.path, int8.path, threads)


def _noisiest(reference: Answers, got: Answers) -> list[int]:
    """Return the places of the samples along axis 0, those with most of the noise first."""
    shares = sum(
        np.square(got[name] - wanted, dtype=np.float64).reshape(len(wanted), -1).sum(axis=1)
        / (np.square(wanted, dtype=np.float64).sum() or 1.0)
        for name, wanted in reference.items()
    )
    return [int(place) for place in np.argsort(-np.asarray(shares), kind="stable")]


class _Trials:
    """Runs sets of layers in INT8 and judges them against the float graph."""

    def __init__(self, both: Switched, samples: Sequence[Sample], task: Task, reached: Reached) -> None:
        self.both, self.samples, self.task = both, samples, task
        self.reference = sample_files.load(reached.floats)
        whole = sample_files.load(reached.whole)
        self._noisiest = _noisiest(self.reference, whole)
        self._seen = {frozenset(both.nodes): self._judged(whole)}

    def passes(self, int8: Sequence[str], limit: Limit) -> bool:
        """Whether the graph with these layers in INT8 keeps to a limit; samples are run until that is told."""
        key = frozenset(int8)
        if key not in self._seen:
            got = self._within(key, limit)
            if got is None:
                return False
            self._seen[key] = self._judged(got)
        return passed(judge(self._seen[key][0], limit))

    def noise(self, int8: Sequence[str]) -> float:
        """Return the noise over signal of the outputs with these layers in INT8."""
        key = frozenset(int8)
        if key not in self._seen:
            self._seen[key] = self._judged(answers(self.both, self.samples, key))
        return self._seen[key][1]

    def fewest(self, order: Sequence[str], limit: Limit, predicted: int) -> int:
        """Return the least number of layers, from the front of `order`, without which the others pass."""
        least, most = 0, max(1, predicted)  # 0 is known to fail
        while most < len(order) and not self.passes(order[most:], limit):
            least, most = most, min(len(order), most + max(1, most // 3))
        counts = range(least + 1, most + 1)
        return counts[bisect.bisect_left(counts, True, key=lambda n: n == most or self.passes(order[n:], limit))]

    def _within(self, int8: Collection[str], limit: Limit) -> Answers | None:
        """Return the outputs for all samples, None once the noise of some, the noisiest first, is too much for all."""
        allowed = {
            name: float(np.square(wanted, dtype=np.float64).sum()) * 10.0 ** (-least / 10.0)
            for name, wanted in self.reference.items()
            if (least := limit.of(name).sqnr_db) is not None
        }
        runs: dict[int, Answers] = {}
        for place in self._noisiest:
            runs[place] = self.both.run(self.samples[place], int8)
            for name in allowed:
                error = runs[place][name] - self.reference[name][place : place + 1]
                allowed[name] -= float(np.square(error, dtype=np.float64).sum())
            if min(allowed.values(), default=0.0) < 0.0:
                return None
        return {name: np.concatenate([runs[place][name] for place in sorted(runs)]) for name in self.reference}

    def _judged(self, got: Answers) -> tuple[tuple[Drift, ...], float]:
        return measure(self.reference, got, self.task), noise(self.reference, got)


def _orders(errors: Mapping[str, float], times: Mapping[str, tuple[float, float]]) -> tuple[list[str], list[str]]:
    """Return the layers by error per millisecond, and by error alone: where the worst is what gains most, it goes last
    in the first order, and nothing is left for INT8."""
    gains = _gains(times, tuple(errors))
    return sorted(errors, key=lambda node: -errors[node] / gains[node]), sorted(errors, key=lambda node: -errors[node])


def _gains(times: Mapping[str, tuple[float, float]], nodes: Sequence[str]) -> dict[str, float]:
    """Return the milliseconds that INT8 saves for each node; never nothing, or a faultless layer would go first."""
    saved = {node: times[node][0] - times[node][1] if node in times else 0.0 for node in nodes}
    mean = sum(max(0.0, gain) for gain in saved.values()) / max(1, len(saved))
    return {node: max(gain, LEAST_GAIN * mean, 1e-6) for node, gain in saved.items()}


def _predicted(errors: Sequence[float], whole: float, limit: Limit) -> int:
    """Return how many of the layers, in order, have to go for the rest's errors to add up to what is allowed."""
    if limit.sqnr_db is None:
        return 1
    left = sum(errors)
    scale = whole / left if left else 1.0
    allowed = 10.0 ** (-limit.sqnr_db / 10.0)
    for count, error in enumerate(errors):
        if left * scale <= allowed:
            return count
        left -= error
    return len(errors)


def _slower(times: Mapping[str, tuple[float, float]], taken: Sequence[str]) -> float:
    """Return the heavy layers' time with some back in float over that with all in INT8."""
    whole = sum(int8 for _, int8 in times.values())
    more = sum(times[node][0] - times[node][1] for node in taken if node in times)
    return (whole + more) / whole if whole else 1.0


def _reason(error: float, time: tuple[float, float] | None) -> str:
    saved = f", for {time[0] - time[1]:.2f} ms saved" if time else ""
    return f"taken back to float: in INT8 it alone leaves the output {decibels(error):.1f} dB{saved}"
