"""Residual sums in INT8: only where that is surely faster, passes, and may be."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from deploy_compile import join, onnx_graph, repair, sample_files, session
from deploy_compile.quantize import quantize
from deploy_compile.ranges import calibrate
from deploy_compile.results import Graph
from deploy_compile.results_int8 import Joined, Ranges, Reached
from deploy_compile.switches import switched
from deploy_recipes.recipe import Classes, Keep, Limit, Recipe
from deploy_runtime import backend_openvino
from deploy_runtime.spec import Batch, Tensor
from tests import toys

INPUTS, OUTPUTS = (Tensor("image", ("batch", 8, 8, 8)),), (Tensor("logits", ("batch", 8)),)
BATCH = Batch(1, 1, 1)
SUMS = ("/0/Add", "/1/Add")
LIMIT = Limit(sqnr_db=20.0)
Times = tuple[dict[str, Any], dict[str, str]]


def residual(path: Path, groups: int) -> Path:
    """Write image [batch,8,8,8] -> two blocks of two convolutions and a residual -> mean -> logits [batch,8]."""
    rng = np.random.default_rng(5)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def add(op: str, name: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [f"{name}/out"], name, **attributes))
        return f"{name}/out"

    def conv(name: str, source: str, kernel: int, groups: int = 1) -> str:
        weight = (rng.standard_normal((8, 8 // groups, kernel, kernel)) / kernel / 3).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"{name}/weight"))
        return add("Conv", name, source, f"{name}/weight", pads=[kernel // 2] * 4, group=groups)

    tensor = add("Relu", "/Relu", conv("/Conv", "image", 1))
    for block in "01":
        inner = add("Relu", f"/{block}/a/Relu", conv(f"/{block}/a/Conv", tensor, 1))
        inner = conv(f"/{block}/b/Conv", inner, 3, groups)
        tensor = add("Relu", f"/{block}/Relu", add("Add", f"/{block}/Add", inner, tensor))
    nodes.append(helper.make_node("GlobalAveragePool", [tensor], ["pooled"], "/Pool"))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["logits"], "/Flatten"))
    return toys.save(path, nodes, weights, [("image", ["batch", 8, 8, 8])], [("logits", ["batch", 8])])


def recipe(limit: Limit) -> Recipe:
    return toys.recipe(INPUTS, OUTPUTS, Classes(8), limits={"int8": limit})


@dataclass(frozen=True)
class Net:
    fp32: Graph
    int8: Graph
    ranges: Ranges
    reached: Reached
    samples: Path
    out: Path

    def join(self, limit: Limit = LIMIT, margin_db: float = 1.0) -> Joined:
        found = (self.fp32, self.int8, self.ranges, self.reached)
        return join.join(self.out, *found, recipe(limit), self.samples, margin_db, BATCH, 1)


@pytest.fixture
def net(tmp_path: Path) -> Callable[..., Net]:
    def made(groups: int = 1, keep: tuple[Keep, ...] = ()) -> Net:
        folders = [tmp_path / name for name in ("samples", "int8", "reach", "join")]
        for folder in folders:
            folder.mkdir()
        rng = np.random.default_rng(6)
        for index in range(8):
            image = rng.standard_normal((1, 8, 8, 8)).astype(np.float32)
            np.savez(folders[0] / f"{index:03}.npz", image=image)
        path = residual(tmp_path / "fp32.onnx", groups)
        model = onnx_graph.load(path)
        fp32 = Graph(path, "fp32", len(model.graph.node), len(onnx_graph.heavy_nodes(model)), 0, {})
        ranges = calibrate(tmp_path, fp32, folders[0], "minmax", 1)
        int8 = quantize(folders[1], fp32, ranges, keep, "cpu")
        reached = repair.reach(folders[2], fp32, int8, recipe(LIMIT), folders[0], (1.0,), 1)
        return Net(fp32, int8, ranges, reached, folders[0], folders[3])

    return made


def timed(monkeypatch: pytest.MonkeyPatch, gain: float, spread: float = 0.0) -> None:
    """Let the joined form take 1 ms, the other `gain` times as long give or take `spread`."""

    def told(openers: Mapping[str, Any], *_: object) -> Times:
        assert set(openers) == {join.FLOAT, join.JOINED}
        wobble = 1 + spread * np.resize([1.0, -1.0], 20)
        return {join.FLOAT: 1e-3 * gain * wobble, join.JOINED: np.full(20, 1e-3)}, {}

    monkeypatch.setattr(join, "side_by_side", told)


def quantized_sums(graph: Graph) -> list[str]:
    model = onnx_graph.load(graph.path)
    producers = onnx_graph.links(model).producers
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "Add" and all(producers[name].op_type == "DequantizeLinear" for name in node.input)
    ]


def answer(graph: Graph, samples: Path) -> np.ndarray:
    return session.answers(onnx_graph.load(graph.path), sample_files.read(samples), 1)["logits"]


def test_sums_are_quantized_where_that_is_faster(net: Callable[..., Net], monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, 1.2)
    one = net()
    joined = one.join()
    assert joined.sums == 2
    assert joined.gain == pytest.approx(1.2)
    assert joined.sqnr_db is not None
    assert joined.sqnr_db > LIMIT.sqnr_db  # type: ignore[operator]
    assert joined.sqnr_db != one.reached.sqnr_db
    assert quantized_sums(joined.graph) == list(SUMS)
    assert quantized_sums(one.int8) == []
    assert (joined.graph.quantized, joined.graph.heavy) == (one.int8.quantized, one.int8.heavy)


def test_openvino_computes_the_joined_graph_as_it_is_written(
    net: Callable[..., Net], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, 1.2)
    one = net()
    graph = one.join().graph
    opened = backend_openvino.open(graph.path, "int8", INPUTS, OUTPUTS, BATCH, 1, None)
    got = np.concatenate([opened.run(dict(sample))["logits"] for sample in sample_files.read(one.samples)])
    wanted = answer(graph, one.samples)
    assert np.abs(got - wanted).max() < 0.03 * np.abs(wanted).max()


@pytest.mark.parametrize(("gain", "spread"), [(1.02, 0.0), (0.9, 0.0), (1.05, 0.5)])
def test_no_gain_or_one_that_may_be_noise_is_left(
    net: Callable[..., Net], monkeypatch: pytest.MonkeyPatch, gain: float, spread: float
) -> None:
    timed(monkeypatch, gain, spread)
    one = net()
    joined = one.join()
    assert (joined.graph, joined.sums) == (one.int8, 0)


def test_sums_stay_float_where_the_gates_would_not_hold(
    net: Callable[..., Net], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, 1.2)
    one = net()
    assert one.join(LIMIT, margin_db=60.0).graph is one.int8


def test_depthwise_networks_are_not_tried(net: Callable[..., Net], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> Times:
        raise AssertionError("timed")

    monkeypatch.setattr(join, "side_by_side", never)
    one = net(groups=8)
    assert one.join() == Joined(one.int8)


def test_nothing_is_joined_where_openvino_cannot_be_timed(
    net: Callable[..., Net], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "side_by_side", lambda *_: ({}, {join.FLOAT: "gone"}))
    one = net()
    assert one.join().graph is one.int8


def test_layers_kept_float_stay_float(net: Callable[..., Net], monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, 1.2)
    one = net(keep=(Keep("/1/a/*", "a test"),))
    joined = one.join()
    assert joined.graph.kept_float == {"/1/a/Conv": "a test"}
    assert joined.sums == 2


def test_a_joined_sum_is_a_layer_to_the_switches(net: Callable[..., Net], monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, 1.2)
    one = net()
    graph = one.join().graph
    with switched(one.fp32.path, graph.path, 1) as both:
        assert set(SUMS) < set(both.nodes)
        whole = [both.run(sample, both.nodes)["logits"] for sample in sample_files.read(one.samples)]
    np.testing.assert_allclose(np.concatenate(whole), answer(graph, one.samples), atol=1e-5)


def test_both_forms_are_opened_and_timed_here(net: Callable[..., Net]) -> None:
    gain = net().join().gain
    assert gain is not None
    assert gain > 0.0
