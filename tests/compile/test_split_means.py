"""Long means in two steps: the same number, closer to fp64 where a backend adds one value after another."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from deploy_compile.split_means import split_means
from tests import toys


def mean(path: Path, shape: list[int | str], axes: list[int], keepdims: int = 1) -> onnx.ModelProto:
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], "/se/ReduceMean", keepdims=keepdims)
    reduced = [1 if i in axes else size for i, size in enumerate(shape)]
    result = reduced if keepdims else [size for i, size in enumerate(shape) if i not in axes]
    weights = [numpy_helper.from_array(np.array(axes, np.int64), "axes")]
    return onnx.load(toys.save(path, [node], weights, [("x", shape)], [("y", result)]))


def answer(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    given = ReferenceEvaluator(model).run(None, {"x": x})
    assert isinstance(given, list)
    return np.asarray(given[0])


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize(
    ("shape", "axes"), [(["batch", 3, 5, 16, 24], [2, 3, 4]), (["batch", 3, 40, 32], [2, 3])], ids=["clip", "image"]
)
def test_the_same_number(tmp_path: Path, shape: list[int | str], axes: list[int], keepdims: int) -> None:
    model = mean(tmp_path / "g.onnx", shape, axes, keepdims)
    x = np.random.default_rng(0).standard_normal([2, *shape[1:]]).astype(np.float32)  # type: ignore[list-item]
    before = answer(model, x)
    assert split_means(model) == 1
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["AveragePool", "ReduceMean"]
    assert len({node.name for node in model.graph.node}) == 2
    after = answer(model, x)
    assert after.shape == before.shape
    assert np.abs(after - before).max() < 1e-6
    assert split_means(model) == 0  # and no second time


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        (["batch", 3, 5, 4, 4], [2, 3, 4]),  # short
        (["batch", 3, 5, 64, 64], [2]),  # one axis
        (["batch", 3, 64, 64], [1, 2]),  # channels among them
        (["batch", 4096, 64], [1, 2]),  # no picture
    ],
)
def test_other_means_are_left_alone(tmp_path: Path, shape: list[int | str], axes: list[int]) -> None:
    assert split_means(mean(tmp_path / "g.onnx", shape, axes)) == 0


def test_openvino_comes_closer_to_fp64(tmp_path: Path) -> None:
    """Behind a convolution, whose blocked layout has another reduction than a plain tensor."""
    import openvino  # type: ignore[import-untyped]

    shape = [1, 16, 13, 80, 80]
    weight = np.eye(16, dtype=np.float32).reshape(16, 16, 1, 1, 1)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "/conv/Conv", kernel_shape=[1, 1, 1]),
        helper.make_node("ReduceMean", ["c", "axes"], ["y"], "/se/ReduceMean", keepdims=1),
    ]
    weights = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([2, 3, 4], np.int64), "axes")]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    exact = x.astype(np.float64).mean(axis=(2, 3, 4), keepdims=True)
    errors = []
    for split in (0, 1):
        path = toys.save(tmp_path / f"{split}.onnx", nodes, weights, [("x", shape)], [("y", [1, 16, 1, 1, 1])])
        model = onnx.load(path)
        assert not split or split_means(model) == 1
        onnx.save(model, path)
        compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        errors.append(float(np.abs(compiled({"x": x})[0] - exact).max()))
    assert errors[1] < errors[0] / 3
