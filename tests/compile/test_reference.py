"""PyTorch's own answers: in the order of the samples, with fp64 beside them, fewer where a pass is slow."""

from pathlib import Path

import numpy as np
import pytest
import torch

import deploy_recipes
from deploy_compile import load, reference, samples
from deploy_compile.results import Loaded, Reference, Samples
from deploy_compile.sample_files import read
from deploy_recipes import Recipe

PARAMS = {"size": "32", "num_classes": "7"}


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Loaded, Recipe, Samples]:
    recipe = deploy_recipes.get("resnet18")
    recipe = recipe.fitted(recipe.values(PARAMS))
    for name in ("load", "samples", "out"):
        (tmp_path / name).mkdir()
    loaded = load.load(tmp_path / "load", recipe, "resnet18", PARAMS, "seeded", None)
    return loaded, recipe, samples.collect(tmp_path / "samples", recipe, None, "minmax")


def run(tmp_path: Path, inputs: tuple[Loaded, Recipe, Samples]) -> Reference:
    before = torch.get_num_threads()
    try:
        return reference.reference(tmp_path / "out", *inputs, threads=1)
    finally:
        torch.set_num_threads(before)


def test_answers_are_the_modules_in_order(tmp_path: Path, inputs: tuple[Loaded, Recipe, Samples]) -> None:
    got = run(tmp_path, inputs)
    net = load.module(inputs[0])
    for source, answers in ((inputs[2].held_out, got.held_out), (inputs[2].golden, got.golden)):
        pairs = list(zip(read(source), read(answers), strict=True))
        assert pairs
        for sample, answer in pairs:
            np.testing.assert_allclose(
                answer["logits"], net(torch.from_numpy(sample["image"])).numpy(), rtol=1e-4, atol=1e-5
            )
    assert got.seconds > 0


def test_fp64_tells_how_far_fp32_is_from_the_truth(tmp_path: Path, inputs: tuple[Loaded, Recipe, Samples]) -> None:
    got = run(tmp_path, inputs)
    wide = list(read(got.fp64))
    assert len(wide) == got.fp64_samples >= 2
    assert wide[0]["logits"].dtype == np.float64
    narrow = [answer["logits"] for answer, _ in zip(read(got.held_out), wide, strict=False)]
    furthest = max(float(np.abs(a - b["logits"]).max()) for a, b in zip(narrow, wide, strict=True))
    assert got.fp64_distance == {"logits": pytest.approx(furthest)}
    assert 0 < furthest < 1e-4


@pytest.mark.parametrize(
    ("name", "params", "count"),
    [
        ("resnet18", {}, 4),  # one decision a sample: no affordable number tells
        ("resnet50_tecno", {}, 7),  # 16 frames a sample
        ("resnet50_tecno", {"frames": "32"}, 4),
        ("resnet50_tecno", {"frames": "5"}, 4),  # 20 samples would be needed, there are 16
        ("chexnet", {}, 8),  # 14 labels a sample
        ("raddino", {}, 4),  # features: nothing is decided
    ],
)
def test_where_a_sample_holds_several_decisions_there_are_enough_to_tell(
    name: str, params: dict[str, str], count: int
) -> None:
    recipe = deploy_recipes.get(name)
    assert reference.fewest(recipe.fitted(recipe.values(params))) == count


def test_a_slow_network_is_measured_on_fewer(
    tmp_path: Path, inputs: tuple[Loaded, Recipe, Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "SLOW_S", 0.0)
    got = run(tmp_path, inputs)
    assert len(list(read(got.held_out))) == reference.SLOW_SAMPLES
    assert len(list(read(got.fp64))) == got.fp64_samples == reference.SLOW_FP64_SAMPLES
