"""The trained tasks of benchmarks/: digits in one split alone, scenes the same each time, every candidate counted."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
import torch

from deploy_compile.attempt import Tried
from deploy_compile.options import Options, fitted
from deploy_compile.pipeline import Verified
from deploy_compile.results import Built, Graph
from deploy_compile.sample_files import write
from deploy_runtime.evidence import Candidate, Status
from tests import toys

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
MODULES = ("tasks_data", "tasks_train", "tasks_list", "tasks_score", "tasks_page")


@pytest.fixture(scope="module")
def tasks() -> dict[str, ModuleType]:
    """The modules as the script sees them, which lie beside it and in no package."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return {name.removeprefix("tasks_"): importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_no_digit_serves_in_two_splits(tasks: dict[str, ModuleType]) -> None:
    data = tasks["data"]
    places = np.concatenate([data.split(name).places for name in data.SPLITS])
    assert len(set(places.tolist())) == len(places) == sum(data.SPLITS.values())
    assert len(data.split("test")) >= 1000


def test_every_task_draws_what_its_network_takes_the_same_each_time(tasks: dict[str, ModuleType]) -> None:
    train = tasks["train"]
    for task in tasks["list"].TASKS:
        recipe = fitted(Options(task.recipe, task.params))
        (frames, truth), (_, again) = (next(train.scenes(recipe, task.draw, "test", 1)) for _ in range(2))
        sample = train.ready(frames, recipe)
        assert {name: array.shape for name, array in sample.items()} == {t.name: t.at(1) for t in recipe.inputs}
        assert np.array_equal(truth, again)
        with torch.device("meta"):
            net = recipe.network(**recipe.values(task.params)).eval()
        answer = net(*(torch.empty(array.shape, device="meta") for array in sample.values()))
        assert train.right(np.zeros(answer.shape), truth[None], recipe).shape == (1, *truth.shape)


def test_the_two_studies_differ_where_the_map_says(tasks: dict[str, ModuleType]) -> None:
    data = tasks["data"]
    for seed in range(8):
        pair, truth = data.change(data.split("test"), seed, np.random.default_rng(seed), (96, 96), 1, noise=0.0)
        apart = np.abs(pair["baseline"].astype(float) - pair["followup"].astype(float))
        if truth.any():
            assert apart[truth[0] == 1].mean() > 2 * apart[truth[0] == 0].mean()


def test_bf16_is_emulated_at_every_node(tasks: dict[str, ModuleType], tmp_path: Path) -> None:
    score = tasks["score"]
    model = onnx.load(toys.conv_graph(tmp_path / "toy.onnx"))
    write(tmp_path / "samples", ({"image": image} for image in toys.images(3)))
    rounded = score.through(score.bf16(model), tmp_path / "samples", None, 1)["logits"]
    plain = score.through(model, tmp_path / "samples", None, 1)["logits"]
    assert np.array_equal(rounded, torch.from_numpy(rounded).bfloat16().float().numpy())
    error = np.abs(rounded - plain).max() / np.abs(plain).max()
    assert 2.0**-10 < error < 2.0**-5


@pytest.mark.parametrize("status", ["built_not_run", "failed"])
def test_an_engine_that_cannot_run_here_is_emulated_whatever_its_gate_said(
    tasks: dict[str, ModuleType], tmp_path: Path, status: Status
) -> None:
    graph = Graph(toys.conv_graph(tmp_path / "toy.onnx"), "fp32", 9, 1, 0, {})
    write(tmp_path / "samples", ({"image": image} for image in toys.images(3)))
    engine = Built("tensorrt_rtx", "fp32", "rtx", "built_not_run", "", tmp_path / "engine.trt", (), 0.0)
    tried = Tried(engine, Candidate("tensorrt_rtx", "fp32", "rtx", status, emulated=True))
    made = Verified(None, None, None, (graph,), None, (tried,), {})  # type: ignore[arg-type]
    answers, emulated, _ = tasks["score"].answers_of(tried, None, made, tmp_path / "samples", 1)
    assert emulated
    assert answers["logits"].shape[0] == 3


def test_a_map_is_decided_cell_by_cell(tasks: dict[str, ModuleType]) -> None:
    maps = np.zeros((1, 1, 32, 32))
    maps[0, 0, 20, 3] = 0.9
    assert tasks["score"].in_cells(maps).tolist() == [[0.0, 0.0, 0.9, 0.0]]


def test_what_did_not_pass_does_not_count_as_kept(tasks: dict[str, ModuleType]) -> None:
    def row(backend: str, status: str, share: float) -> dict[str, object]:
        return {
            "name": f"{backend} int8",
            "precision": "int8",
            "status": status,
            "kept": {"value": share, "low": share},
        }

    result = {"task": "a", "candidates": [row("openvino", "passed", 0.999), row("onnxruntime", "failed", 0.8)]}
    assert tasks["page"].kept([result], "int8") == [("a, openvino int8", 0.999, 0.999)]
