"""Ratios over sittings: a luck that a whole sitting has is in the interval, which rounds alone do not show."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from deploy_runtime import timing


@pytest.fixture(scope="module")
def sittings() -> ModuleType:
    folder = str(Path(__file__).parent.parent / "benchmarks")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("sittings")
    finally:
        sys.path.remove(folder)


def _rounds(seconds: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(seconds, seconds * 0.002, 40)


def test_one_sitting_tells_what_its_rounds_tell(sittings: ModuleType) -> None:
    one, other = _rounds(1.1, 0), _rounds(1.0, 1)
    ratio, low, high = sittings.ratio_interval([(one, other)])
    assert ratio == pytest.approx(timing.ratio_interval(one, other)[0])
    assert 1.09 < low < ratio < high < 1.11


def test_luck_of_single_sittings_makes_no_winner(sittings: ModuleType) -> None:
    lucky = [(_rounds(factor, seed), _rounds(1.0, seed + 9)) for seed, factor in enumerate((1.02, 0.98, 1.01, 0.99))]
    assert timing.ratio_interval(*lucky[0])[1] > 1  # alone it would be a lead beyond the interval
    ratio, low, high = sittings.ratio_interval(lucky)
    assert low < 1 < high
    assert ratio == pytest.approx(1.0, abs=0.005)


def test_what_every_sitting_shows_is_a_lead(sittings: ModuleType) -> None:
    leads = [(_rounds(factor, seed), _rounds(1.0, seed + 9)) for seed, factor in enumerate((1.06, 1.04, 1.05))]
    assert sittings.ratio_interval(leads)[1] > 1.03


def test_no_sitting_is_refused(sittings: ModuleType) -> None:
    with pytest.raises(ValueError, match="no sitting"):
        sittings.ratio_interval([])
