"""A calibration set that gives poor ranges is refused or told of, with what was measured."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from deploy_compile.ranges import calibrate
from deploy_compile.results import Graph
from deploy_compile.sample_files import write
from deploy_compile.saturation import doubts, saturation, symptoms
from deploy_recipes import Classes, Preprocess, Recipe, Tensor
from deploy_runtime.errors import DeployError
from tests import toys

RECIPE = Recipe(
    name="toy",
    family="toy",
    network=lambda: None,  # type: ignore[arg-type,return-value]
    inputs=(Tensor("image", ("batch", 3, 8, 8), layout="NCHW"), Tensor("age", ("batch", 1), layout="NC")),
    outputs=(Tensor("logits", ("batch", 5), layout="NC"),),
    task=Classes(5),
    parameters=1,
    source="test",
    preprocess=Preprocess(crop=(8, 8), mean=(0.5,) * 3, std=(0.25,) * 3, layout="CHW"),
)
IMAGES = [np.random.default_rng(seed).uniform(-2, 2, (1, 3, 8, 8)).astype(np.float32) for seed in range(6)]
BLANK = np.full((1, 3, 8, 8), 0.5, np.float32)


def told(folder: Path, images: Sequence[np.ndarray], recipe: Recipe = RECIPE) -> str:
    write(folder / "set", ({"image": image, "age": np.ones((1, 1), np.float32)} for image in images))
    return "; ".join(doubts(folder / "set", recipe))


def test_a_good_set_raises_no_doubt(tmp_path: Path) -> None:
    assert told(tmp_path, IMAGES) == ""


def test_one_sample_or_the_same_again_is_told(tmp_path: Path) -> None:
    assert told(tmp_path, IMAGES[:1]).startswith("1 calibration sample only")
    (tmp_path / "again").mkdir()
    assert told(tmp_path / "again", [IMAGES[0]] * 5) == "of 5 calibration samples only 1 differs"


def test_blank_samples_are_counted_and_a_blank_set_refused(tmp_path: Path) -> None:
    assert "2 of 6 calibration samples are blank" in told(tmp_path, [*IMAGES[:4], BLANK, BLANK + 1])
    (tmp_path / "blank").mkdir()
    with pytest.raises(DeployError, match="all 3 calibration samples are blank"):
        told(tmp_path / "blank", [BLANK - 1, BLANK, BLANK + 1])


def test_values_that_preprocessing_cannot_give_are_told_and_another_scale_refused(tmp_path: Path) -> None:
    bright = IMAGES[0].copy()
    bright[0, 0, 0] = 9.0
    assert "0.69 % of the calibration samples' values of image lie outside" in told(tmp_path, [*IMAGES[1:], bright])
    (tmp_path / "raw").mkdir()
    with pytest.raises(DeployError, match=r"they run from 0.* to 25.*, it gives -2.08 to 2.08"):
        told(tmp_path / "raw", [(image + 2) * 63.75 for image in IMAGES])
    (tmp_path / "open").mkdir()
    assert told(tmp_path / "open", [image * 100 for image in IMAGES], replace(RECIPE, preprocess=None)) == ""


def test_symptoms_are_measured_on_samples_of_another_range(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv_a"),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "w"], ["b"], "conv_b"),
        helper.make_node("Clip", ["b", "zero", "zero"], ["nothing"], "clip"),
        helper.make_node("Conv", ["nothing", "w"], ["y"], "conv_c"),
    ]
    constants = [
        numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w"),
        numpy_helper.from_array(np.zeros((), np.float32), "zero"),
    ]
    path = toys.save(tmp_path / "fp32.onnx", nodes, constants, [("x", (1, 1, 4, 4))], [("y", (1, 1, 4, 4))])
    graph = Graph(path, "fp32", 5, 3, 0, {})
    ramp = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 1, 4, 4)
    write(tmp_path / "dim", [{"x": ramp * 0.5}])
    write(tmp_path / "bright", [{"x": ramp}, {"x": ramp * 0.5}])
    ranges = calibrate(tmp_path, graph, tmp_path / "dim", "minmax", 1)
    found = saturation(tmp_path, graph, ranges, tmp_path / "bright", 1)
    assert (found.tensors, found.dead, found.saturated, found.samples) == (3, 1, 2, 2)
    assert found.worst == pytest.approx(0.25)  # of x: half of the bright sample's values, none of the dim one's
    dead, saturated = symptoms(found)
    assert "1 of 3 tensors were zero" in dead
    assert "2 of 3 quantized tensors have more than 1 %" in saturated
    assert "the worst 25 %" in saturated
    assert not symptoms(saturation(tmp_path, graph, ranges, tmp_path / "dim", 1))[1:]
