import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from deploy_compile import ranges, thresholds
from deploy_compile.histogram import BINS, Histogram
from deploy_compile.ranges import calibrate
from deploy_compile.results import Graph
from deploy_runtime.errors import DeployError, UsageError
from tests import toys

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)
PARTS = st.lists(arrays.arrays(np.float32, st.integers(0, 20), elements=FLOATS), min_size=1, max_size=5)
SPREAD = st.tuples(st.integers(0, 2**31), st.floats(0.01, 100.0), st.sampled_from(["normal", "laplace", "relu"]))


def draw(seed: int, scale: float, kind: str) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.laplace(size=5000) if kind == "laplace" else rng.standard_normal(5000)
    return np.asarray((np.maximum(values, 0) if kind == "relu" else values) * scale, np.float32)


def counted(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    return histogram


def graph_of(path: Path) -> Graph:
    return Graph(path, "fp32", 0, 0, 0, {})


def write(folder: Path, **inputs: list[np.ndarray]) -> Path:
    folder.mkdir()
    for index, values in enumerate(zip(*inputs.values(), strict=True)):
        np.savez(folder / f"{index:03}.npz", **dict(zip(inputs, values, strict=True)))
    return folder


@given(PARTS)
def test_adding_parts_is_adding_all_at_once(parts: list[np.ndarray]) -> None:
    piecewise, whole = counted(*parts), counted(np.concatenate(parts))
    backwards = counted(*reversed(parts))
    for other in (whole, backwards):
        assert np.array_equal(piecewise.counts, other.counts)
        assert (piecewise.width, piecewise.least, piecewise.largest) == (other.width, other.least, other.largest)
    assert piecewise.counts.sum() == sum(part.size for part in parts)


@given(PARTS)
def test_every_value_lies_in_the_bin_that_counts_it(parts: list[np.ndarray]) -> None:
    histogram = counted(*parts)
    values = np.abs(np.concatenate(parts)).astype(np.float64)
    wanted = np.bincount(np.floor(values / histogram.width).astype(int), minlength=BINS)
    assert np.array_equal(histogram.counts, wanted)
    if histogram.top > 2.0**-90:
        assert BINS / 2 <= histogram.top / histogram.width < BINS


def test_infinite_values_are_left_out_and_nan_is_refused() -> None:
    histogram = counted(np.array([1.0, -np.inf, 3.0], np.float32))
    assert (histogram.least, histogram.largest, histogram.infinite, histogram.counts.sum()) == (1.0, 3.0, 1, 2)
    with pytest.raises(ValueError, match="not a number"):
        histogram.add(np.array([np.nan], np.float32))


@given(SPREAD)
def test_a_larger_share_to_saturate_never_raises_the_threshold(how: tuple[int, float, str]) -> None:
    seen = counted(draw(*how))
    tails, found = (0.1, 0.01, 1e-3, 1e-4), []
    with pytest.MonkeyPatch.context() as patch:
        for tail in tails:
            patch.setattr(thresholds, "TAIL", tail)
            found.append(thresholds.percentile(seen.counts, seen.width, seen.top))
            assert np.mean(np.abs(draw(*how)) > found[-1]) <= tail
    assert found == sorted(found)


@given(SPREAD, st.sampled_from(sorted(thresholds.ALGORITHMS)))
def test_a_threshold_lies_within_the_range(how: tuple[int, float, str], algorithm: str) -> None:
    seen = counted(draw(*how))
    found = thresholds.ALGORITHMS[algorithm](seen.counts, seen.width, seen.top)
    assert 0 < found <= seen.top


@given(SPREAD)
def test_mse_is_never_worse_than_minmax_on_the_values_themselves(how: tuple[int, float, str]) -> None:
    values = draw(*how).astype(np.float64)
    seen = counted(values.astype(np.float32))

    def error(threshold: float) -> float:
        step = threshold / 127
        return float(np.mean((values - step * np.clip(np.rint(values / step), -127, 127)) ** 2))

    chosen = thresholds.mse(seen.counts, seen.width, seen.top)
    assert error(chosen) <= error(seen.top) * 1.02  # what knowing values to one bin only may cost


def test_mse_and_entropy_clip_a_lone_outlier_and_minmax_does_not() -> None:
    values = np.append(np.random.default_rng(0).standard_normal(100_000), 20.0).astype(np.float32)
    seen = counted(values)
    found = {name: find(seen.counts, seen.width, seen.top) for name, find in thresholds.ALGORITHMS.items()}
    assert found["minmax"] == 20.0
    for name in ("mse", "percentile", "entropy"):
        assert 2.5 < found[name] < 8.0, name


def test_entropy_agrees_with_the_definition() -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 50, 400) * (rng.random(400) > 0.2) + 1
    seen = np.where(np.arange(400) == 0, counts[1], counts).astype(float)

    def divergence(end: int) -> float:
        clipped = seen[:end].copy()
        clipped[-1] += seen[end:].sum()
        level = np.arange(end) * 128 // end
        mass = np.bincount(level, seen[:end], 128) / np.bincount(level, minlength=128)
        p, q = clipped / clipped.sum(), mass[level] / seen[:end].sum()
        return float(np.sum(p * np.log(p / q)))

    ends = [*range(128, 400, thresholds.ENTROPY_STRIDE), 400]
    assert thresholds.entropy(counts, 1.0, 400.0) == ends[int(np.argmin([divergence(end) for end in ends]))]


