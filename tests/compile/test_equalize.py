"""Channels evened out in powers of two: not a bit of an answer changes, and INT8 loses less."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import NodeProto, helper, numpy_helper

from deploy_compile import onnx_graph, sample_files, session
from deploy_compile.equalize import MOST, equalize
from deploy_compile.probes import Probes
from deploy_compile.quantize import quantize
from deploy_compile.ranges import calibrate
from deploy_compile.results import Graph
from deploy_compile.sensitivity import decibels, noise
from tests import toys

CHANNELS = 8
Weights = dict[str, np.ndarray]


def graph(path: Path, nodes: list[NodeProto], weights: Weights, given: list[int | str], made: list[int | str]) -> Graph:
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    toys.save(path, nodes, tensors, inputs=[("x", given)], outputs=[("y", made)])
    return Graph(path, "fp32", len(nodes), 2, 0, {})


def depthwise(
    path: Path, sizes: np.ndarray, normalised: bool = False, pooled: bool = False, shared: bool = False
) -> Graph:
    """Something whose channels have these sizes -> Relu -> depthwise convolution; `shared`: whose outputs are alike."""
    rng = np.random.default_rng(1)
    weights = {
        "w": rng.standard_normal((CHANNELS, CHANNELS, 1, 1)) * (1 if normalised else sizes[:, None, None, None]),
        "b": rng.standard_normal(CHANNELS) * (1 if normalised else sizes),
        "d": rng.standard_normal((CHANNELS, 1, 3, 3)) / (sizes if shared else np.ones(CHANNELS))[:, None, None, None],
    }
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"], "/pointwise")]
    last = "c"
    if normalised:
        weights |= {"s": sizes, "o": sizes / 3, "m": np.zeros(CHANNELS), "v": np.ones(CHANNELS)}
        nodes.append(helper.make_node("BatchNormalization", ["c", "s", "o", "m", "v"], ["n"], "/norm"))
        last = "n"
    nodes.append(helper.make_node("Relu", [last], ["r"], "/relu"))
    last = "r"
    if pooled:
        nodes.append(helper.make_node("MaxPool", ["r"], ["p"], "/pool", kernel_shape=[2, 2]))
        last = "p"
    nodes.append(helper.make_node("Conv", [last, "d"], ["y"], "/depthwise", group=CHANNELS))
    return graph(path, nodes, weights, ["batch", CHANNELS, 9, 9], ["batch", CHANNELS, "height", "width"])


def samples(folder: Path, shape: tuple[int, ...]) -> Path:
    rng = np.random.default_rng(0)
    sample_files.write(folder, ({"x": rng.standard_normal((1, *shape)).astype(np.float32)} for _ in range(4)))
    return folder


def answers(path: Path, folder: Path) -> Any:
    return session.answers(onnx_graph.load(path), sample_files.read(folder), 1)["y"]


def peaks(path: Path, tensor: str, axis: int, rank: int, folder: Path) -> np.ndarray:
    probes = Probes(onnx_graph.load(path))
    probe = probes.channel_peaks(tensor, axis, rank)
    return np.asarray(np.max([one[probe] for one in probes.each(sample_files.read(folder), 1)], axis=0))


SIZES = st.lists(st.floats(-9, 9), min_size=CHANNELS, max_size=CHANNELS).map(lambda powers: np.exp2(np.array(powers)))


@settings(max_examples=25, deadline=None)
@given(sizes=SIZES, normalised=st.booleans(), pooled=st.booleans())
def test_not_a_bit_changes_and_a_depthwise_input_is_even(
    tmp_path_factory: pytest.TempPathFactory, sizes: np.ndarray, normalised: bool, pooled: bool
) -> None:
    folder = tmp_path_factory.mktemp("even")
    given_samples = samples(folder / "samples", (CHANNELS, 9, 9))
    before = depthwise(folder / "before.onnx", sizes, normalised, pooled)
    after = equalize(folder, before, given_samples, 1)
    assert np.array_equal(answers(before.path, given_samples), answers(after.path, given_samples))
    read = "p" if pooled else "r"
    old, new = (peaks(one.path, read, 1, 4, given_samples) for one in (before, after))
    alive = old > 0
    factors = new[alive] / old[alive]
    assert new.max() == old.max()
    assert (factors >= 1).all()
    assert (np.exp2(np.round(np.log2(factors))) == factors).all()
    assert ((new[alive] > old.max() / 2) | (factors == MOST)).all()


def test_int8_loses_less(tmp_path: Path) -> None:
    given_samples = samples(tmp_path / "samples", (CHANNELS, 9, 9))
    before = depthwise(tmp_path / "before.onnx", np.exp2(np.arange(CHANNELS)), shared=True)
    after = equalize(tmp_path, before, given_samples, 1)
    wanted, lost = answers(before.path, given_samples), {}
    for name, one in (("before", before), ("after", after)):
        (tmp_path / name).mkdir()
        ranges = calibrate(tmp_path, one, given_samples, "minmax", 1)
        int8 = quantize(tmp_path / name, one, ranges, ())
        lost[name] = decibels(noise({"y": wanted}, {"y": answers(int8.path, given_samples)}))
    assert lost["after"] > lost["before"] + 6


def test_without_a_depthwise_convolution_nothing_is_looked_at(tmp_path: Path) -> None:
    made = depthwise(tmp_path / "net.onnx", np.exp2(np.arange(CHANNELS)))
    model = onnx_graph.load(made.path)
    model.graph.node[-1].CopyFrom(helper.make_node("Conv", ["r", "w"], ["y"], "/dense"))
    onnx_graph.save(model, made.path)
    assert equalize(tmp_path, made, tmp_path / "no such folder", 1) is made


@pytest.mark.parametrize("also", ["Sigmoid", "output"])
def test_what_something_else_reads_is_left_as_it_is(tmp_path: Path, also: str) -> None:
    sizes = np.exp2(np.arange(CHANNELS))
    made = depthwise(tmp_path / "net.onnx", sizes)
    model = onnx_graph.load(made.path)
    if also == "output":
        model.graph.output.append(helper.make_tensor_value_info("r", 1, None))
    else:
        model.graph.node.append(helper.make_node("Sigmoid", ["r"], ["gate"], "/gate"))
        model.graph.output.append(helper.make_tensor_value_info("gate", 1, None))
    onnx_graph.save(model, made.path)
    assert equalize(tmp_path, made, samples(tmp_path / "samples", (CHANNELS, 9, 9)), 1) is made


def test_a_constant_that_two_nodes_share_is_scaled_for_one_only(tmp_path: Path) -> None:
    made = depthwise(tmp_path / "net.onnx", np.exp2(np.arange(CHANNELS)))
    model = onnx_graph.load(made.path)
    model.graph.node.append(helper.make_node("Conv", ["x", "w", "b"], ["other"], "/other"))
    model.graph.output.append(helper.make_tensor_value_info("other", 1, None))
    onnx_graph.save(model, made.path)
    given_samples = samples(tmp_path / "samples", (CHANNELS, 9, 9))
    after = equalize(tmp_path, made, given_samples, 1)
    with session.opened(onnx_graph.load(made.path), 1) as old, session.opened(onnx_graph.load(after.path), 1) as new:
        sample = next(sample_files.read(given_samples))
        for wanted, got in zip(old.run(None, sample), new.run(None, sample), strict=True):
            assert np.array_equal(wanted, got)
