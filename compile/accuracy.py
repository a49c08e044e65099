"""How often a model is right on labelled samples, and whether compiling changed that. Numbers only; no model runs here.

Accuracy and recall come with Wilson's 95 % interval, AUROC and expected calibration error with a bootstrap over
samples (its answers stay together), the difference of two models with the same resamples for both, and with McNemar's
exact test on the decisions of which only one is right. Scores are probabilities, or become so: a softmax or a sigmoid
where they are not between 0 and 1 yet.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import binomtest, rankdata  # type: ignore[import-untyped]

from deploy_runtime.evidence import Accuracy, ClassRecall, Difference, Interval
from deploy_runtime.measure import wilson
from deploy_runtime.spec import Classes, MultiLabel

Array = np.ndarray[Any, Any]
BINS = 15  # of expected calibration error (Guo et al., arXiv:1706.04599)
RESAMPLES = 500
SEED = 11
SUMS_TO_ONE = 1e-3


def probabilities(scores: Array, task: Classes | MultiLabel) -> Array:
    """Turn scores [..., classes or labels] into probabilities in float64; they are left alone where they are that."""
    scores = np.asarray(scores, np.float64)
    between = bool(scores.min() >= 0.0 and scores.max() <= 1.0)
    if isinstance(task, MultiLabel):
        return scores if between and task.threshold > 0.0 else 1.0 / (1.0 + np.exp(-np.clip(scores, -500.0, 500.0)))
    if between and np.allclose(scores.sum(axis=-1), 1.0, atol=SUMS_TO_ONE):
        return scores
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def right(scores: Array, truth: Array, task: Classes | MultiLabel) -> Array:
    """Return which decisions are right, as [samples, decisions].

    `scores` are [samples, answers, classes] with `truth` [samples, answers], or [samples, labels] with as many labels.
    """
    if isinstance(task, MultiLabel):
        return np.asarray((scores >= task.threshold) == (truth == 1))
    return np.asarray(scores.argmax(axis=-1) == truth)


def measure(scores: Array, truth: Array, task: Classes | MultiLabel) -> Accuracy:
    """Measure one model; arrays as `right` takes them."""
    hits = right(scores, truth, task)
    chances = probabilities(scores, task)
    return Accuracy(
        accuracy=_share(hits),
        recall=_recalls(hits, truth, task),
        auroc=_bootstrap(lambda rows: _auroc(chances[rows], truth[rows], task), len(truth)),
        calibration_error=_bootstrap(lambda rows: _calibration_error(chances[rows], truth[rows], task), len(truth)),
    )


def difference(before: Array, after: Array, truth: Array, task: Classes | MultiLabel) -> Difference:
    """Compare two models' scores on the same samples: the change of accuracy, and McNemar's exact test for it."""
    was, now = right(before, truth, task), right(after, truth, task)
    lost, gained = int((was & ~now).sum()), int((~was & now).sum())
    change = _bootstrap(lambda rows: float(now[rows].mean() - was[rows].mean()), len(truth))
    assert change is not None
    p_value = float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0
    return Difference(change, lost, gained, p_value)


def _share(hits: Array) -> Interval:
    count = int(hits.sum())
    return Interval(count / hits.size, *wilson(count, hits.size))


def _recalls(hits: Array, truth: Array, task: Classes | MultiLabel) -> tuple[ClassRecall, ...]:
    """Recall of each class, or sensitivity of each label; none where no sample has it."""
    found = []
    for place in range(task.count):
        has = truth[:, place] == 1 if isinstance(task, MultiLabel) else truth == place
        of = hits[:, place][has] if isinstance(task, MultiLabel) else hits[has]
        found.append(ClassRecall(int(of.size), _share(of) if of.size else None))
    return tuple(found)


def _auroc(chances: Array, truth: Array, task: Classes | MultiLabel) -> float:
    """Area under the ROC curve, one against the rest, averaged over the classes that have both; NaN where none has.

    By ranks: the chance that a case scores above a control, ties counting half (Mann and Whitney).
    """
    flat = chances.reshape(-1, task.count)
    has = truth == 1 if isinstance(task, MultiLabel) else truth.reshape(-1, 1) == np.arange(task.count)
    cases = has.sum(axis=0)
    both = (cases > 0) & (cases < len(flat))
    ranks = np.where(has, rankdata(flat, axis=0), 0.0).sum(axis=0)[both]
    cases = cases[both]
    areas = (ranks - cases * (cases + 1) / 2) / (cases * (len(flat) - cases))
    return float(areas.mean()) if areas.size else math.nan


def _calibration_error(chances: Array, truth: Array, task: Classes | MultiLabel) -> float:
    """Expected calibration error: |confidence - accuracy| over equal bins of confidence, weighted by their size."""
    if isinstance(task, MultiLabel):
        confidence, hits = chances.ravel(), (truth == 1).ravel()
    else:
        confidence, hits = chances.max(axis=-1).ravel(), (chances.argmax(axis=-1) == truth).ravel()
    bins = np.minimum((confidence * BINS).astype(np.intp), BINS - 1)
    gaps = np.bincount(bins, confidence - hits, BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def _bootstrap(statistic: Callable[[Array], float], count: int) -> Interval | None:
    """Return a statistic of rows with its percentile-bootstrap 95 % interval; None where it is not defined."""
    value = statistic(np.arange(count))
    if math.isnan(value):
        return None
    rng = np.random.default_rng(SEED)
    drawn = np.array([statistic(rng.integers(0, count, count)) for _ in range(RESAMPLES)])
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return Interval(value, min(float(low), value), max(float(high), value))
