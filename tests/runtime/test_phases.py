"""Sequences of phases are compared as sequences."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_runtime.drift import PhaseDrift, Segment
from deploy_runtime.phases import compare, segments

PHASES = st.lists(st.integers(0, 3), min_size=1, max_size=60).map(np.array)


@given(PHASES)
def test_the_same_sequence_differs_in_nothing(phases: np.ndarray) -> None:
    runs = segments(phases)
    assert compare(phases, phases) == PhaseDrift(len(phases), 1.0, 1.0, 0, 0, 0, runs, runs)
    assert np.array_equal(np.repeat([run.phase for run in runs], [run.frames for run in runs]), phases)
    assert [run.start for run in runs] == [0, *np.cumsum([run.frames for run in runs])[:-1]]
    assert all(one.phase != other.phase for one, other in pairwise(runs))


@given(st.tuples(PHASES, PHASES))
def test_both_directions_count_the_same(pair: tuple[np.ndarray, np.ndarray]) -> None:
    length = min(map(len, pair))
    one, other = pair[0][:length], pair[1][:length]
    there, back = compare(one, other), compare(other, one)
    assert (there.agreement, there.edit_score) == (back.agreement, back.edit_score)
    assert (there.false_switches, there.missed_switches) == (back.missed_switches, back.false_switches)
    assert 0.0 <= there.edit_score <= 1.0


def test_a_boundary_that_moves_is_no_false_switch() -> None:
    found = compare(np.repeat([0, 1, 2], [20, 20, 20]), np.repeat([0, 1, 2], [23, 16, 21]))
    assert replace(found, reference=(), got=()) == PhaseDrift(60, 56 / 60, 1.0, 3, 0, 0)
    assert found.got == (Segment(0, 23, 0), Segment(23, 16, 1), Segment(39, 21, 2))


def test_a_flicker_is_two_false_switches_and_an_edit() -> None:
    wanted = np.repeat([0, 1], [20, 20])
    got = wanted.copy()
    got[10] = 1
    found = compare(wanted, got)
    assert (found.false_switches, found.missed_switches, found.boundary_shift) == (2, 0, 0)
    assert found.edit_score == pytest.approx(1 - 2 / 4)
    assert found.agreement == pytest.approx(39 / 40)


def test_a_phase_that_is_never_seen_is_missed() -> None:
    found = compare(np.repeat([0, 1, 2], [20, 5, 20]), np.repeat([0, 2], [22, 23]))
    assert (found.false_switches, found.missed_switches) == (1, 2)
    assert found.edit_score == pytest.approx(1 - 1 / 3)


def test_sequences_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        compare(np.zeros(3), np.zeros(4))
