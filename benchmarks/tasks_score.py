"""True accuracy of PyTorch and of every candidate on the same test scenes, in numbers from `deploy_compile.accuracy`.

A candidate that runs on this machine answers through the runtime that ships, in a process of its own. The others are
emulated, and say so: TensorRT-RTX's graphs as parity does it (`deploy_compile.emulate`), and bf16, where the processor
has none, by the fp32 graph with its weights and every node's output rounded to bf16.
A map is decided cell by cell: one holds a change where any of its pixels says so.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from scipy import stats  # type: ignore[import-untyped]
from tasks_data import Draw
from tasks_train import ready, scenes

from deploy_compile import accuracy, onnx_graph, parity_run
from deploy_compile.attempt import Tried
from deploy_compile.emulate import emulate, rounding, through
from deploy_compile.load import module
from deploy_compile.pipeline import Verified
from deploy_compile.reference import forward
from deploy_compile.results import Graph
from deploy_compile.sample_files import paths, read, save
from deploy_recipes import Classes, DenseMap, MultiLabel, Recipe
from deploy_runtime.data import encode
from deploy_runtime.evidence import Accuracy, Difference, Interval
from deploy_runtime.measure import decided
from deploy_runtime.spec import Batch

CELL = 16  # pixels a side of a map's cells
CHANGED = 0.5  # value of a map from which on it says that something changed
RESAMPLES = 500
SEED = 11
GRAPH_OF_TARGET = {"cpu": "cpu", "rtx": ""}  # the form of a target's INT8 graph
EMULATED = "emulated: this processor has no bf16"

Answers = Mapping[str, np.ndarray]  # by output name, stacked over samples


def test_on(folder: Path, recipe: Recipe, draw: Draw, count: int) -> np.ndarray:
    """Write the scenes of the test digits as numbered samples; return their truth, stacked."""
    found = []
    for index, (frames, truth) in enumerate(scenes(recipe, draw, "test", count)):
        save(folder / f"{index:04d}.npz", ready(frames, recipe))  # as many digits in each name: some sort by name
        found.append(truth)
    return np.stack(found)


def score(recipe: Recipe, made: Verified, samples: Path, truth: np.ndarray, threads: int) -> dict[str, Any]:
    """Return PyTorch's accuracy and a row for every candidate, over a folder of samples with their truth."""
    before = answers_of_torch(recipe, made, samples, threads)
    rows = []
    for one in made.tried:
        answers, emulated, reason = answers_of(one, recipe, made, samples, threads)
        row: dict[str, Any] = {
            "name": one.row.name,
            "backend": one.row.backend,
            "precision": one.row.precision,
            "status": one.row.status,
            "reason": reason,
            "emulated": emulated,
            "sqnr_db": encode(min((drift.sqnr_db for drift in one.row.drift), default=None)),
        }
        row |= {} if answers is None else compared(recipe, before, answers, truth)
        rows.append(row)
        print(f"  {row['name']} {row['status']}: {row.get('kept', {}).get('value', reason)}", flush=True)
    return {"guess": guess(recipe, before, truth), "torch": measured(recipe, before, truth), "candidates": rows}


def answers_of_torch(recipe: Recipe, made: Verified, samples: Path, threads: int) -> Answers:
    """Return what the network answers in PyTorch fp32, each output stacked over samples."""
    torch.set_num_threads(threads)
    net = module(made.loaded)
    found = [forward(net, recipe, sample) for sample in read(samples)]
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def answers_of(
    one: Tried, recipe: Recipe, made: Verified, samples: Path, threads: int
) -> tuple[Answers | None, bool, str]:
    """Return a candidate's answers, whether they are emulated, and what its row says; None where it has none."""
    engine, row = one.engine, one.row
    graph = graph_of(one, made.graphs)
    if row.emulated and row.status in ("built_not_run", "failed", "rejected") and graph is not None:
        return emulate(graph.path, samples, None, threads), True, row.reason
    if engine.file is not None and row.status in ("passed", "failed", "rejected"):
        opened = (engine.file, engine.backend, engine.precision, recipe.inputs, recipe.outputs, Batch())
        return parity_run.outputs(*opened, paths(samples), threads, engine.target), False, row.reason
    if row.precision == "bf16" and row.status == "refused" and graph is not None:
        return through(bf16(onnx_graph.load(graph.path)), samples, None, threads), True, EMULATED
    return None, False, row.reason


def graph_of(one: Tried, graphs: Sequence[Graph]) -> Graph | None:
    """Return the graph that a candidate was built from; None where all INT8 layers went back to float."""
    wanted = {"bf16": "fp32"}.get(one.row.precision, one.row.precision)
    form = GRAPH_OF_TARGET[one.row.target] if wanted == "int8" else ""
    return next((graph for graph in graphs if (graph.precision, graph.form) == (wanted, form)), None)


