"""8-bit grids of activations on CPUs: all 256 steps over the calibrated range, wherever it lies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_compile.grids import Grid, grid
from deploy_compile.results_int8 import Range


def seen(least: float, largest: float, threshold: float | None = None) -> Range:
    return Range(least, largest, threshold or max(abs(least), abs(largest)), 0.0, "minmax")


@given(st.floats(-50, 50), st.floats(0, 50), st.floats(0, 1))
def test_a_grid_spans_the_calibrated_range(least: float, span: float, at: float) -> None:
    chosen = grid(seen(least, least + span))
    value = least + at * span
    quantized = np.clip(np.rint(value / chosen.scale) + chosen.zero, 0, 255)
    assert abs((quantized - chosen.zero) * chosen.scale - value) <= 0.5000001 * chosen.scale
    assert (np.rint(0.0) + chosen.zero - chosen.zero) * chosen.scale == 0.0  # zero, as convolutions pad, is exact


@given(st.floats(0.01, 50), st.floats(0.0, 1.0))
def test_it_is_never_coarser_than_symmetric_s8(largest: float, below: float) -> None:
    assert grid(seen(-below * largest, largest)).scale <= largest / 127 * (1 + 1e-12)


@pytest.mark.parametrize(
    ("least", "largest", "zero"), [(0.0, 4.0, 0), (1.0, 4.0, 0), (-0.28, 10.0, 7), (-3.0, 4.0, 128), (-4.0, 1.0, 128)]
)
def test_where_zero_lies(least: float, largest: float, zero: int) -> None:
    found = grid(seen(least, largest))
    assert found.zero == zero
    assert found.symmetric == (zero == 128)


def test_the_threshold_clips_both_ends() -> None:
    found = grid(seen(-0.5, 100.0, threshold=10.0))
    assert found.scale == pytest.approx(10.5 / 255)
    assert grid(seen(-2.0, 100.0, threshold=1.0)).symmetric  # what is left of it is as wide below as above


def test_a_relu_behind_leaves_nothing_below_zero() -> None:
    assert grid(seen(-5.0, 4.0), non_negative=True) == Grid(5.0 / 255, 0)


def test_a_tensor_only_ever_zero_has_a_grid() -> None:
    assert grid(seen(0.0, 0.0)) == Grid(1e-8 / 255, 0)
