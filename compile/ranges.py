"""Calibrate: run the fp32 graph over the calibration samples once and keep, of every float tensor, what it ranged over.

Promise: one streaming pass whose memory does not grow with the number of samples; least and largest values exact over
every finite value of every sample; thresholds from full histograms for the tensors that can become int8 (`_int8`),
min-max for the rest, taken inside the graph. A graph whose tensors do
not fit TAPPED_BYTES at once is run once for each part, and once more for tensors that are infinite somewhere (attention
masks). ONNX Runtime executes it: with every tensor tapped it is faster than OpenVINO (x3d_s 0.30 against 0.48 s).

Every algorithm reads the same histograms. `auto` takes, for each tensor that becomes int8, the one whose threshold
serves its readers best, tried on a few samples (`choose_ranges`), and `mse` for the others.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from deploy_compile import onnx_graph, sample_files, session
from deploy_compile.choose_ranges import choose
from deploy_compile.histogram import Extent, Histogram
from deploy_compile.macs import affordable
from deploy_compile.results import Graph
from deploy_compile.results_int8 import Range, Ranges
from deploy_compile.rewrite_onnxruntime import CONVOLUTIONS, MOVERS, POINTWISE
from deploy_compile.thresholds import ALGORITHMS
from deploy_runtime.errors import DeployError, UsageError

AUTO = "auto"
REST = "mse"  # what `auto` means for a tensor that no INT8 node reads
TRIED, TRIED_MACS = 32, 4e11  # samples that `auto` tries thresholds on, evenly spread, fewer of large networks
TAPPED_BYTES = 3 * 2**29  # of tensors held at once, for one sample


def calibrate(out: Path, graph: Graph, samples: Path, algorithm: str, threads: int) -> Ranges:
    """Return the ranges of every float tensor of the fp32 graph over a folder of one-sample `.npz` files.

    `algorithm` is a name in `thresholds.ALGORITHMS` or `auto`. Raises UsageError for another one, and DeployError where
    there is no sample or a tensor is not a number.
    """
    _check(algorithm)
    files = sorted(samples.glob("*.npz"))
    if not files:
        raise DeployError(f"{samples} holds no calibration samples", "Give a folder with at least one readable sample.")
    model = onnx_graph.load(graph.path)
    seen = _accumulators(model)
    inputs = [value.name for value in model.graph.input if value.name in seen]
    for file in files:
        arrays = sample_files.load(file)
        _count(seen, {name: arrays[name] for name in inputs})
    outputs = {value.name for value in model.graph.output}
    made = [name for name in seen if name not in inputs]
    whole = [name for name in made if isinstance(seen[name], Histogram) or name in outputs]
    ends = [name for name in made if name not in whole]
    for part in _parts(model, whole):
        unbounded = _pass(model, part, ends, files, seen, out, threads)
        ends = []  # with the first part
        for rest in _parts(model, unbounded) if unbounded else ():
            _pass(model, rest, [], files, seen, out, threads)
    if algorithm != AUTO:
        return Ranges(_ranges(seen, algorithm), len(files))
    proposed = {name: _ranges(seen, name) for name in ALGORITHMS}
    some = affordable(graph.path, TRIED_MACS, 1, TRIED)
    tried = choose(model, proposed, files[:: max(1, len(files) // some)][:some], threads)
    return Ranges(proposed[REST] | tried, len(files))


def _pass(
    model: onnx.ModelProto,
    whole: Sequence[str],
    ends: Sequence[str],
    files: Sequence[Path],
    seen: Mapping[str, Extent],
    out: Path,
    threads: int,
) -> list[str]:
    """Run all samples once: count every value of the tensors in `whole`, and least and largest of those in `ends`.

    Returns those of `ends` that were infinite somewhere, for which nothing is counted: what is finite in them is not
    known yet.
    """
    extremes: dict[str, list[np.ndarray]] = {name: [] for name in ends}
    with session.opened(_tapped(model, whole, ends), threads, folder=out) as opened:
        for file in files:
            values: Any = iter(opened.run(None, sample_files.load(file)))
            for name in whole:
                _count(seen, {name: next(values)})
            for name in ends:
                extremes[name].append(np.array([next(values), next(values)], np.float32))
    unbounded = [name for name, found in extremes.items() if np.isinf(found).any()]
    for name in extremes.keys() - set(unbounded):
        _count(seen, {name: np.array(extremes[name])})
    return unbounded


def _check(algorithm: str) -> None:
    if algorithm != AUTO and algorithm not in ALGORITHMS:
        close = difflib.get_close_matches(algorithm, ALGORITHMS, 1)
        hint = f"Did you mean {close[0]}? " if close else ""
        raise UsageError(
            f"there is no calibration algorithm {algorithm!r}", f"{hint}Choose auto, {', '.join(ALGORITHMS)}."
        )


def _accumulators(model: onnx.ModelProto) -> dict[str, Extent]:
    """One empty accumulator for each float32 tensor that is not a constant: the inputs, then in graph order."""
    links = onnx_graph.links(model)
    kinds = onnx_graph.inferred(model)
    histograms = _int8(model)
    names = [value.name for value in model.graph.input]
    names += [name for node in model.graph.node for name in node.output]
    return {
        name: Histogram() if name in histograms else Extent()
        for name in names
        if name not in links.constants and kinds.get(name, (0, ()))[0] == TensorProto.FLOAT
    }


def _int8(model: onnx.ModelProto) -> set[str]:
    """Return the tensors that some form of the INT8 graph quantizes by a range of their own: what heavy nodes with
    constant weights read, what their convolutions give, and sums of nothing but such (`rewrite_onnxruntime`, `join`).
    A transformer's residuals and attention scores are none: counting theirs took most of a calibration."""
    quantizable = onnx_graph.quantizable(model)
    convolutions = {node.output[0] for nodes in quantizable.values() for node in nodes if node.op_type in CONVOLUTIONS}
    ranged, known = convolutions.union(quantizable), set(quantizable)
    for node in reversed(model.graph.node):
        if node.op_type in MOVERS and node.output[0] in known:
            known.add(node.input[0])
    for node in model.graph.node:
        moved = node.op_type in MOVERS and node.input[0] in known
        worked = node.op_type in POINTWISE and known.issuperset(node.input)
        if moved or worked or node.output[0] in convolutions:
            known.add(node.output[0])
        if worked and node.op_type == "Add":
            ranged.update((*node.input, *node.output))
    return ranged


