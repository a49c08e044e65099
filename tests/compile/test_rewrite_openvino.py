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
from deploy_compile.switches import switched
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


def residual(folder: Path, sums: tuple[str, ...], join: str = "Add") -> Path:
    """A stem with a pool, then a convolution whose result joins what it reads, quantized."""
    rng = np.random.default_rng(1)
    shapes = {"w1": (16, 3, 3, 3), "w2": (16, 16, 3, 3), "w3": (8, 16, 1, 1)}
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) / 4, name)
        for name, shape in shapes.items()
    ] + [numpy_helper.from_array(rng.standard_normal(16).astype(np.float32), name) for name in ("b1", "b2")]
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["a"], "/a/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"], "/a/Relu"),
        helper.make_node("MaxPool", ["r"], ["p"], "/Pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["p", "w2", "b2"], ["b"], "/b/Conv", pads=[1, 1, 1, 1]),
        helper.make_node(join, ["b", "p"], ["c"], f"/{join}"),
        helper.make_node("Conv", ["c", "w3"], ["logits"], "/c/Conv"),
    ]
    path = toys.save(
        folder / "fp32.onnx", nodes, weights, [("image", ["batch", 3, 16, 16])], [("logits", ["batch", 8, 8, 8])]
    )
    samples = folder / "samples"
    samples.mkdir()
    for index, image in enumerate(toys.images(4)):
        np.savez(samples / f"{index:03}.npz", image=image)
    fp32 = Graph(path, "fp32", len(nodes), 3, 0, {})
    ranges = calibrate(folder, fp32, samples, "minmax", 1)
    return quantize(folder, fp32, ranges, (), "cpu", None, sums).path


def test_a_pool_is_computed_in_bytes_where_all_behind_it_are(tmp_path: Path) -> None:
    source = residual(tmp_path, ("/Add",))
    made = rewrite(source, tmp_path / "model.onnx")
    nodes = {node.name: node for node in onnx.load(made).graph.node}
    producers = {name: node.op_type for node in nodes.values() for name in node.output}
    assert producers[nodes["/Pool"].input[0]] == "DequantizeLinear"
    assert producers[nodes["/b/Conv"].input[0]] == "MaxPool"
    assert set(nodes["/Add"].input) > {nodes["/Pool"].output[0]}
    image = toys.images(1, seed=1)[0]
    wanted = as_written(source, image)
    assert decibel(wanted, as_written(made, image)) > LEAST_DB  # a bias added behind rounds otherwise
    assert decibel(wanted, by_openvino(made, image)) > LEAST_DB


def test_it_is_diagnosed_as_it_is_computed(tmp_path: Path) -> None:
    """With all layers in INT8 the graph of both forms answers as this one: its biases and pools belong to layers."""
    made = rewrite(residual(tmp_path, ("/Add",)), tmp_path / "model.onnx")
    image = toys.images(1, seed=1)[0]
    with switched(tmp_path / "fp32.onnx", made, 1) as both:
        assert both.nodes == ("/a/Conv", "/b/Conv", "/Add", "/c/Conv")
        np.testing.assert_allclose(both.run({"image": image}, both.nodes)["logits"], as_written(made, image), atol=1e-4)
        floats = both.run({"image": image}, ())["logits"]
    np.testing.assert_allclose(floats, as_written(tmp_path / "fp32.onnx", image), atol=1e-4)


def test_a_pool_that_something_reads_in_float_is_left(tmp_path: Path) -> None:
    source = residual(tmp_path, ())
    assert rewrite(source, tmp_path / "model.onnx") == source


def test_quantizing_before_a_pool_changes_no_number(tmp_path: Path) -> None:
    source = residual(tmp_path, (), "Mul")
    made = onnx.load(source)
    for node in made.graph.node:  # the product reads behind the pair too, and there is no sum: only the pool is moved
        if node.name == "/Mul":
            node.input[1] = next(other for other in made.graph.node if other.name == "/b/Conv").input[0]
    onnx.save(made, source)
    moved = rewrite(source, tmp_path / "model.onnx")
    assert moved != source
    image = toys.images(1, seed=1)[0]
    np.testing.assert_array_equal(as_written(moved, image), as_written(source, image))


def test_biases_are_parted_only_in_graphs_with_sums_in_int8(tmp_path: Path) -> None:
    made = onnx.load(rewrite(residual(tmp_path, ("/Add",)), tmp_path / "model.onnx"))
    convolutions = {node.name: node for node in made.graph.node if node.op_type == "Conv"}
    adds = [node for node in made.graph.node if node.op_type == "Add"]
    assert [len(node.input) for node in convolutions.values()] == [2, 2, 2]
    assert {node.input[0] for node in adds if node.name != "/Add"} == {
        convolutions[name].output[0] for name in ("/a/Conv", "/b/Conv")
    }