def test_ranges_are_exact_over_all_samples(tmp_path: Path) -> None:
    path = toys.conv_graph(tmp_path / "fp32.onnx")
    images = toys.images(5)
    seen = calibrate(tmp_path, graph_of(path), write(tmp_path / "samples", image=images), "minmax", 1)
    assert seen.samples == 5
    assert set(seen.tensors) == {"image", "c0", "r0", "c1", "r1", "c2", "a", "p", "f", "logits"}
    assert seen.tensors["image"].least == min(image.min() for image in images)
    assert seen.tensors["image"].largest == max(image.max() for image in images)
    assert seen.tensors["image"].threshold == max(np.abs(image).max() for image in images)
    reference = ReferenceEvaluator(str(path))
    answers: list[Any] = [reference.run(None, {"image": image}) for image in images]
    logits = np.concatenate([logits for (logits,) in answers])
    assert seen.tensors["logits"].largest == pytest.approx(logits.max(), rel=1e-4)
    assert seen.tensors["r0"].non_negative
    assert not seen.tensors["c0"].non_negative
    assert not [item for item in tmp_path.iterdir() if item.name not in ("fp32.onnx", "samples")]


def test_a_graph_in_parts_gives_the_same_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = toys.conv_graph(tmp_path / "fp32.onnx")
    samples = write(tmp_path / "samples", image=toys.images(3))
    whole = calibrate(tmp_path, graph_of(path), samples, "mse", 1)
    monkeypatch.setattr(ranges, "TAPPED_BYTES", 10_000)  # about one tensor of the toy
    assert calibrate(tmp_path, graph_of(path), samples, "mse", 1) == whole


def test_the_saturated_share_is_told(tmp_path: Path) -> None:
    path = toys.conv_graph(tmp_path / "fp32.onnx")
    image = np.full((1, 3, 16, 16), 0.5, np.float32)
    image[0, 0, 0, 0] = 100.0
    samples = write(tmp_path / "samples", image=[image] * 20)
    found = calibrate(tmp_path, graph_of(path), samples, "mse", 1).tensors["image"]
    assert (found.saturated == 0.0) == (found.threshold == 100.0)
    assert calibrate(tmp_path, graph_of(path), samples, "minmax", 1).tensors["image"].saturated == 0.0


def test_an_unknown_algorithm_is_a_usage_error_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'entropie'") as caught:
        calibrate(tmp_path, graph_of(tmp_path / "fp32.onnx"), tmp_path, "entropie", 1)
    assert "Did you mean entropy?" in caught.value.fix


def test_no_samples_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="no calibration samples"):
        calibrate(tmp_path, graph_of(tmp_path / "fp32.onnx"), tmp_path, "auto", 1)


def test_nan_names_the_tensor(tmp_path: Path) -> None:
    path = toys.save(
        tmp_path / "fp32.onnx",
        [helper.make_node("Log", ["x"], ["y"], "/Log")],
        [],
        inputs=[("x", ["batch", 4])],
        outputs=[("y", ["batch", 4])],
    )
    samples = write(tmp_path / "samples", x=[np.full((1, 4), -1, np.float32)])
    with pytest.raises(DeployError, match="tensor y "):
        calibrate(tmp_path, graph_of(path), samples, "auto", 1)


