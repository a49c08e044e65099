"""`auto`: the threshold that serves the readers of a tensor, not the tensor."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from deploy_compile import macs as counting
from deploy_compile import onnx_graph, ranges
from deploy_compile.choose_ranges import choose
from deploy_compile.ranges import calibrate
from deploy_compile.results import Graph
from deploy_compile.results_int8 import Range
from tests import toys

CHANNELS = 4
OUTLIER = 50.0  # of the last channel; the others stay around 1


def pointwise(path: Path, weight_of_outlier: float, size: int = 8) -> Path:
    """Write x [batch,4,size,size] -> Conv 1x1 that reads the last channel with the given weight."""
    weight = np.ones((2, CHANNELS, 1, 1), np.float32)
    weight[:, -1] = weight_of_outlier
    return toys.save(
        path,
        [helper.make_node("Conv", ["x", "w"], ["y"], "/conv")],
        [numpy_helper.from_array(weight, "w")],
        inputs=[("x", ["batch", CHANNELS, size, size])],
        outputs=[("y", ["batch", 2, size, size])],
    )


def samples(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        values = rng.standard_normal((1, CHANNELS, 8, 8)).astype(np.float32)
        values[:, -1] = 0.0
        values[0, -1, 0, 0] = OUTLIER
        np.savez(folder / f"{index:03}.npz", x=values)
    return folder


def seen(threshold: float, algorithm: str) -> Range:
    return Range(-OUTLIER, OUTLIER, threshold, 0.0, algorithm)


@pytest.mark.parametrize(("weight", "best"), [(0.0, "tight"), (1.0, "wide")])
def test_the_readers_weights_decide(tmp_path: Path, weight: float, best: str) -> None:
    model = onnx_graph.load(pointwise(tmp_path / "fp32.onnx", weight))
    proposed = {"wide": {"x": seen(OUTLIER, "wide")}, "tight": {"x": seen(4.0, "tight")}}
    files = sorted(samples(tmp_path / "samples").glob("*.npz"))
    assert choose(model, proposed, files, 1)["x"].algorithm == best


@pytest.mark.parametrize(("sign", "best"), [(1.0, "wide"), (-1.0, "tight")])
def test_a_grid_with_more_steps_clips_less(tmp_path: Path, sign: float, best: str) -> None:
    """One value of 16,384 is far out. Clipped to 0.9 of it the others round finer: worth it in S8, not in U8."""
    model = onnx_graph.load(pointwise(tmp_path / "fp32.onnx", 1.0, 64))
    values = np.random.default_rng(0).uniform(0.0, 0.8, (1, CHANNELS, 64, 64)).astype(np.float32)
    values[:, 0] *= sign
    values[0, -1, 0, 0] = 1.0
    np.savez(tmp_path / "sample.npz", x=values)
    least = float(values.min())
    proposed = {name: {"x": Range(least, 1.0, at, 0.0, name)} for name, at in (("wide", 1.0), ("tight", 0.9))}
    assert choose(model, proposed, [tmp_path / "sample.npz"], 1)["x"].algorithm == best


@pytest.mark.parametrize(("gain", "best"), [(0.02, "percentile"), (0.5, "other")])
def test_what_is_hardly_better_than_the_usual_threshold_is_not_taken(tmp_path: Path, gain: float, best: str) -> None:
    """Nothing reaches above 1: a range to 2 has 4 % more error than one to 1.96, and 4 times that of one to 1."""
    model = onnx_graph.load(pointwise(tmp_path / "fp32.onnx", 1.0, 64))
    values = np.random.default_rng(0).uniform(0.0, 1.0, (1, CHANNELS, 64, 64)).astype(np.float32)
    np.savez(tmp_path / "sample.npz", x=values)
    usual = Range(0.0, 2.0, 2.0, 0.0, "percentile")
    other = Range(0.0, 2.0, 2.0 * (1 - gain), 0.0, "other")
    proposed = {"other": {"x": other}, "percentile": {"x": usual}}
    assert choose(model, proposed, [tmp_path / "sample.npz"], 1)["x"].algorithm == best


def test_a_tensor_with_one_proposal_is_not_tried(tmp_path: Path) -> None:
    model = onnx_graph.load(pointwise(tmp_path / "fp32.onnx", 1.0))
    proposed = {"a": {"x": seen(4.0, "a")}, "b": {"x": seen(4.01, "b")}, "c": {"x": seen(0.0, "c")}}
    assert choose(model, proposed, [], 1) == {}


def test_auto_takes_from_every_algorithm_what_serves_the_readers(tmp_path: Path) -> None:
    path = toys.conv_graph(tmp_path / "fp32.onnx")
    folder = tmp_path / "samples"
    folder.mkdir()
    for index, image in enumerate(toys.images(6)):
        np.savez(folder / f"{index:03}.npz", image=image)
    graph = Graph(path, "fp32", 0, 0, 0, {})
    by_name = {name: calibrate(tmp_path, graph, folder, name, 1) for name in ("minmax", "percentile", "entropy", "mse")}
    auto = calibrate(tmp_path, graph, folder, "auto", 1)
    for tensor, found in auto.tensors.items():
        assert found in [ranges.tensors[tensor] for ranges in by_name.values()]
    assert auto.tensors["c0"] == by_name["mse"].tensors["c0"]  # no heavy node reads it


@pytest.mark.parametrize(("share", "tried"), [(1.0, 1), (0.5, 2), (0.0, 4)])
def test_a_large_network_tries_thresholds_on_fewer_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, tried: int
) -> None:
    graph, looked_at = Graph(pointwise(tmp_path / "fp32.onnx", 1.0), "fp32", 1, 1, 0, {}), list[int]()

    def counted(
        model: onnx.ModelProto, proposed: Mapping[str, Mapping[str, Range]], files: Sequence[Path], threads: int
    ) -> dict[str, Range]:
        looked_at.append(len(files))
        return choose(model, proposed, files, threads)

    monkeypatch.setattr(ranges, "choose", counted)
    monkeypatch.setattr(counting, "cost", lambda _: int(share * ranges.TRIED_MACS))
    assert calibrate(tmp_path, graph, samples(tmp_path / "samples"), "auto", 1).samples == 4
    assert looked_at == [tried]
