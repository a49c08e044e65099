"""The judge: numbers checked against their definitions, and the rules by which a verdict falls."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deploy_runtime.drift import Drift
from deploy_runtime.errors import DeployError
from deploy_runtime.judge import as_built, judge, passed
from deploy_runtime.measure import Array, measure, wilson
from deploy_runtime.spec import Classes, Features, Limit

FP32 = Limit(max_relative=1e-4, fp64_ratio=10.0, agreement=1.0)
INT8 = Limit(cosine=0.99, sqnr_db=18.0, agreement=0.95)
values = st.floats(-1e3, 1e3, width=32)
pairs = st.integers(1, 5).flatmap(
    lambda n: st.tuples(arrays(np.float32, (n, 4), elements=values), arrays(np.float32, (n, 4), elements=values))
)


def one(reference: Array, got: Array, own: float = 0.0, fp64: Array | None = None) -> Drift:
    wide = None if fp64 is None else {"y": fp64}
    (drift,) = measure({"y": reference}, {"y": got}, Classes(reference.shape[-1]), {"y": own}, wide)
    return drift


def logits(samples: int = 20, classes: int = 5, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((samples, classes)).astype(np.float32)


@given(arrays(np.float32, (3, 4), elements=values))
def test_equal_outputs_pass_every_limit(y: Array) -> None:
    drift = one(y, y.copy(), fp64=y.astype(np.float64))
    assert (drift.max_abs, drift.max_relative, drift.sqnr_db, drift.agreement) == (0.0, 0.0, math.inf, 1.0)
    assert drift.cosine == pytest.approx(1.0)
    assert passed(judge([drift], FP32))
    assert passed(judge([drift], INT8))


@given(pairs)
def test_numbers_follow_their_definitions(pair: tuple[Array, Array]) -> None:
    y, z = pair
    drift = one(y, z)
    wide, error = y.astype(np.float64), z.astype(np.float64) - y
    assert drift.max_abs == np.abs(error).max()
    assert drift.mean_abs == pytest.approx(np.abs(error).mean())
    assert drift.scale == np.abs(wide).max()
    assert -1.0 <= drift.worst_cosine <= 1.0
    assert 0.0 <= (drift.agreement_low or 0.0) <= (drift.agreement or 0.0) <= (drift.agreement_high or 0.0) <= 1.0
    if drift.scale:
        assert drift.max_relative == pytest.approx(np.abs(error).max() / np.abs(wide).max())
    if np.any(error) and np.any(y):
        assert drift.sqnr_db == pytest.approx(10 * np.log10((wide**2).sum() / (error**2).sum()))


@given(pairs, st.permutations(range(5)))
def test_the_order_of_samples_changes_nothing(pair: tuple[Array, Array], order: list[int]) -> None:
    order = [i for i in order if i < len(pair[0])]
    plain, permuted = one(*pair), one(pair[0][order], pair[1][order])
    assert plain.agreement == permuted.agreement
    assert plain.max_abs == permuted.max_abs
    assert plain.cosine == pytest.approx(permuted.cosine)
    assert plain.worst_cosine == permuted.worst_cosine


@settings(max_examples=30)
@given(st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(0, 19), st.integers(0, 4))
def test_one_value_that_is_not_finite_fails_everything(bad: float, row: int, column: int) -> None:
    y = logits()
    z = y.copy()
    z[row, column] = bad
    drift = one(y, z, own=1.0, fp64=y[:2].astype(np.float64))
    assert not drift.finite
    for limit in (FP32, INT8):
        verdicts = judge([drift], limit, {"y": 1.0})
        assert verdicts
        assert not any(verdict.passed for verdict in verdicts)


def test_cosine_is_over_all_samples_and_worst_cosine_of_one() -> None:
    y = np.array([[100.0, 0.0], [1.0, 0.0]], np.float32)
    z = np.array([[100.0, 0.0], [0.0, 1.0]], np.float32)
    drift = one(y, z)
    assert drift.cosine > 0.999
    assert drift.worst_cosine == 0.0


def test_a_flip_is_excused_by_the_distance_from_fp64_and_never_by_the_candidates_noise() -> None:
    y = np.array([[1.0, 0.9, 0.0]] * 4, np.float32)
    z = y.copy()
    z[0] = [0.9, 1.0, 0.0]  # flips inside a margin of 0.1
    z[1] = [0.0, 0.0, 9.0]  # flips across a margin of 1.0, with huge noise
    near = one(y, z, own=0.06)
    assert (near.agreement, near.excused, near.decisions) == (0.75, 1, 4)
    sharp = one(y, z, own=0.04)
    assert (sharp.agreement, sharp.excused) == (0.5, 0)
    assert one(y, z).agreement == 0.5


def test_the_fp64_ratio_is_in_multiples_of_pytorchs_own_distance() -> None:
    exact = logits(2).astype(np.float64)
    y, z = (exact + 1e-6).astype(np.float64), exact + 5e-6
    assert one(y, z, fp64=exact).fp64_ratio == pytest.approx(5.0, rel=1e-3)
    more = np.concatenate([y, y]), np.concatenate([z, z + 1])  # only the first samples have an fp64 answer
    assert one(*more, fp64=exact).fp64_ratio == pytest.approx(5.0, rel=1e-3)


def test_a_reference_equal_to_fp64_does_not_divide_by_zero() -> None:
    y = np.full((2, 4), 2.0, np.float32)
    ratio = one(y, y + np.float32(2e-6), fp64=y.astype(np.float64)).fp64_ratio
    assert ratio is not None
    assert 1.0 < ratio < 20.0


def test_an_ill_conditioned_net_is_judged_by_its_own_distance_from_fp64() -> None:
    y = logits()
    scale = float(np.abs(y).max())
    drift = one(y, y + np.float32(4e-4 * scale))
    strict = {v.metric: v for v in judge([drift], FP32)}
    assert not strict["max_relative"].passed
    own = {"y": 1e-4 * scale}  # ten times this is above 1e-4
    eased = {v.metric: v for v in judge([drift], FP32, own)}
    assert eased["max_relative"].passed
    assert eased["max_relative"].limit == pytest.approx(1e-3)
    assert "ill-conditioned" in eased["max_relative"].note
    well = {v.metric: v for v in judge([drift], FP32, {"y": 1e-7 * scale})}
    assert well["max_relative"].limit == 1e-4
    assert well["max_relative"].note == ""


def test_what_was_not_measured_is_not_judged_and_nothing_judged_is_no_pass() -> None:
    y = logits()
    (drift,) = measure({"y": y}, {"y": y}, Features())
    assert [v.metric for v in judge([drift], INT8)] == ["cosine", "sqnr_db"]
    verdicts = judge([drift], Limit(agreement=1.0))
    assert not passed(verdicts)
    assert "no limit" in verdicts[0].note
    assert not passed(judge([], INT8))


@pytest.mark.parametrize(
    ("got", "said"),
    [
        ({"z": np.zeros((2, 3))}, "outputs are z instead of y"),
        ({}, "outputs are none instead of y"),
        ({"y": np.zeros((2, 4))}, r"shape \[2, 4\] instead of \[2, 3\]"),
        ({"y": np.zeros((1, 3))}, r"shape \[1, 3\]"),
    ],
)
def test_a_wrong_name_or_shape_is_an_error(got: dict[str, Array], said: str) -> None:
    with pytest.raises(DeployError, match=said):
        measure({"y": np.ones((2, 3))}, got, Classes(3))


def test_a_reference_that_is_not_finite_or_has_other_classes_is_an_error() -> None:
    with pytest.raises(DeployError, match="PyTorch's own output y"):
        measure({"y": np.array([[np.nan]])}, {"y": np.array([[1.0]])}, Features())
    with pytest.raises(DeployError, match="no output has 7 classes"):
        measure({"y": np.ones((2, 3))}, {"y": np.ones((2, 3))}, Classes(7))


@given(st.integers(0, 200), st.integers(0, 200))
def test_the_wilson_interval_holds_the_share(successes: int, more: int) -> None:
    trials = successes + more
    low, high = wilson(successes, trials)
    assert 0.0 <= low <= high <= 1.0
    if trials:
        assert low <= successes / trials <= high
    assert wilson(16, 16)[0] == pytest.approx(0.8064, abs=1e-3)


def test_golden_samples_are_judged_as_the_builder_found_them() -> None:
    limit = Limit(cosine=0.99, sqnr_db=18.0, agreement=0.95)
    rng = np.random.default_rng(0)
    reference = {"logits": rng.standard_normal((4, 50)).astype(np.float32)}
    noise = rng.standard_normal((4, 50)).astype(np.float32)
    built, same, worse = (
        measure(reference, {"logits": reference["logits"] + share * noise}, Classes(50)) for share in (0.2, 0.22, 0.6)
    )
    assert not passed(judge(built, limit))  # 14 dB: further than the recipe allows, on samples beyond its ranges
    assert passed(judge(same, as_built(limit, built)))
    assert not passed(judge(worse, as_built(limit, built)))
    assert as_built(limit, ()) == limit
    fine = measure(reference, {"logits": reference["logits"] + 1e-3 * noise}, Classes(50))
    assert as_built(limit, fine).sqnr_db == 18.0  # never stricter than the recipe
    assert as_built(Limit(agreement=1.0), built).agreement == 1.0  # fp32 flips nowhere
