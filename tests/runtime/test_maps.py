"""Maps are compared as pictures, and the worst place is found."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_runtime.drift import MapDrift
from deploy_runtime.maps import K1, K2, LOCAL, WINDOW, compare
from deploy_runtime.measure import measure
from deploy_runtime.spec import Classes, DenseMap


def maps(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def windowed_ssim(one: np.ndarray, other: np.ndarray, peak: float) -> float:
    """SSIM as its paper writes it, a window at a time."""
    found = []
    for row in range(one.shape[0] - WINDOW + 1):
        for column in range(one.shape[1] - WINDOW + 1):
            x, y = (m[row : row + WINDOW, column : column + WINDOW].astype(np.float64).ravel() for m in (one, other))
            (a, ab), (_, b) = np.cov(x, y)
            c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
            top = (2 * x.mean() * y.mean() + c1) * (2 * ab + c2)
            found.append(top / ((x.mean() ** 2 + y.mean() ** 2 + c1) * (a + b + c2)))
    return float(np.mean(found))


@given(st.integers(0, 100), st.floats(0.001, 2.0))
def test_structural_similarity_is_that_of_its_paper(seed: int, noise: float) -> None:
    wanted = maps(seed, 1, 1, 12, 15)
    got = wanted + np.float32(noise) * maps(seed + 1, 1, 1, 12, 15)
    found = compare(wanted, got)
    assert found is not None
    peak = float(wanted.max()) - float(wanted.min())
    assert found.ssim == pytest.approx(windowed_ssim(wanted[0, 0], got[0, 0], peak), abs=1e-6)
    rmse = math.sqrt(float(np.mean(np.square(got.astype(np.float64) - wanted))))
    assert found.psnr_db == pytest.approx(20 * math.log10(peak / rmse))


def test_the_same_map_is_the_same() -> None:
    found = compare(maps(0, 2, 1, 32, 32), maps(0, 2, 1, 32, 32))
    assert found is not None
    assert (found.psnr_db, found.worst_local) == (math.inf, 0.0)
    assert found.ssim == pytest.approx(1.0)


def test_one_wrong_place_in_a_large_map_is_found() -> None:
    wanted = maps(1, 3, 1, 128, 128)
    got = wanted.copy()
    got[1, 0, 40 : 40 + LOCAL, 90 : 90 + LOCAL] += 1.0
    found = compare(wanted, got)
    assert found is not None
    assert (found.sample, found.row, found.column) == (1, 40 + LOCAL // 2, 90 + LOCAL // 2)
    assert found.worst_local == pytest.approx(1.0 / float(np.ptp(wanted)), rel=1e-5)
    assert found.ssim > 0.99  # which shows next to nothing of it


def test_a_map_of_one_value_and_one_that_is_not_finite() -> None:
    flat = np.zeros((1, 1, 16, 16), np.float32)
    assert compare(flat, flat) == MapDrift(math.inf, 1.0, 0.0, 0, 8, 8)
    assert compare(flat, flat + np.nan) is None


def test_only_dense_maps_are_measured_as_maps() -> None:
    wanted = {"map": maps(2, 2, 1, 16, 16)}
    assert measure(wanted, wanted, DenseMap())[0].map is not None
    scores = {"logits": maps(3, 2, 5)}
    assert measure(scores, scores, Classes(5))[0].map is None
    assert compare(maps(4, 2, 16), maps(4, 2, 16)) is None