def bf16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an fp32 graph whose weights, inputs and node outputs are rounded to bf16; sums inside a node stay fp32."""
    floats = {name for name, (kind, _) in onnx_graph.inferred(model).items() if kind == TensorProto.FLOAT}
    used = onnx_graph.taken(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    del graph.node[:], graph.value_info[:]
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            rounded = torch.from_numpy(onnx_graph.array(tensor).copy()).bfloat16().float().numpy()
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    seen = {}
    for value in graph.input:
        seen[value.name] = onnx_graph.unique(f"{value.name}_rounded", used)
        graph.node.extend(rounding(value.name, seen[value.name], used, TensorProto.BFLOAT16))
    for node in model.graph.node:
        plain = graph.node.add()
        plain.CopyFrom(node)
        plain.input[:] = [seen.get(name, name) for name in node.input]
        for place, name in enumerate(node.output):
            if name in floats and node.op_type != "Constant":
                plain.output[place] = onnx_graph.unique(f"{name}_unrounded", used)
                graph.node.extend(rounding(plain.output[place], name, used, TensorProto.BFLOAT16))
    return result


def measured(recipe: Recipe, answers: Answers, truth: np.ndarray) -> dict[str, Any]:
    """Return the accuracy of answers; of a map also its PSNR against the truth in dB, averaged over samples."""
    scores, right, task = decisions(recipe, answers, truth)
    found: Accuracy = accuracy.measure(scores, right, task)
    plain = {
        "accuracy": encode(found.accuracy),
        "auroc": encode(found.auroc),
        "calibration_error": encode(found.calibration_error),
    }
    return plain | ({"psnr_db": encode(psnr(answers, truth))} if isinstance(recipe.task, DenseMap) else {})


def guess(recipe: Recipe, answers: Answers, truth: np.ndarray) -> float:
    """Return how often it would be right to give the most frequent answer every time."""
    _, right, task = decisions(recipe, answers, truth)
    if isinstance(task, MultiLabel):
        return float(np.maximum(right.mean(axis=0), 1.0 - right.mean(axis=0)).mean())
    return float(np.bincount(right.ravel()).max() / right.size)


def compared(recipe: Recipe, before: Answers, after: Answers, truth: np.ndarray) -> dict[str, Any]:
    """Return the accuracy of a candidate's answers, and how it differs from PyTorch's on the same samples.

    `kept` is the share of PyTorch's accuracy that is left; its interval is that of the change.
    """
    was, right, task = decisions(recipe, before, truth)
    now, _, _ = decisions(recipe, after, truth)
    found: Difference = accuracy.difference(was, now, right, task)
    whole = accuracy.right(was, right, task).mean()
    kept = Interval(*(1.0 + float(each / whole) for each in (found.change.value, found.change.low, found.change.high)))
    return {**measured(recipe, after, truth), "difference": encode(found), "kept": encode(kept)}


def decisions(
    recipe: Recipe, answers: Answers, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Classes | MultiLabel]:
    """Return scores, truth and task as `deploy_compile.accuracy` takes them."""
    task = recipe.task
    if isinstance(task, DenseMap):
        scores, cells = in_cells(answers[recipe.outputs[0].name]), in_cells(truth)
        return scores, (cells >= CHANGED).astype(np.int64), MultiLabel(scores.shape[1], CHANGED)
    assert isinstance(task, (Classes, MultiLabel))
    name = min(decided(answers, task), key=[tensor.name for tensor in recipe.outputs].index)
    scores = answers[name]
    return (scores if isinstance(task, MultiLabel) else scores.reshape(len(truth), -1, task.count)), truth, task


def in_cells(maps: np.ndarray) -> np.ndarray:
    """Return the largest value in each cell: maps [n, 1, H, W] to [n, cells]."""
    count, _, height, width = maps.shape
    return np.asarray(
        maps.reshape(count, height // CELL, CELL, width // CELL, CELL).max(axis=(2, 4)).reshape(count, -1)
    )


def psnr(answers: Answers, truth: np.ndarray) -> Interval:
    """Return the mean peak signal-to-noise ratio of maps from 0 to 1, with its percentile-bootstrap 95 % interval."""
    (maps,) = answers.values()
    each = -10.0 * np.log10(np.square(maps.astype(np.float64) - truth).mean(axis=(1, 2, 3)))
    mean: Callable[..., Any] = np.mean
    drawn = stats.bootstrap((each,), mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(SEED))
    return Interval(float(each.mean()), float(drawn.confidence_interval.low), float(drawn.confidence_interval.high))
