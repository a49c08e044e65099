"""Dense maps beside a reference: what a single ratio does not show of a picture.

PSNR and SSIM are those of the field (Wang et al., Image quality assessment, IEEE TIP 2004; windows of 7 x 7 of equal
weight, K1 0.01, K2 0.03), over the reference's own range of values. Neither sees one small lesion that went wrong in a
large map: so the worst window of 16 x 16 is told too, and where it is.
"""

import math

import numpy as np

from deploy_runtime.drift import MapDrift
from deploy_runtime.session import Array

WINDOW, LOCAL = 7, 16  # pixels: sides of the windows of SSIM, and of the worst one
K1, K2 = 0.01, 0.03


def compare(reference: Array, got: Array) -> MapDrift | None:
    """Compare maps [samples, channels, height, width]; None for arrays that are none, or not finite."""
    if reference.ndim != 4 or min(reference.shape[2:]) < WINDOW or not np.all(np.isfinite(got)):
        return None
    peak = float(reference.max()) - float(reference.min())
    error2, ssims, worst, place = 0.0, [], -1.0, (0, 0, 0)
    side = min(LOCAL, *reference.shape[2:])
    for sample, (wanted_maps, got_maps) in enumerate(zip(reference, got, strict=True)):
        for wanted, found in zip(wanted_maps.astype(np.float64), got_maps.astype(np.float64), strict=True):
            error = np.abs(found - wanted)
            error2 += float(np.square(error).sum())
            ssims.append(_ssim(wanted, found, peak))
            local = _means(error, side)
            row, column = np.unravel_index(int(local.argmax()), local.shape)
            if local[row, column] > worst:
                worst, place = float(local[row, column]), (sample, int(row) + side // 2, int(column) + side // 2)
    rmse = math.sqrt(error2 / reference.size)
    return MapDrift(
        psnr_db=math.inf if rmse == 0 else 20 * math.log10(peak / rmse) if peak > 0 else -math.inf,
        ssim=float(np.mean(ssims)),
        worst_local=worst / peak if peak > 0 else (0.0 if worst == 0 else math.inf),
        sample=place[0],
        row=place[1],
        column=place[2],
    )


def _ssim(one: Array, other: Array, peak: float) -> float:
    """Return the mean structural similarity of two maps [height, width]."""
    if peak == 0.0:
        return 1.0 if np.array_equal(one, other) else 0.0
    c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
    mean, mean2 = _means(one, WINDOW), _means(other, WINDOW)
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    variance = unbiased * (_means(one * one, WINDOW) - mean * mean)
    variance2 = unbiased * (_means(other * other, WINDOW) - mean2 * mean2)
    covariance = unbiased * (_means(one * other, WINDOW) - mean * mean2)
    above = (2 * mean * mean2 + c1) * (2 * covariance + c2)
    below = (mean * mean + mean2 * mean2 + c1) * (variance + variance2 + c2)
    return float(np.mean(above / below))


def _means(values: Array, side: int) -> Array:
    """Return the mean of every window of `side` x `side`, [height - side + 1, width - side + 1]."""
    sums = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    whole = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return np.asarray(whole / side**2)
