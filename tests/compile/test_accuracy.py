"""Accuracy before and after compiling: the numbers against other implementations, and their edges."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import recall_score, roc_auc_score  # type: ignore[import-untyped]

from deploy_compile import accuracy
from deploy_runtime.spec import Classes, MultiLabel

SEEDS = st.integers(0, 2**31)


def recalls(*given: Any, **options: Any) -> list[float]:
    """scikit-learn's recall of each class; its own types are too narrow for that."""
    score: Any = recall_score
    return [float(value) for value in score(*given, average=None, zero_division=0.0, **options)]


@pytest.fixture(autouse=True, scope="module")
def few_resamples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accuracy, "RESAMPLES", 20)
        yield


def drawn(seed: int, samples: int = 60, classes: int = 3, skill: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits [samples, 1, classes] of a model with some skill, and the truth [samples, 1]."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, (samples, 1))
    logits = rng.standard_normal((samples, 1, classes)) + skill * np.eye(classes)[truth]
    return logits.round(1), truth  # rounded: ties happen


@given(SEEDS, st.integers(2, 5))
def test_accuracy_recall_and_auroc_are_scikit_learns(seed: int, classes: int) -> None:
    logits, truth = drawn(seed, classes=classes)
    found = accuracy.measure(logits, truth, Classes(classes))
    flat, said = truth.ravel(), logits[:, 0].argmax(axis=1)
    assert found.accuracy.value == pytest.approx((said == flat).mean())
    assert found.accuracy.low < found.accuracy.value < found.accuracy.high
    wanted = recalls(flat, said, labels=range(classes))
    for place, recall in enumerate(found.recall):
        assert recall.samples == (flat == place).sum()
        assert recall.recall is None or recall.recall.value == pytest.approx(wanted[place])
    chances = accuracy.probabilities(logits, Classes(classes))[:, 0]
    areas = [roc_auc_score(flat == place, chances[:, place]) for place in set(flat)]
    assert found.auroc is not None
    assert found.auroc.value == pytest.approx(np.mean(areas))
    assert found.auroc.low <= found.auroc.value <= found.auroc.high


@given(SEEDS)
def test_labels_are_judged_each_by_itself(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, (50, 4))
    scores = (truth + rng.standard_normal((50, 4))) * 2 - 1
    found = accuracy.measure(scores, truth, MultiLabel(4, threshold=0.0))
    assert found.accuracy.value == pytest.approx(((scores >= 0) == truth).mean())
    wanted = recalls(truth, scores >= 0)
    assert [one.recall.value for one in found.recall if one.recall] == pytest.approx(wanted)
    assert found.auroc is not None
    assert found.auroc.value == pytest.approx(roc_auc_score(truth, scores, average="macro"))


def test_a_class_that_no_sample_has_is_said_and_not_counted() -> None:
    logits, truth = drawn(0, classes=2)
    found = accuracy.measure(np.concatenate([logits, logits[..., :1] - 9], axis=-1), truth, Classes(3))
    assert (found.recall[2].samples, found.recall[2].recall) == (0, None)
    one_class = accuracy.measure(logits, np.zeros_like(truth), Classes(2))
    assert one_class.auroc is None


def test_calibration_error_of_a_model_that_is_right_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    chance = rng.uniform(0.5, 1.0, 20_000)
    truth = (rng.random(20_000) > chance).astype(int)[:, None]
    honest = np.stack([chance, 1 - chance], axis=-1)[:, None]
    sure = np.stack([np.ones_like(chance), np.zeros_like(chance)], axis=-1)[:, None]
    said = [accuracy.measure(scores, truth, Classes(2)).calibration_error for scores in (honest, sure)]
    assert said[0] is not None
    assert said[1] is not None
    assert said[0].value < 0.02
    assert said[1].value == pytest.approx(truth.mean(), abs=1e-9)  # it is always sure, and wrong that often


@pytest.mark.parametrize("task", [Classes(3), MultiLabel(3, threshold=0.5)])
def test_probabilities_are_left_alone_and_logits_are_not(task: Classes | MultiLabel) -> None:
    rng = np.random.default_rng(0)
    chances = rng.dirichlet(np.ones(3), 5)
    np.testing.assert_allclose(accuracy.probabilities(chances, task), chances)
    logits = rng.standard_normal((5, 3)) * 4
    made = accuracy.probabilities(logits, task)
    assert ((made > 0) & (made < 1)).all()
    if isinstance(task, Classes):
        np.testing.assert_allclose(made.sum(axis=-1), 1.0)


@given(SEEDS, st.floats(0.0, 2.0))
def test_the_difference_counts_what_only_one_got_right(seed: int, noise: float) -> None:
    before, truth = drawn(seed, samples=40)
    after = before + noise * np.random.default_rng(seed + 1).standard_normal(before.shape)
    found = accuracy.difference(before, after, truth, Classes(3))
    right = [accuracy.right(scores, truth, Classes(3)) for scores in (before, after)]
    assert found.lost - found.gained == right[0].sum() - right[1].sum()
    assert found.change.value == pytest.approx((found.gained - found.lost) / 40)
    assert found.change.low <= found.change.value <= found.change.high
    assert 0 < found.p_value <= 1
    if found.lost == found.gained:
        assert found.p_value == 1


def test_mcnemars_exact_test_is_near_the_usual_one_for_many_samples() -> None:
    truth = np.zeros((400, 1), int)
    before, after = np.zeros((400, 1, 2)), np.zeros((400, 1, 2))
    before[:30, 0, 1], after[20:80, 0, 1] = 1, 1  # before is wrong on 30, after on 60, both on 10
    found = accuracy.difference(before, after, truth, Classes(2))
    assert (found.lost, found.gained) == (50, 20)
    statistic = (abs(50 - 20) - 1) ** 2 / 70  # chi-squared with one degree of freedom, Edwards' correction
    assert found.p_value == pytest.approx(math.erfc(math.sqrt(statistic / 2)), rel=0.2)
    assert found.p_value < 0.001
