"""Graphs in the form that ONNX Runtime runs fast: INT8 as before, every layer counted, the difference stated."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
from onnx import helper

from deploy_compile import build_onnxruntime, lower_onnxruntime
from deploy_compile.heavy import heavy_nodes
from deploy_compile.lower_onnxruntime import STATED, lower_float, lower_for_cpu
from deploy_compile.quantize import quantize
from deploy_compile.ranges import calibrate
from deploy_compile.results import Graph
from deploy_compile.results_int8 import Ranges
from deploy_compile.rewrite_onnxruntime import rewrite
from deploy_compile.split_means import split_means
from deploy_runtime.spec import Batch
from tests.compile.test_lower_3d import SIZE, conv, graph, weight

INSIDE = 28  # channels of the depthwise convolution
HEAVY = 7


@dataclass(frozen=True)
class Net:
    fp32: Graph
    int8: Graph
    ranges: Ranges


def clips(count: int, seed: int = 0) -> list[np.ndarray]:
    return list(weight(count, 1, 3, *SIZE, seed=seed))


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Net:
    """A stem, a block in space and in time, a depthwise block with squeeze and excite, a head."""
    folder, weights = tmp_path_factory.mktemp("net"), {"axes": np.array([2, 3, 4], np.int64)}
    nodes = [
        conv("x", "stem", weights, 8, 3, 1, 3, 3),
        helper.make_node("Relu", ["stem"], ["r0"], "/r0"),
        conv("r0", "space", weights, 8, 8, 1, 3, 3),
        conv("space", "time", weights, 8, 8, 3, 1, 1),
        helper.make_node("Add", ["time", "r0"], ["a0"], "/a0"),
        conv("a0", "wide", weights, INSIDE, 8, 1, 1, 1),
        helper.make_node("Relu", ["wide"], ["r1"], "/r1"),
        conv("r1", "deep", weights, INSIDE, 1, 3, 3, 3, groups=INSIDE),
        helper.make_node("ReduceMean", ["deep", "axes"], ["m"], "/m"),
        conv("m", "gate", weights, INSIDE, INSIDE, 1, 1, 1),
        helper.make_node("Sigmoid", ["gate"], ["s"], "/s"),
        helper.make_node("Mul", ["deep", "s"], ["e"], "/e"),
        conv("e", "narrow", weights, 8, INSIDE, 1, 1, 1),
        helper.make_node("Add", ["narrow", "a0"], ["a1"], "/a1"),
        helper.make_node("ReduceMean", ["a1", "axes"], ["y"], "/mean"),
    ]
    path = folder / "fp32.onnx"
    onnx.save(graph(nodes, weights, 3), path)
    fp32 = Graph(path, "fp32", len(nodes), HEAVY, 0, {})
    (folder / "samples").mkdir()
    for index, clip in enumerate(clips(4)):
        np.savez(folder / "samples" / f"{index:03}.npz", x=clip)
    ranges = calibrate(folder, fp32, folder / "samples", "minmax", 1)
    return Net(fp32, quantize(folder, fp32, ranges, (), "cpu"), ranges)


def run(path: Path, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("batch", [1, 2])
def test_int8_answers_as_it_did(net: Net, tmp_path: Path, batch: int) -> None:
    plain = rewrite(net.int8.path, tmp_path / "plain.onnx", net.ranges)
    lowered = rewrite(net.int8.path, tmp_path / "lowered.onnx", net.ranges, batch=Batch(batch, batch, batch))
    x = np.concatenate(clips(batch, seed=5))
    wanted, found = run(plain, x), run(lowered, x)
    # The mean at the end is now taken of what each frame's was: no step of INT8 lies between.
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_int8_with_a_range_of_batches_keeps_its_clips(net: Net, tmp_path: Path) -> None:
    plain = rewrite(net.int8.path, tmp_path / "plain.onnx", net.ranges)
    filled = rewrite(net.int8.path, tmp_path / "filled.onnx", net.ranges, batch=Batch(1, 2, 4))
    assert max(max(tensor.dims, default=0) for tensor in onnx.load(filled).graph.initializer) > INSIDE
    for batch in (1, 3):
        x = np.concatenate(clips(batch, seed=6))
        np.testing.assert_array_equal(run(filled, x), run(plain, x))


def test_a_mean_in_two_steps_is_pooled_in_one(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy_compile.split_means.LEAST_VALUES", 1)
    model = onnx.load(net.int8.path)
    assert split_means(model) == 2
    onnx.save(model, tmp_path / "split.onnx")
    found = rewrite(tmp_path / "split.onnx", tmp_path / "found.onnx", net.ranges)
    assert "AveragePool" not in {node.op_type for node in onnx.load(found).graph.node}
    x = clips(1, seed=7)[0]
    np.testing.assert_array_equal(run(found, x), run(rewrite(net.int8.path, tmp_path / "w.onnx", net.ranges), x))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_layer_is_counted(net: Net, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    graph = net.int8 if precision == "int8" else net.fp32
    file, layers = build_onnxruntime.build(
        tmp_path, graph.path, net.fp32.path, precision, net.ranges, "CPUExecutionProvider", (), Batch()
    )
    assert file == tmp_path / "model.onnx"
    assert [layer.node for layer in layers] == list(heavy_nodes(net.fp32.path))
    assert {layer.precision for layer in layers} == {precision}
    stated = {entry.key: float(entry.value) for entry in onnx.load(file).metadata_props}
    assert 0 <= stated[STATED] < 1e-5


def test_elsewhere_the_graph_is_as_given(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    args = (tmp_path, net.fp32.path, net.fp32.path, "fp32", net.ranges, "CPUExecutionProvider", (), Batch())
    assert build_onnxruntime.build(*args)[0] == net.fp32.path


@pytest.mark.parametrize("what", ["a range of batches", "clips of any length", "a body", "pictures", "dense floats"])
def test_what_it_leaves_alone(net: Net, tmp_path: Path, what: str) -> None:
    model = onnx.load(net.fp32.path)
    batch = Batch(1, 2, 4) if what == "a range of batches" else Batch()
    if what == "clips of any length":
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "frames"
    elif what == "a body":
        body = helper.make_graph(
            [helper.make_node("Identity", ["y"], ["z"])], "b", [], [helper.make_tensor_value_info("z", 1, None)]
        )
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "yes"))
        model.graph.node.append(helper.make_node("If", ["yes"], ["if"], "/if", then_branch=body, else_branch=body))
    elif what == "dense floats":
        dense: dict[str, np.ndarray] = {}
        model = graph([conv("x", "a", dense, 4, 3, 1, 3, 3), conv("a", "y", dense, 4, 4, 3, 1, 1)], dense, 3)
    elif what == "pictures":
        weights: dict[str, np.ndarray] = {"shape": np.array([0, 3, -1, SIZE[2]], np.int64)}
        nodes = [helper.make_node("Reshape", ["x", "shape"], ["p"], "/p"), conv("p", "y", weights, 4, 3, 3, 3)]
        model = graph(nodes, weights, 3)
    onnx.save(model, tmp_path / "given.onnx")
    assert lower_float(tmp_path / "given.onnx", tmp_path / "lowered.onnx", batch) == tmp_path / "given.onnx"
    assert not (tmp_path / "lowered.onnx").exists()


def test_a_pass_that_changes_answers_is_caught(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: onnx.ModelProto, batch: int) -> dict[str, str]:
        stem = next(tensor for tensor in model.graph.initializer if tensor.name == "stem.w")
        stem.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(stem), "stem.w"))
        return {"new": "old"}

    monkeypatch.setattr(lower_onnxruntime, "lower", broken)
    with pytest.raises(ValueError, match="moved the answers"):
        lower_for_cpu(onnx.load(net.fp32.path), Batch(), quantized=False)


def test_a_product_by_int8_weights_is_compared_unrounded() -> None:
    # ONNX Runtime's optimiser would make it a MatMulNBits, which rounds what it reads to INT8 on processors.
    weights: dict[str, np.ndarray] = {"scale": np.full(32, 0.01, np.float32), "zero": np.zeros(32, np.int8)}
    weights["product"] = np.random.default_rng(3).integers(-127, 128, (32, 32)).astype(np.int8)
    nodes = [
        conv("x", "wide", weights, INSIDE, 3, 3, 3, 3),
        conv("wide", "deep", weights, INSIDE, 1, 3, 3, 3, groups=INSIDE),
        conv("deep", "narrow", weights, 32, INSIDE, 1, 1, 1),
        helper.make_node("Transpose", ["narrow"], ["last"], "/last", perm=[0, 2, 3, 4, 1]),
        helper.make_node("DequantizeLinear", ["product", "scale", "zero"], ["whole"], "/dq", axis=1),
        helper.make_node("MatMul", ["last", "whole"], ["y"], "/product"),
    ]
    found = lower_for_cpu(graph(nodes, weights, 3), Batch(16, 16, 16), quantized=True)
    assert found.difference is not None
    assert found.difference < 1e-5
