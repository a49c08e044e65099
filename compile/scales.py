"""Scales of symmetric int8 that fp16 holds exactly, so that the int8 and the int8_fp16 graph compute the same integers.

A scale is rounded up to the next fp16 value: rounding down would saturate the largest values. It is never 0: below
LEAST_SCALE fp16 has too few digits left (it is subnormal there with a spacing of 2^-24), so smaller ones are raised to
it, and a channel of zeros gets 1. Values that would need a scale beyond fp16 (65504) cannot be quantized.
"""

import numpy as np

LEVELS = 127
LEAST_SCALE = 2.0**-20  # 16 steps of 2^-24: rounding up costs at most 1/16 of the resolution
MOST_SCALE = 65504.0


def fp16_above(values: np.ndarray) -> np.ndarray:
    """Return the least fp16-representable float32 values that are not below `values` (non-negative; may be Inf)."""
    nearest = np.minimum(values, MOST_SCALE).astype(np.float16)
    above = np.where(nearest.astype(np.float64) < values, np.nextafter(nearest, np.float16(np.inf)), nearest)
    return np.asarray(above.astype(np.float32))


def scales(largest: np.ndarray) -> np.ndarray:
    """Return the float32 scale for each largest magnitude; Inf where fp16 has none that large."""
    wanted = np.asarray(largest, np.float64) / LEVELS
    return np.where(wanted > 0, fp16_above(np.maximum(wanted, LEAST_SCALE)), np.float32(1.0)).astype(np.float32)


def quantized(weight: np.ndarray, scale: np.ndarray, axis: int) -> np.ndarray:
    """Return the int8 values of a float weight, with one scale a slice along `axis`, rounding half to even."""
    shape = [1] * weight.ndim
    shape[axis] = -1
    steps = weight.astype(np.float64) / scale.astype(np.float64).reshape(shape)
    return np.clip(np.rint(steps), -LEVELS, LEVELS).astype(np.int8)
