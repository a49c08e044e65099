from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import helper, numpy_helper

from deploy_compile.cast import cast
from deploy_compile.emulate import emulate, emulated
from deploy_compile.results import Graph
from deploy_compile.results_int8 import Ranges
from tests import toys
from tests.compile.quantized_toy import toy

NODE = helper.make_node
LEVELS = onnxruntime.GraphOptimizationLevel


def halved(folder: Path, nodes: Sequence[onnx.NodeProto], **constants: float) -> Path:
    """Write the fp16 graph of x[batch,4] -> y, which calibration is taken to have seen nothing large of."""
    weights = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()]
    path = toys.save(folder / "fp32.onnx", nodes, weights, inputs=[("x", ["batch", 4])], outputs=[("y", ["batch", 4])])
    return cast(folder, Graph(path, "fp32", len(nodes), 0, 0, {}), Ranges({}, 0), "fp16").path


def samples(folder: Path, *values: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    for index, value in enumerate(values):
        np.savez(folder / f"{index:03}.npz", x=value)
    return folder


BIG = [NODE("Mul", ["x", "a"], ["p"], "/p"), NODE("Mul", ["p", "b"], ["q"], "/q"), NODE("Mul", ["q", "c"], ["y"], "/y")]
CONSTANTS = {"a": 300.0, "b": 480.0, "c": 1e-4}


def test_an_overflow_is_infinite_where_the_library_alone_says_it_is_finite(tmp_path: Path) -> None:
    path = halved(tmp_path, BIG, **CONSTANTS)
    x = np.ones((1, 4), np.float32)
    assert np.isinf(emulate(path, samples(tmp_path / "samples", x), None, 1)["y"]).all()
    session = onnxruntime.InferenceSession(str(tmp_path / "fp32.onnx"), providers=["CPUExecutionProvider"])
    assert np.asarray(session.run(None, {"x": x})[0])[0, 0] == pytest.approx(14.4)


@pytest.mark.parametrize("level", [LEVELS.ORT_DISABLE_ALL, LEVELS.ORT_ENABLE_BASIC, LEVELS.ORT_ENABLE_ALL])
def test_no_optimiser_level_removes_the_rounding(tmp_path: Path, level: object) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    model = emulated(onnx.load(halved(tmp_path, BIG, **CONSTANTS)))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert np.isinf(np.asarray(session.run(None, {"x": np.ones((1, 4), np.float32)})[0])).all()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrays.arrays(np.float32, (2, 4), elements=st.floats(-70000, 70000, width=32)))
def test_rounding_is_that_of_numpy_after_every_node(tmp_path: Path, x: np.ndarray) -> None:
    nodes = [
        NODE("Mul", ["x", "a"], ["p"], "/p"), NODE("Add", ["p", "b"], ["q"], "/q"), NODE("Sqrt", ["s"], ["r"], "/r"),
        NODE("Div", ["r", "a"], ["y"], "/y"),
    ]  # fmt: skip
    nodes.insert(2, NODE("Abs", ["q"], ["s"], "/s"))
    path = halved(tmp_path, nodes, a=1.2345, b=-7.77)
    a, b = np.float16(1.2345), np.float16(-7.77)
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = np.sqrt(np.abs(x.astype(np.float16) * a + b)) / a
    assert wanted.dtype == np.float16
    got = emulate(path, samples(tmp_path / "samples", x), None, 1)["y"]
    assert got.dtype == np.float32
    assert np.array_equal(got, wanted.astype(np.float32), equal_nan=True)


def test_kept_nodes_are_not_rounded(tmp_path: Path) -> None:
    weights = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("a", 1e5), ("b", 1e-5))]
    nodes = [NODE("Mul", ["x", "a"], ["p"], "/p"), NODE("Mul", ["p", "b"], ["y"], "/y")]
    path = toys.save(
        tmp_path / "fp32.onnx", nodes, weights, inputs=[("x", ["batch", 4])], outputs=[("y", ["batch", 4])]
    )
    toy_samples = samples(tmp_path / "samples", np.ones((1, 4), np.float32))
    ranges = Ranges({}, 0)
    graph = cast(tmp_path, Graph(path, "fp32", 2, 0, 0, {}), ranges, "fp16")
    assert list(graph.kept_float) == ["/p"]  # by its constant; p itself was never seen, so it is cast and overflows
    assert np.isinf(emulate(graph.path, toy_samples, None, 1)["y"]).all()


def test_outputs_are_stacked_and_the_limit_is_kept(tmp_path: Path) -> None:
    made = toy(tmp_path)
    graph = cast(tmp_path, made.fp32, made.ranges, "fp16")
    assert emulate(graph.path, made.samples, 3, 1)["logits"].shape == (3, 5)
    assert emulate(graph.path, made.samples, None, 1)["logits"].shape == (8, 5)


def test_int8_graphs_are_emulated_with_their_own_scales(tmp_path: Path) -> None:
    made = toy(tmp_path)
    mixed = cast(tmp_path, made.int8, made.ranges, "int8_fp16")
    int8 = emulate(made.int8.path, made.samples, None, 1)["logits"]
    both = emulate(mixed.path, made.samples, None, 1)["logits"]
    assert not np.array_equal(int8, both)
    assert np.sum(int8**2) / np.sum((both - int8) ** 2) > 1e3  # 30 dB: what rounding to half adds


def test_a_graph_without_fp16_runs_as_it_is_written(tmp_path: Path) -> None:
    made = toy(tmp_path)
    model = onnx.load(made.int8.path)
    assert [node.op_type for node in emulated(model).graph.node] == [node.op_type for node in model.graph.node]
