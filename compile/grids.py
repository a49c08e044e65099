"""The 8-bit grids of activations: which real number each of 256 integers stands for.

GPUs take one grid, symmetric S8: TensorRT refuses any zero point but 0. CPUs take any, so that there a tensor that is
never or rarely negative (behind a ReLU, a SiLU, a GELU) spans its calibrated range with all 256 steps instead of some
130: up to one bit more for nothing. OpenVINO, one thread, AVX2, 16 synthetic samples; dB of the logits, ms:

                  symmetric S8     U8 where never negative     and where rarely
resnet18          27.8   19.1      28.7   17.9                 (none is)
x3d_s             23.8   52.1      26.1   48.2                 26.5   48.7
efficientnet_b0    7.1   12.5      (none is)                   11.0   12.6
"""

from dataclasses import dataclass

import numpy as np

from deploy_compile.results_int8 import Range

UNSIGNED_STEPS, SIGNED_STEPS, MIDDLE = 255, 127, 128
SKEWED = 0.5  # a tensor whose least value is nearer to zero than this share of its largest has a grid of its own
LEAST_THRESHOLD = 1e-8  # of a tensor that calibration only saw as zero, in its own units


@dataclass(frozen=True)
class Grid:
    """An 8-bit quantization of one tensor: value = scale · (q - zero), with q from 0 to 255."""

    scale: float
    zero: int

    @property
    def symmetric(self) -> bool:
        """Whether it is S8 with zero point 0, moved by 128."""
        return self.zero == MIDDLE


def grid(seen: Range, non_negative: bool = False) -> Grid:
    """Return the grid that spans a calibrated range on a CPU; `non_negative`: a Relu follows, whatever was seen."""
    threshold = max(seen.threshold, LEAST_THRESHOLD)
    if non_negative or seen.non_negative:
        return Grid(threshold / UNSIGNED_STEPS, 0)
    low, high = max(seen.least, -threshold), min(seen.largest, threshold)
    if -low < SKEWED * high:
        scale = (high - low) / UNSIGNED_STEPS
        return Grid(scale, int(np.rint(-low / scale)))
    return Grid(threshold / SIGNED_STEPS, MIDDLE)
