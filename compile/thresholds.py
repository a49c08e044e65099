"""Where to clip |x| before it becomes int8, from the histogram of |x|: four ways to trade range against resolution.

minmax      the largest value seen: nothing saturates, and one outlier coarsens every other value
percentile  the least bin edge with at most TAIL of the values above it
entropy     least Kullback-Leibler divergence between the values and their 128-level form (Migacz, 8-bit inference with
            TensorRT, GTC 2017). It needs many more bins than levels: ONNX Runtime's default of 128 bins gives min-max.
mse         least expected squared error of the symmetric grid threshold/127 · {-127..127}, rounding and clipping

Each takes counts over equal bins from 0, their width and the largest magnitude, and gives a threshold in (0, largest].
"""

from collections.abc import Callable, Mapping

import numpy as np

LEVELS = 127  # positive steps of the symmetric int8 grid
TAIL = 1e-5  # share of values that `percentile` lets saturate
ENTROPY_STRIDE = 8  # bins between the thresholds that `entropy` tries
MSE_CANDIDATES = 96  # thresholds that `mse` tries, evenly spaced in log from 1/64 of the range up
MSE_RANGE = 64
FINE_STEP = 4.0  # bins; a grid step narrower than this sees its bin as evenly filled


def minmax(counts: np.ndarray, width: float, largest: float) -> float:
    """Return the largest magnitude."""
    del counts, width
    return largest


def percentile(counts: np.ndarray, width: float, largest: float) -> float:
    """Return the least bin edge that at most TAIL of all values exceed."""
    above = counts.sum() - np.cumsum(counts)
    edge = int(np.argmax(above <= TAIL * counts.sum())) + 1
    return min(edge * width, largest)


def mse(counts: np.ndarray, width: float, largest: float) -> float:
    """Return the candidate with the least `expected_error`; the largest magnitude is one of them."""
    used = int(np.ceil(largest / width))
    edges = np.unique(np.geomspace(max(1.0, used / MSE_RANGE), used, MSE_CANDIDATES).round())
    candidates = np.minimum(edges * width, largest)
    return float(candidates[np.argmin(expected_error(counts[:used], width, candidates))])


def expected_error(counts: np.ndarray, width: float, thresholds: np.ndarray) -> np.ndarray:
    """Return, for each threshold, the sum over all values of the squared error that quantizing makes."""
    values = (np.arange(counts.size) + 0.5) * width
    steps = (thresholds / LEVELS)[:, None]
    rounding = values - steps * np.clip(np.rint(values / steps), 0, LEVELS)
    errors = np.where((steps < FINE_STEP * width) & (values <= thresholds[:, None]), steps**2 / 12, rounding**2)
    errors[:, 0] = np.minimum(errors[:, 0], (width / 2) ** 2)  # mostly exact zeros
    return np.asarray(errors @ counts)


def entropy(counts: np.ndarray, width: float, largest: float) -> float:
    """Return the threshold whose 128-level form of the clipped histogram diverges least from the histogram.

    All candidates at once: a level's share of the divergence needs only the sums of its bins, which are differences of
    running sums. The first bin is replaced by the second, else the zeros that ReLU makes decide alone.
    """
    levels = LEVELS + 1
    used = int(np.ceil(largest / width))
    if used <= levels:
        return largest
    seen = counts[:used].astype(np.float64)
    seen[0] = seen[1]
    ends = np.unique(np.append(np.arange(levels, used, ENTROPY_STRIDE), used))
    starts = np.ceil(np.arange(levels + 1)[None, :] * ends[:, None] / levels).astype(np.intp)
    mass = np.diff(_running(seen)[starts], axis=1)
    filled = np.diff(_running(seen > 0)[starts], axis=1)
    total = max(seen.sum(), 1.0)
    tail = total - mass.sum(axis=1)  # joins the last bin of the clipped histogram, which the 128 levels do not know
    last = seen[ends - 1]
    filled[:, -1] += (last == 0) & (tail > 0)
    own = _running(_plogp(seen))[ends] - _plogp(last) + _plogp(last + tail)
    density = np.maximum(mass, 1e-9 * total) / np.maximum(filled, 1) / np.maximum(mass.sum(axis=1), 1e-9)[:, None]
    clipped = mass.copy()
    clipped[:, -1] += tail
    divergence = own / total - np.log(total) - (clipped * np.log(density)).sum(axis=1) / total
    return min(float(ends[np.argmin(divergence)]) * width, largest)


def _running(values: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(values)])


def _plogp(values: np.ndarray) -> np.ndarray:
    return np.asarray(values * np.log(np.where(values > 0, values, 1.0)))


ALGORITHMS: Mapping[str, Callable[[np.ndarray, float, float], float]] = {
    "minmax": minmax,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}
