"""How an error changes along a film: its course part by part, and where a straight line through it begins and ends.

The end of a film alone says little: it may be a hard scene. A line through all of its parts says whether the error
grows, and its standard error how sure that is.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

PARTS, LEAST_PARTS = 16, 4
MOST_DB = 160.0  # an exact part counts as this much
SURE = 2.0  # standard errors: about a 95 % interval


def bounds(frames: int) -> list[tuple[int, int]]:
    """Return where the parts of a film begin and end: PARTS of two frames or more, as equal as can be."""
    edges = np.linspace(0, frames, min(PARTS, max(frames // 2, 1)) + 1).round().astype(int).tolist()
    return list(pairwise(edges))


def ends(course_db: Sequence[float]) -> tuple[float, float] | None:
    """Return the beginning and the end of the line through the parts' ratios in dB, least squares; None for too few.

    The end is the favourable edge of its 95 % interval: an error is taken to grow only where that is sure.
    """
    if len(course_db) < LEAST_PARTS:
        return None
    y = np.clip(np.asarray(course_db, np.float64), -MOST_DB, MOST_DB)
    x = np.linspace(0.0, 1.0, len(y)) - 0.5
    spread = float(np.square(x).sum())
    slope = float((x * y).sum()) / spread
    rest = y - y.mean() - slope * x
    unsure = float(np.sqrt(np.square(rest).sum() / (len(y) - 2) / spread))
    begin = float(y.mean()) - 0.5 * slope
    return begin, begin + slope + SURE * unsure
