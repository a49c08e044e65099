"""Biases that give back what quantizing adds on average: which, by how much, and when not."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from deploy_compile import biases, onnx_graph, sample_files, session
from deploy_compile import macs as counting
from deploy_compile.correct import COUNTED_MACS, JUDGED, LEAST_JUDGED, LEAST_MEASURED, MEASURED, correct
from deploy_compile.quantize import quantize
from deploy_compile.ranges import calibrate
from deploy_compile.results import Graph
from deploy_compile.results_int8 import Corrected, Range, Ranges
from deploy_compile.sensitivity import decibels, noise
from deploy_compile.switches import switched
from deploy_recipes.recipe import Keep

CONVOLUTION, BIASED, PRODUCT, HEAD = LAYERS = ("/conv", "/biased", "/product", "/head")


def network(path: Path, seed: int = 0) -> Graph:
    """A convolution without bias, one with, a product whose bias another node adds, and a Gemm."""
    rng = np.random.default_rng(seed)
    weights = {
        "w0": rng.standard_normal((16, 3, 3, 3)) / 5,
        "w1": rng.standard_normal((16, 16, 3, 3)) / 12,
        "b1": rng.standard_normal(16),
        "w2": rng.standard_normal((16, 24)) / 4,
        "b2": rng.standard_normal(24),
        "w3": rng.standard_normal((24, 5)) / 5,
        "b3": rng.standard_normal(5),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["c0"], CONVOLUTION),
        helper.make_node("Relu", ["c0"], ["r0"], "/relu0"),
        helper.make_node("Conv", ["r0", "w1", "b1"], ["c1"], BIASED),
        helper.make_node("Relu", ["c1"], ["r1"], "/relu1"),
        helper.make_node("GlobalAveragePool", ["r1"], ["p"], "/pool"),
        helper.make_node("Flatten", ["p"], ["f"], "/flat"),
        helper.make_node("MatMul", ["f", "w2"], ["m"], PRODUCT),
        helper.make_node("Add", ["m", "b2"], ["a"], "/bias"),
        helper.make_node("Relu", ["a"], ["r2"], "/relu2"),
        helper.make_node("Gemm", ["r2", "w3", "b3"], ["logits"], HEAD),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 12, 12])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    onnx_graph.save(model, path)
    return Graph(path, "fp32", len(nodes), 4, 0, {})


def images(count: int, seed: int, scale: float = 1.0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((1, 3, 12, 12)) * scale).astype(np.float32) for _ in range(count)]


def written(folder: Path, arrays: Sequence[np.ndarray]) -> Path:
    folder.mkdir()
    for place, array in enumerate(arrays):
        np.savez(folder / f"{place:03d}.npz", image=array)
    return folder


def made(folder: Path, arrays: Sequence[np.ndarray], ranges: Ranges | None = None) -> tuple[Graph, Graph, Corrected]:
    """The float graph, its INT8 form, and that corrected."""
    fp32, samples = network(folder / "fp32.onnx"), written(folder / "samples", arrays)
    ranges = ranges or calibrate(folder, fp32, samples, "minmax", 1)
    for name in ("plain", "corrected"):
        (folder / name).mkdir()
    int8 = quantize(folder / "plain", fp32, ranges, ())
    return fp32, int8, correct(folder / "corrected", fp32, int8, ranges, (), samples, 1)


def answers(graph: Graph, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return session.answers(onnx_graph.load(graph.path), ({"image": array} for array in arrays), 1, optimised=False)


def bias(path: Path, name: str) -> np.ndarray | None:
    model = onnx_graph.load(path)
    place = biases.place(next(n for n in model.graph.node if n.name == name), onnx_graph.links(model))
    assert place is not None
    return place.values


def test_every_kind_of_layer_gets_its_mean_back_and_new_answers_are_nearer(tmp_path: Path) -> None:
    fp32, int8, corrected = made(tmp_path, images(16, seed=1))
    assert corrected.means is not None
    means = biases.read(corrected.means)
    assert set(means) == set(LAYERS)
    assert corrected.layers == len(LAYERS)
    for name in LAYERS:
        before, after = bias(int8.path, name), bias(corrected.graph.path, name)
        assert after is not None
        np.testing.assert_allclose(after, (0.0 if before is None else before) - means[name], rtol=0, atol=1e-6)
    fresh = images(32, seed=9)
    wanted = answers(fp32, fresh)
    ratios = [decibels(noise(wanted, answers(graph, fresh))) for graph in (int8, corrected.graph)]
    assert ratios[1] > ratios[0] + 0.5
    assert corrected.before_db is not None
    assert corrected.after_db is not None
    assert corrected.after_db > corrected.before_db


def test_with_all_switches_on_the_answers_are_those_of_the_corrected_graph(tmp_path: Path) -> None:
    fp32, _, corrected = made(tmp_path, images(16, seed=1))
    image = images(1, seed=3)
    with switched(fp32.path, corrected.graph.path, 1) as both:
        for graph, on in ((fp32, ()), (corrected.graph, both.nodes)):
            got = both.run({"image": image[0]}, on)["logits"]
            np.testing.assert_allclose(got, answers(graph, image)["logits"], rtol=0, atol=1e-5)
        alone = both.run({"image": image[0]}, (PRODUCT,))["logits"]
    assert not np.array_equal(alone, answers(fp32, image)["logits"])


def test_what_other_samples_do_not_bear_out_is_not_kept(tmp_path: Path) -> None:
    loud, quiet = images(4, seed=1, scale=8.0), images(4, seed=2, scale=0.5)
    mixed = [array for pair in zip(loud, quiet, strict=True) for array in pair]
    narrow = {name: Range(-9.0, 9.0, 3.0, 0.0, "minmax") for name in ("image", "r0", "f", "r2")}
    _, int8, corrected = made(tmp_path, mixed, Ranges(narrow, 8))
    assert corrected == Corrected(int8, None, 0, corrected.before_db, corrected.after_db)
    assert corrected.before_db is not None
    assert corrected.after_db is not None
    assert corrected.after_db < corrected.before_db


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_samples_correct_nothing(tmp_path: Path, count: int) -> None:
    _, int8, corrected = made(tmp_path, images(count, seed=1))
    assert corrected == Corrected(int8)


def test_a_layer_back_in_float_keeps_its_bias(tmp_path: Path) -> None:
    fp32, _, corrected = made(tmp_path, images(16, seed=1))
    ranges = calibrate(tmp_path, fp32, tmp_path / "samples", "minmax", 1)
    (tmp_path / "kept").mkdir()
    kept = quantize(tmp_path / "kept", fp32, ranges, (Keep(PRODUCT, "a test"),), "", corrected.means)
    for name, same in ((PRODUCT, True), (BIASED, False)):
        before, after = bias(fp32.path, name), bias(kept.path, name)
        assert before is not None
        assert after is not None
        assert np.array_equal(before, after) is same


def test_a_bias_that_two_nodes_share_is_corrected_for_one(tmp_path: Path) -> None:
    fp32 = network(tmp_path / "fp32.onnx")
    model = onnx_graph.load(fp32.path)
    model.graph.node[-1].input[2] = "b3"
    twice = helper.make_node("Gemm", ["r2", "w3", "b3"], ["again"], "/head2")
    model.graph.node.append(twice)
    model.graph.output.append(helper.make_tensor_value_info("again", TensorProto.FLOAT, ["batch", 5]))
    onnx_graph.save(model, fp32.path)
    samples = written(tmp_path / "samples", images(4, seed=1))
    ranges = calibrate(tmp_path, fp32, samples, "minmax", 1)
    means = biases.write(tmp_path / "means.npz", {HEAD: np.ones(5, np.float32)})
    made = quantize(tmp_path, fp32, ranges, (), "", means)
    one, other = bias(made.path, HEAD), bias(made.path, "/head2")
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(one, other - 1, rtol=0, atol=1e-6)


@given(st.dictionaries(st.text(min_size=1, max_size=30), st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=5)))
@settings(max_examples=50)
def test_means_are_read_back_whatever_the_nodes_are_called(found: dict[str, list[float]]) -> None:
    import tempfile

    given_means = {name: np.array(values, np.float32) for name, values in found.items() if not name.endswith("\0")}
    with tempfile.TemporaryDirectory() as folder:
        read = biases.read(biases.write(Path(folder) / "means.npz", given_means))
    assert read.keys() == given_means.keys()
    assert all(np.array_equal(read[name], given_means[name]) for name in read)


@pytest.mark.parametrize(("share", "looked_at"), [(1.0, LEAST_MEASURED + LEAST_JUDGED), (0.0, MEASURED + JUDGED)])
def test_a_large_network_is_corrected_by_fewer_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, looked_at: int
) -> None:
    read, own = list[Path](), sample_files.load

    def load(path: Path) -> dict[str, np.ndarray]:
        read.append(path)
        return own(path)

    monkeypatch.setattr(counting, "cost", lambda _: int(share * COUNTED_MACS))
    samples, fp32 = written(tmp_path / "samples", images(16, seed=1)), network(tmp_path / "fp32.onnx")
    ranges = calibrate(tmp_path, fp32, samples, "minmax", 1)
    int8 = quantize(tmp_path, fp32, ranges, ())
    (tmp_path / "corrected").mkdir()
    monkeypatch.setattr(sample_files, "load", load)
    correct(tmp_path / "corrected", fp32, int8, ranges, (), samples, 1)
    assert len(read) == len(set(read)) == looked_at
