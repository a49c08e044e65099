"""Quantized tensors that join: OpenVINO answers as the graph says, and the numbers are the same as before."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from deploy_compile.quantize import quantize
from deploy_compile.ranges import calibrate
from deploy_compile.results import Form, Graph
from deploy_compile.rewrite_openvino import rewrite
from tests import toys

LEAST_DB = 40.0  # of OpenVINO against the graph as it is written; 7 where it is computed wrongly


def joined(folder: Path, kind: str, form: Form = "") -> Path:
    """Two convolutions whose results join (or, with "Add", are added) before a third, quantized."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (16, 3, 3, 3), "w2": (16, 3, 3, 3), "w3": (32, 16 if kind == "Add" else 32, 1, 1)}
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name) for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], "/a/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["image", "w2"], ["b"], "/b/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["a", "b"], ["c"], "/Add")
        if kind == "Add"
        else helper.make_node("Concat", ["a", "b"], ["c"], "/Concat", axis=1),
        helper.make_node("Relu", ["c"], ["r"], "/Relu"),
        helper.make_node("Conv", ["r", "w3"], ["logits"], "/c/Conv"),
    ]
    size: list[int | str] = ["batch", 3, 16, 16]
    shape: list[int | str] = ["batch", 32, 16, 16]
    path = toys.save(folder / "fp32.onnx", nodes, weights, [("image", size)], [("logits", shape)])
    samples = folder / "samples"
    samples.mkdir()
    for index, image in enumerate(toys.images(4)):
        np.savez(samples / f"{index:03}.npz", image=image)
    fp32 = Graph(path, "fp32", 5, 3, 0, {})
    return quantize(folder, fp32, calibrate(folder, fp32, samples, "minmax", 1), (), form).path


def as_written(path: Path, image: np.ndarray) -> np.ndarray:
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": image})[0])


def by_openvino(path: Path, image: np.ndarray) -> np.ndarray:
    import openvino  # type: ignore[import-untyped]

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(compiled({"image": image})[0])


def decibel(wanted: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10(np.square(wanted).sum() / max(np.square(found - wanted).sum(), 1e-30)))


@pytest.mark.parametrize("kind", ["Concat", "Add"])
def test_grids_for_cpus_are_computed_right(tmp_path: Path, kind: str) -> None:
    source = joined(tmp_path, kind, "cpu")
    assert onnx.TensorProto.UINT8 in {tensor.data_type for tensor in onnx.load(source).graph.initializer}
    image = toys.images(1, seed=1)[0]
    made = rewrite(source, tmp_path / "model.onnx")
    np.testing.assert_array_equal(as_written(made, image), as_written(source, image))
    assert decibel(as_written(source, image), by_openvino(made, image)) > LEAST_DB


def test_joined_tensors_are_computed_right(tmp_path: Path) -> None:
    source = joined(tmp_path, "Concat")
    made = rewrite(source, tmp_path / "model.onnx")
    image = toys.images(1, seed=1)[0]
    wanted = as_written(source, image)
    np.testing.assert_array_equal(as_written(made, image), wanted)  # the same numbers, moved by 128
    assert decibel(wanted, by_openvino(made, image)) > LEAST_DB
    types = [tensor.data_type for tensor in onnx.load(made).graph.initializer if "zero_point_u8" in tensor.name]
    assert types == [onnx.TensorProto.UINT8]


@pytest.mark.parametrize("kind", ["Add"])
def test_others_are_left_alone(tmp_path: Path, kind: str) -> None:
    source = joined(tmp_path, kind)
    assert rewrite(source, tmp_path / "model.onnx") == source
    assert not (tmp_path / "model.onnx").exists()
