"""Scales of symmetric int8 that fp16 holds exactly, so that the int8 and the int8_fp16 graph compute the same integers.

A scale is rounded up to the next fp16 value: rounding down would saturate the largest values. It is never 0: below
LEAST_SCALE fp16 has too few digits left (it is subnormal there with a spacing of 2^-24), so smaller ones are raised to
it, and a channel of zeros gets 1. Values that would need a scale beyond fp16 (65504) cannot be quantized.

Dense weights use 63 of int8's 127 levels. x86 CPUs without VNNI add pairs of U8 x S8 products in 16 bits and saturate
there without a word; 255 · 63 · 2 just fits. On such a CPU OpenVINO gave x3d_s with full-range weights 10.6 dB of SQNR
and resnet50 13.8; now 21.8 and 23.2. Where nothing saturates (VNNI, GPUs) it costs 0.1 and 1.6 dB, and in return one
graph, verified once, gives the same answer on every machine. Depthwise convolutions keep 127 levels: they have no
pairs.

Measured and left out: clipping weights by squared error (within 0.1 dB); correcting biases by the mean output
(x3d_s -0.5 to -5 dB, resnet50 -7 to +0.4 dB).
"""

import numpy as np

LEVELS = 127
DENSE_LEVELS = 63  # of weights whose products are summed in pairs
LEAST_SCALE = 2.0**-20  # 16 steps of 2^-24: rounding up costs at most 1/16 of the resolution
MOST_SCALE = 65504.0


def fp16_above(values: np.ndarray) -> np.ndarray:
    """Return the least fp16-representable float32 values that are not below `values` (non-negative; may be Inf)."""
    nearest = np.asarray(np.minimum(values, MOST_SCALE), np.float16)
    following = (nearest.view(np.uint16) + np.uint16(1)).view(np.float16)  # of positive fp16: the next one, Inf at last
    above = np.where(nearest.astype(np.float64) < values, following, nearest)
    return np.asarray(above, np.float32)


def scales(largest: np.ndarray, levels: int) -> np.ndarray:
    """Return the float32 scale that puts each largest magnitude at `levels`; Inf where fp16 has none that large."""
    wanted = np.asarray(largest, np.float64) / levels
    return np.where(wanted > 0, fp16_above(np.maximum(wanted, LEAST_SCALE)), np.float32(1.0)).astype(np.float32)


def quantized(weight: np.ndarray, scale: np.ndarray, axis: int) -> np.ndarray:
    """Return the int8 values of a float weight, with one scale a slice along `axis`, rounding half to even.

    Scales come from `scales`, so that nothing lies beyond their levels: the largest weight is what they were made from.
    """
    shape = [1] * weight.ndim
    shape[axis] = -1
    steps = weight / scale.reshape(shape)
    return np.asarray(np.clip(np.rint(steps), -LEVELS, LEVELS), np.int8)
