"""Fallback: the worst layers go back to float, no more than needed, and the graph says why."""

import shutil
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from deploy_compile import macs as counting
from deploy_compile import onnx_graph, repair
from deploy_compile.quantize import quantize
from deploy_compile.ranges import calibrate
from deploy_compile.results import Graph
from deploy_compile.results_int8 import Ranges, Reached, Repaired
from deploy_compile.sensitivity import decibels, noise
from deploy_compile.switches import Answers, Sample, Switched
from deploy_recipes.recipe import Classes, Features, Keep, Limit, Recipe, Task
from deploy_runtime.spec import Tensor
from tests import toys

LAYERS = 6
BAD = "/layer2/Conv"  # reads a tensor whose one huge value needs a scale that drowns all others


def chain(path: Path) -> Path:
    """Write image [batch,8,8,8] -> six 1x1 convolutions in a row, one of which reads values of very unlike size."""
    rng = np.random.default_rng(4)
    nodes, weights, tensor = [], [], "image"
    for layer in range(LAYERS):
        weight = (rng.standard_normal((8, 8, 1, 1)) / 3).astype(np.float32)
        if layer == 1:
            weight[0] *= 30
        if layer == 2:
            weight[:, 0] /= 30
        weights.append(numpy_helper.from_array(weight, f"w{layer}"))
        nodes.append(helper.make_node("Conv", [tensor, f"w{layer}"], [f"t{layer}"], f"/layer{layer}/Conv"))
        tensor = f"t{layer}"
    return toys.save(
        path, nodes, weights, inputs=[("image", ["batch", 8, 8, 8])], outputs=[(tensor, ["batch", 8, 8, 8])]
    )


def recipe(limit: Limit, task: Task) -> Recipe:
    shape = ("batch", 8, 8, 8)
    return toys.recipe((Tensor("image", shape),), (Tensor("t5", shape),), task, limits={"int8": limit})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Graph, Graph, Ranges]:
    folder = tmp_path_factory.mktemp("chain")
    fp32 = Graph(chain(folder / "fp32.onnx"), "fp32", LAYERS, LAYERS, 0, {})
    (folder / "samples").mkdir()
    rng = np.random.default_rng(0)
    for index in range(8):
        np.savez(folder / "samples" / f"{index:03}.npz", image=rng.standard_normal((1, 8, 8, 8)).astype(np.float32))
    ranges = calibrate(folder, fp32, folder / "samples", "minmax", 1)
    return folder, fp32, quantize(folder, fp32, ranges, ()), ranges


def repaired(
    out: Path, made: tuple[Path, Graph, Graph, Ranges], asked: Recipe | Limit, margin_db: float = 1.0
) -> Repaired:
    folder, fp32, int8, ranges = made
    asked = recipe(asked, Features()) if isinstance(asked, Limit) else asked
    reached = repair.reach(out, fp32, int8, asked, folder / "samples", (), 1)
    ranked = repair.rank(out, fp32, int8, reached, asked, folder / "samples", 1)
    return repair.repair(out, fp32, int8, ranges, reached, ranked, asked, folder / "samples", margin_db, 1)


def errors(out: Path, made: tuple[Path, Graph, Graph, Ranges], samples: Path) -> Mapping[str, float]:
    _, fp32, int8, _ = made
    asked = recipe(Limit(sqnr_db=20.0), Features())
    reached = repair.reach(out, fp32, int8, asked, samples, (), 1)
    return repair.rank(out, fp32, int8, reached, asked, samples, 1).errors


@pytest.mark.parametrize(("spare_db", "margin_db"), [(7.0, 6.0), (4.0, 3.0), (1.0, 0.0), (-1.0, None)])
def test_a_graph_reaches_the_largest_margin_that_it_has_to_spare(
    tmp_path: Path, made: tuple[Path, Graph, Graph, Ranges], spare_db: float, margin_db: float | None
) -> None:
    folder, fp32, int8, _ = made

    def reached(limit_db: float) -> Reached:
        asked = recipe(Limit(sqnr_db=limit_db), Features())
        return repair.reach(tmp_path, fp32, int8, asked, folder / "samples", (0.0, 3.0, 6.0), 1)

    whole = reached(0.0).sqnr_db
    found = reached(whole - spare_db)
    assert (found.sqnr_db, found.margin_db, found.layers) == (whole, margin_db, LAYERS)
    answers = [np.load(path)["t5"] for path in (found.floats, found.whole)]
    assert [array.shape for array in answers] == [(8, 8, 8, 8)] * 2
    assert decibels(noise(*({"t5": array} for array in answers))) == whole


