"""Decisions over time: how a sequence of phases differs from a reference, in the measures of that field.

Framewise agreement says little of a sequence: one wrong frame in a hundred may be a boundary that moved by one, or a
phase that flickers all the time. The edit score compares the order of the segments (Lea et al., Segmental
spatiotemporal CNNs, ECCV 2016); boundaries and switches are matched by what changes into what.
"""

from collections.abc import Sequence

import numpy as np

from deploy_runtime.drift import PhaseDrift, Segment
from deploy_runtime.session import Array

REACH = 15  # frames; a boundary further away is another one


def compare(reference: Array, got: Array) -> PhaseDrift:
    """Compare two sequences of class numbers [frames]. Raises ValueError where their lengths differ."""
    if reference.shape != got.shape or reference.ndim != 1 or not reference.size:
        raise ValueError(f"phases of shapes {reference.shape} and {got.shape} cannot be compared")
    wanted, found = _switches(reference), _switches(got)
    matched = _matched(wanted, found)
    return PhaseDrift(
        frames=len(reference),
        agreement=float(np.mean(reference == got)),
        edit_score=_edit_score(_order(reference), _order(got)),
        boundary_shift=max((abs(wanted[i][0] - found[j][0]) for i, j in matched), default=0),
        false_switches=len(found) - len(matched),
        missed_switches=len(wanted) - len(matched),
        reference=segments(reference),
        got=segments(got),
    )


def segments(phases: Array) -> tuple[Segment, ...]:
    """Return the runs of equal classes, in order."""
    starts = [0, *(place for place, _, _ in _switches(phases))]
    ends = [*starts[1:], len(phases)]
    return tuple(Segment(start, end - start, int(phases[start])) for start, end in zip(starts, ends))  # noqa: B905


def _switches(phases: Array) -> list[tuple[int, int, int]]:
    """Return (frame, from, to) of every change."""
    places = np.flatnonzero(phases[1:] != phases[:-1]) + 1
    return [(int(place), int(phases[place - 1]), int(phases[place])) for place in places]


def _order(phases: Array) -> list[int]:
    return [int(phases[0]), *(to for _, _, to in _switches(phases))]


def _matched(wanted: Sequence[tuple[int, int, int]], found: Sequence[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Pair changes of the same phases within REACH frames, the nearest first; each is paired once."""
    near = sorted(
        (abs(one[0] - other[0]), i, j)
        for i, one in enumerate(wanted)
        for j, other in enumerate(found)
        if one[1:] == other[1:] and abs(one[0] - other[0]) <= REACH
    )
    left, right, pairs = set[int](), set[int](), []
    for _, i, j in near:
        if i not in left and j not in right:
            left.add(i)
            right.add(j)
            pairs.append((i, j))
    return pairs


def _edit_score(one: Sequence[int], other: Sequence[int]) -> float:
    """Return 1 - Levenshtein distance / length of the longer."""
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, start=1):
        last, row[0] = row[0], i
        for j, right in enumerate(other, start=1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (left != right))
    return 1.0 - row[-1] / max(len(one), len(other))