def test_what_only_extremes_are_kept_of_is_exact_and_leaves_infinities_out(tmp_path: Path) -> None:
    """x -> Sigmoid -> Where(mask, -inf): no heavy node and no Add reads either."""
    mask = np.array([[True, False, False, False]])
    path = toys.save(
        tmp_path / "fp32.onnx",
        [
            helper.make_node("Sigmoid", ["x"], ["s"], "/Sigmoid"),
            helper.make_node("Where", ["mask", "infinite", "s"], ["w"], "/Where"),
            helper.make_node("Softmax", ["w"], ["y"], "/Softmax"),
        ],
        [numpy_helper.from_array(mask, "mask"), numpy_helper.from_array(np.array(-np.inf, np.float32), "infinite")],
        inputs=[("x", ["batch", 4])],
        outputs=[("y", ["batch", 4])],
    )
    values = [np.array([[9, 1, 0.5, -1]], np.float32), np.array([[0, 2, -3, 0]], np.float32)]
    found = calibrate(tmp_path, graph_of(path), write(tmp_path / "samples", x=values), "minmax", 1).tensors
    sigmoid = 1 / (1 + np.exp(-np.concatenate(values)))
    assert found["s"].least == pytest.approx(sigmoid.min(), rel=1e-6)
    assert found["s"].largest == pytest.approx(sigmoid.max(), rel=1e-6)
    assert found["w"].least == pytest.approx(sigmoid[:, 1:].min(), rel=1e-6)
    assert found["w"].largest == pytest.approx(sigmoid[:, 1:].max(), rel=1e-6)


def test_only_what_can_become_int8_is_counted(tmp_path: Path) -> None:
    """Scores of attention and a residual behind it are never quantized: their ends are enough."""
    rng = np.random.default_rng(2)
    weights = [
        numpy_helper.from_array(rng.standard_normal((8, 8)).astype(np.float32), name) for name in ("wq", "wk", "wo")
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "wq"], ["q"], "q/node"),
        helper.make_node("MatMul", ["x", "wk"], ["k"], "k/node"),
        helper.make_node("Transpose", ["k"], ["kt"], "kt/node", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"], "scores/node"),
        helper.make_node("Add", ["scores", "scores"], ["placed"], "placed/node"),
        helper.make_node("Softmax", ["placed"], ["shares"], "shares/node"),
        helper.make_node("MatMul", ["shares", "q"], ["seen"], "seen/node"),
        helper.make_node("Add", ["seen", "x"], ["sum"], "sum/node"),
        helper.make_node("MatMul", ["sum", "wo"], ["y"], "y/node"),
    ]
    path = toys.save(tmp_path / "fp32.onnx", nodes, weights, [("x", ["batch", 8, 8])], [("y", ["batch", 8, 8])])
    inputs = [rng.standard_normal((1, 8, 8)).astype(np.float32) for _ in range(3)]
    found = calibrate(tmp_path, graph_of(path), write(tmp_path / "samples", x=inputs), "mse", 1).tensors
    assert {name for name, seen in found.items() if seen.algorithm == "mse"} == {"x", "sum"}
    assert found["scores"].largest == found["scores"].threshold or found["scores"].least == -found["scores"].threshold


PEAK = """
import resource, sys
from pathlib import Path
from deploy_compile.ranges import calibrate
from deploy_compile.results import Graph
folder = Path(sys.argv[1])
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
for name in ("small", "large"):
    calibrate(folder, Graph(folder / f"{name}.onnx", "fp32", 0, 0, 0, {}), folder / "samples", "minmax", 1)
    print(peak() - before)
"""


def test_memory_does_not_grow_with_the_depth_of_a_network(tmp_path: Path) -> None:
    """What a network holds beside tensors that can become INT8, such as scores of attention, is not held to the end."""
    for name, depth in (("small", 4), ("large", 40)):
        nodes = [helper.make_node("Sin", [f"t{i}"], [f"t{i + 1}"], f"n{i}") for i in range(depth)]
        nodes.append(helper.make_node("ReduceMax", [f"t{depth}"], ["y"], "last", keepdims=0))
        toys.save(tmp_path / f"{name}.onnx", nodes, [], [("t0", [1, 2**21])], [("y", [])])
    write(tmp_path / "samples", t0=[np.zeros((1, 2**21), np.float32)])
    command = [sys.executable, "-c", PEAK, str(tmp_path)]
    small, large = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert large - small < 8 * 8 * 1024  # KiB: eight tensors of 8 MiB, where another 36 are made