def test_a_large_network_is_tried_on_fewer_samples(
    tmp_path: Path, made: tuple[Path, Graph, Graph, Ranges], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    asked = recipe(Limit(sqnr_db=5.0), Features())

    def counted(reference: Answers, got: Answers) -> float:
        seen.append(len(reference["t5"]))
        return noise(reference, got)

    monkeypatch.setattr(repair, "noise", counted)
    for macs in (repair.TRIAL_MACS / 6, repair.TRIAL_MACS):
        monkeypatch.setattr(counting, "cost", lambda _, macs=macs: int(macs))
        repair.reach(tmp_path, made[1], made[2], asked, made[0] / "samples", (0.0,), 1)
    assert seen == [6, repair.LEAST_SAMPLES]


def test_the_worst_layer_goes_back_and_the_graph_says_why(
    tmp_path: Path, made: tuple[Path, Graph, Graph, Ranges], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "profile", lambda *_: {f"/layer{i}/Conv": (2.0, 1.0) for i in range(LAYERS)})
    found = repaired(tmp_path, made, Limit(sqnr_db=20.0))
    assert found.repair.taken == (BAD,)
    assert found.repair.before_db < 20 < found.repair.after_db
    assert found.repair.slower == pytest.approx(7 / 6)
    assert found.graph is not None
    assert list(found.graph.kept_float) == [BAD]
    assert "taken back to float" in found.graph.kept_float[BAD]
    assert "for 1.00 ms saved" in found.graph.kept_float[BAD]
    assert found.graph.quantized == LAYERS - 1
    assert "DequantizeLinear" not in made_by(found.graph.path, BAD)


def test_layers_are_ranked_on_the_samples_that_hold_the_noise(
    tmp_path: Path, made: tuple[Path, Graph, Graph, Ranges]
) -> None:
    usual = errors(tmp_path, made, made[0] / "samples")
    samples = shutil.copytree(made[0] / "samples", tmp_path / "samples")
    last = sorted(samples.iterdir())[-1]
    np.savez(last, image=20 * np.load(last)["image"])  # far beyond the ranges: every layer clips it
    clipped = errors(tmp_path, made, samples)
    assert clipped.keys() == usual.keys()
    assert all(clipped[node] > 0.1 > usual[node] for node in usual), (clipped, usual)


def test_a_trial_that_is_lost_ends_at_the_sample_that_loses_it(
    tmp_path: Path, made: tuple[Path, Graph, Graph, Ranges], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, fp32, int8, ranges = made
    monkeypatch.setattr(repair, "profile", lambda *_: {f"/layer{i}/Conv": (2.0, 1.0) for i in range(LAYERS)})
    samples = shutil.copytree(made[0] / "samples", tmp_path / "samples")
    last = sorted(samples.iterdir())[-1]
    np.savez(last, image=2 * np.load(last)["image"])  # holds most of the noise
    asked = recipe(Limit(sqnr_db=22.0), Features())
    reached = repair.reach(tmp_path, fp32, int8, asked, samples, (), 1)
    ranked = repair.rank(tmp_path, fp32, int8, reached, asked, samples, 1)
    runs: list[tuple[int, float]] = []  # by trial: how many layers in INT8, and the largest value of the sample
    run = Switched.run

    def counted(both: Switched, sample: Sample, nodes: Collection[str]) -> Answers:
        runs.append((len(nodes), float(np.abs(sample["image"]).max())))
        return run(both, sample, nodes)

    monkeypatch.setattr(Switched, "run", counted)
    done = repair.repair(tmp_path, fp32, int8, ranges, reached, ranked, asked, samples, 1.0, 1)
    tried = {count: [size for trial, size in runs if trial == count] for count, _ in runs}
    stays = LAYERS - len(done.repair.taken)
    assert len(tried[stays]) == 8
    lost = {count: sizes for count, sizes in tried.items() if count > stays > 0}
    assert lost
    assert all(len(sizes) == 1 and sizes[0] > 6 for sizes in lost.values()), lost


def made_by(path: Path, name: str) -> set[str]:
    model = onnx.load(path)
    producers = onnx_graph.links(model).producers
    node = next(node for node in model.graph.node if node.name == name)
    return {producers[tensor].op_type for tensor in node.input if tensor in producers}


def test_layers_that_int8_makes_no_faster_go_first(
    tmp_path: Path, made: tuple[Path, Graph, Graph, Ranges], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {f"/layer{i}/Conv": (2.0, 1.0) for i in range(LAYERS)} | {"/layer5/Conv": (1.0, 1.0)}
    monkeypatch.setattr(repair, "profile", lambda *_: times)
    found = repaired(tmp_path, made, Limit(sqnr_db=31.0))
    assert found.repair.taken[:2] == (BAD, "/layer5/Conv")
    assert found.repair.slower == pytest.approx((6 + len(found.repair.taken) - 1) / 6)  # the second cost nothing


def test_a_larger_margin_takes_more_back(tmp_path: Path, made: tuple[Path, Graph, Graph, Ranges]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    little = repaired(tmp_path / "a", made, Limit(sqnr_db=25.0), 0.0)
    much = repaired(tmp_path / "b", made, Limit(sqnr_db=25.0), 8.0)
    assert len(little.repair.taken) < len(much.repair.taken)
    assert much.repair.after_db > 33


def test_where_nothing_may_stay_there_is_no_graph(tmp_path: Path, made: tuple[Path, Graph, Graph, Ranges]) -> None:
    found = repaired(tmp_path, made, Limit(sqnr_db=200.0))
    assert found.graph is None
    assert len(found.repair.taken) == found.repair.heavy == LAYERS


def test_decisions_count_too(tmp_path: Path, made: tuple[Path, Graph, Graph, Ranges]) -> None:
    strict = repaired(tmp_path, made, recipe(Limit(agreement=0.9), Classes(8)))
    assert strict.repair.taken
    assert strict.graph is not None


def test_a_margin_leaves_decisions_alone_and_reaches_single_outputs() -> None:
    limit = Limit(cosine=0.99, sqnr_db=18.0, agreement=0.95, outputs={"map": Limit(max_relative=0.1)})
    tight = repair.tightened(limit, 3.0103)
    assert tight.cosine == pytest.approx(0.995, abs=1e-5)
    assert tight.sqnr_db == pytest.approx(21.0103)
    assert tight.agreement == 0.95
    assert tight.outputs["map"].max_relative == pytest.approx(0.0707, abs=1e-4)
    assert replace(repair.tightened(limit, 0.0), outputs=limit.outputs) == limit


def test_the_worst_layer_goes_alone_though_it_gains_most(
    tmp_path: Path, made: tuple[Path, Graph, Graph, Ranges], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {f"/layer{i}/Conv": (1.0, 1.0) for i in range(LAYERS)} | {BAD: (3.0, 1.0)}
    monkeypatch.setattr(repair, "profile", lambda *_: times)
    found = repaired(tmp_path, made, Limit(sqnr_db=20.0))
    assert found.repair.taken == (BAD,)
    assert found.graph is not None


def test_layers_kept_by_the_recipe_stay_kept(
    tmp_path: Path, made: tuple[Path, Graph, Graph, Ranges], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "profile", lambda *_: {f"/layer{i}/Conv": (2.0, 1.0) for i in range(LAYERS)})
    folder, fp32, _, ranges = made
    asked = replace(recipe(Limit(sqnr_db=20.0), Features()), keep_float=(Keep("/layer0/*", "the stem"),))
    (tmp_path / "plain").mkdir()
    plain = quantize(tmp_path / "plain", fp32, ranges, asked.keep_float)
    found = repaired(tmp_path, (folder, fp32, plain, ranges), asked)
    assert found.graph is not None
    assert found.graph.kept_float["/layer0/Conv"] == "the stem"
    assert BAD in found.repair.taken
