"""Attempt: a candidate built, audited and measured against PyTorch, sample by sample and as a stream or a pair."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deploy_compile import onnx_graph
from deploy_compile.audit import audit
from deploy_compile.build import build
from deploy_compile.cache import Stages
from deploy_compile.options import Options
from deploy_compile.pair_parity import pair_parity
from deploy_compile.pair_parity import verdicts as pair_verdicts
from deploy_compile.parity import parity
from deploy_compile.results import Built, Graph, Paired, Reference, Samples, Streamed
from deploy_compile.results_int8 import Ranges
from deploy_compile.rows import behaved, judged
from deploy_compile.stream_parity import stream_parity
from deploy_compile.stream_parity import verdicts as stream_verdicts
from deploy_compile.targets import GRAPH_OF, Target
from deploy_recipes.recipe import Recipe
from deploy_runtime.evidence import Backend, Candidate, Precision

BUILDERS = 2  # engines built side by side; nothing is timed meanwhile
LARGE = 2**30  # bytes of a graph of which one is built at a time: a build takes up to four times as much memory
Wanted = tuple[Target, Backend, Precision]


@dataclass(frozen=True)
class Seen:
    """What every candidate is built from and measured with."""

    recipe: Recipe
    options: Options
    samples: Samples
    torch: Reference
    fp32: Graph
    ranges: Ranges | None
    streamed: Streamed | None
    paired: Paired | None


@dataclass(frozen=True)
class Tried:
    """One candidate built, audited and measured against PyTorch."""

    engine: Built
    row: Candidate
    answers: Path | None = None  # to the golden samples


def attempt(run: Stages, seen: Seen, graphs: Sequence[Graph], wanted: Sequence[Wanted]) -> list[Tried]:
    """Build, audit and measure candidates from the graphs of their precisions."""
    recipe, options, fp32 = seen.recipe, seen.options, seen.fp32
    by_precision = {graph.precision: graph for graph in graphs}
    sources = [by_precision[GRAPH_OF.get(precision, precision)] for _, _, precision in wanted]
    shape = (recipe.inputs, recipe.outputs, seen.ranges, options.compute_capabilities)
    engines = run.each(
        1 if any(onnx_graph.stored(graph.path) > LARGE for graph in sources) else BUILDERS,
        build,
        [
            (graph, fp32, backend, precision, target, options.batch, *shape)
            for graph, (target, backend, precision) in zip(sources, wanted, strict=True)
        ],
    )
    tried = []
    for engine, graph in zip(engines, sources, strict=True):
        audited = None if engine.status == "to_build" else run(audit, fp32, engine, graph.kept_float)
        drifts = run(parity, engine, graph, recipe, seen.samples, seen.torch, options.batch, options.threads)
        row = judged(recipe, seen.torch, engine, audited, drifts)
        row = behaving(run, seen, engine, row) if row.status == "passed" else row
        tried.append(Tried(engine, row, drifts.answers))
    return tried


def behaving(run: Stages, seen: Seen, engine: Built, row: Candidate) -> Candidate:
    """The row of a candidate that passed sample by sample, judged as a stream too, or by what has to hold of pairs."""
    recipe, asked = seen.recipe, (seen.options.batch, seen.options.threads)
    limit = recipe.limit(row.precision)
    if seen.streamed is not None:
        film = run(stream_parity, engine, recipe, seen.streamed, *asked)
        return behaved(replace(row, stream=film.drift), film, stream_verdicts(film.drift, limit))
    if seen.paired is not None:
        pairs = run(pair_parity, engine, recipe, seen.paired, *asked)
        return behaved(replace(row, pair=pairs.drift), pairs, pair_verdicts(pairs.drift, limit))
    return row
