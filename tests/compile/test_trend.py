from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_compile import trend


@given(st.integers(1, 500))
def test_parts_cover_a_film_without_a_gap(frames: int) -> None:
    found = trend.bounds(frames)
    assert found[0][0] == 0
    assert found[-1][1] == frames
    assert all(one[1] == other[0] for one, other in pairwise(found))
    assert all(high - low >= min(2, frames) for low, high in found)


@given(st.floats(-50, 50), st.floats(-100, 100))
def test_a_straight_course_is_its_own_trend(slope: float, start: float) -> None:
    begin, end = trend.ends([start + slope * place / 15 for place in range(16)]) or (0.0, 0.0)
    assert (begin, end) == pytest.approx((start, start + slope), abs=1e-5)


def test_one_hard_part_at_the_end_is_no_trend_and_a_steady_fall_is() -> None:
    noise = np.random.default_rng(0).normal(0.0, 1.0, 16)
    hard = [*(30.0 + noise[:15]), 20.0]
    begin, end = trend.ends(hard) or (0.0, 0.0)
    assert end > begin - 6.0
    begin, end = trend.ends(list(30.0 + noise - np.linspace(0.0, 12.0, 16))) or (0.0, 0.0)
    assert end < begin - 6.0


def test_exact_and_broken_parts_stay_finite_and_a_short_film_has_none() -> None:
    assert trend.ends([float("inf")] * 8) == pytest.approx((trend.MOST_DB, trend.MOST_DB))
    begin, end = trend.ends([40.0] * 8 + [-float("inf")] * 8) or (0.0, 0.0)
    assert end < begin - 100.0
    assert trend.ends([30.0, 20.0, 10.0]) is None
