"""A histogram of |x| that grows with the data and stays exact: the whole memory that calibration keeps of a tensor.

The upper end is always a power of two, so that scaling a value to its bin is exact in floating point, and doubling the
range merges bins pairwise: adding arrays one by one gives bit for bit the histogram of all of them at once, in any
order. Between BINS / 2 and BINS bins are in use. Infinite values are left out and counted; NaN is refused.
"""

import math

import numpy as np

BINS = 4096
CHUNK = 65536  # values binned at once: what stays in the second-level cache
LEAST_EXPONENT = -100  # the upper end is at least 2^-100; smaller values share the first bin


class Extent:
    """The least and the largest finite value seen, in the tensor's units."""

    def __init__(self) -> None:
        self.least = math.inf
        self.largest = -math.inf
        self.infinite = 0

    def add(self, values: np.ndarray) -> np.ndarray:
        """Take float32 values of any shape in; return the finite ones. Raises ValueError where one is NaN."""
        if not values.size:
            return values
        least, largest = float(values.min()), float(values.max())
        if math.isnan(least):
            raise ValueError("a value is not a number")
        if math.isinf(least) or math.isinf(largest):
            finite = values[np.isfinite(values)]
            self.infinite += values.size - finite.size
            return Extent.add(self, finite)
        self.least, self.largest = min(self.least, least), max(self.largest, largest)
        return values

    @property
    def top(self) -> float:
        """The largest magnitude seen; 0 before anything was."""
        return max(abs(self.least), abs(self.largest)) if self.least <= self.largest else 0.0


class Histogram(Extent):
    """Counts of |x| over BINS equal bins from 0 to 2^exponent, which lies above every value seen."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = np.zeros(BINS, np.int64)
        self.exponent = LEAST_EXPONENT

    @property
    def width(self) -> float:
        """The width of one bin, in the tensor's units."""
        return math.ldexp(1.0, self.exponent) / BINS

    def add(self, values: np.ndarray) -> np.ndarray:
        """Count float32 values of any shape. Raises ValueError where one is NaN."""
        values = super().add(values)
        if self.top == 0:  # nothing but zeros so far: how large the values are is still to be seen
            self.counts[0] += values.size
            return values
        self._widen(math.frexp(self.top)[1])
        scale = np.float32(1.0 / self.width)
        flat = values.reshape(-1)
        for start in range(0, flat.size, CHUNK):
            magnitude = np.abs(flat[start : start + CHUNK])
            magnitude *= scale
            self.counts += np.bincount(magnitude.astype(np.intp), minlength=BINS)
        return values

    def _widen(self, exponent: int) -> None:
        while self.exponent < exponent:
            if not self.counts[1:].any() and self.exponent == LEAST_EXPONENT:  # nothing, or zeros
                self.exponent = exponent
                return
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate([merged, np.zeros_like(merged)])
            self.exponent += 1