def _parts(model: onnx.ModelProto, names: Sequence[str]) -> Iterator[list[str]]:
    """Split tensors into runs whose values fit TAPPED_BYTES together at batch 1; at least one part, even if empty."""
    shapes = onnx_graph.inferred(model, batch=1)
    part: list[str] = []
    held = 0
    for name in names:
        size = 4 * int(np.prod([dim or 1 for dim in shapes[name][1]], dtype=np.int64))
        if part and held + size > TAPPED_BYTES:
            yield part
            part, held = [], 0
        part.append(name)
        held += size
    yield part


def _tapped(model: onnx.ModelProto, whole: Sequence[str], ends: Sequence[str]) -> onnx.ModelProto:
    """Return the graph with tensors as its outputs: `whole` as they are, then least and largest value of `ends`.

    ONNX Runtime orders nodes depth first from the last leaf of the graph. So the reductions of the first tensors stand
    last: each tensor is then reduced once it is there, and freed. In graph order all of them are held to the end.
    """
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    used = onnx_graph.taken(model)
    del tapped.graph.output[:]
    names = list(whole)
    reductions = []
    for name in ends:
        for op in ("ReduceMin", "ReduceMax"):
            names.append(onnx_graph.unique(f"{name}/{op}", used))
            reductions.append(helper.make_node(op, [name], [names[-1]], f"{names[-1]}/node", keepdims=0))
    tapped.graph.node.extend(reversed(reductions))
    tapped.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    return tapped


def _count(seen: Mapping[str, Extent], arrays: Mapping[str, np.ndarray]) -> None:
    for name, values in arrays.items():
        try:
            seen[name].add(values)
        except ValueError as error:
            raise DeployError(
                f"tensor {name} of the fp32 graph is not a number for a calibration sample",
                "The network itself gives NaN there: check its weights and the scale of the samples.",
            ) from error


def _ranges(seen: Mapping[str, Extent], algorithm: str) -> dict[str, Range]:
    return {name: _range(extent, algorithm) for name, extent in seen.items()}


def _range(extent: Extent, algorithm: str) -> Range:
    if extent.least > extent.largest:  # nothing finite was ever seen
        return Range(0.0, 0.0, 0.0, 0.0, algorithm)
    if not isinstance(extent, Histogram) or extent.top == 0.0:
        return Range(extent.least, extent.largest, extent.top, 0.0, "minmax")
    threshold = ALGORITHMS[algorithm](extent.counts, extent.width, extent.top)
    clipped = 0
    if threshold < extent.top:  # thresholds below it are bin edges
        clipped = int(extent.counts[int(np.ceil(threshold / extent.width)) :].sum())
    return Range(extent.least, extent.largest, threshold, clipped / int(extent.counts.sum()), algorithm)
