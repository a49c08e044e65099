"""From a recipe to a verified bundle, a stage a line. One typed graph per precision; every engine is built from it.

Each stage runs through the cache (`run`): a second run does no work, a killed one goes on where it was. What a stage
promises is checked when it hands its result over (`promises.check`), so that a breach names the stage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deploy_compile.audit import audit
from deploy_compile.build import build
from deploy_compile.bundle import bundle
from deploy_compile.cache import Stages
from deploy_compile.canary import canaries
from deploy_compile.cast import cast
from deploy_compile.choose import choose
from deploy_compile.correct import correct
from deploy_compile.equalize import equalize
from deploy_compile.evaluate import evaluate, predict_engine, predict_torch, refused
from deploy_compile.export import export
from deploy_compile.join import join
from deploy_compile.load import load
from deploy_compile.options import Options
from deploy_compile.pair_parity import pair_parity, pair_reference
from deploy_compile.pair_parity import verdicts as pair_verdicts
from deploy_compile.parity import parity
from deploy_compile.quantize import quantize
from deploy_compile.ranges import calibrate
from deploy_compile.reference import reference
from deploy_compile.repair import rank, reach, repair
from deploy_compile.results import Built, Choice, Graph, Loaded, Outcome, Paired, Reference, Samples, Streamed
from deploy_compile.results_int8 import Ranges, Ranked, Repaired, Saturation
from deploy_compile.rows import behaved, judged, timed
from deploy_compile.samples import collect
from deploy_compile.saturation import saturation, symptoms
from deploy_compile.simplify import simplify
from deploy_compile.speed import measure
from deploy_compile.stream_parity import stream_parity, stream_reference
from deploy_compile.stream_parity import verdicts as stream_verdicts
from deploy_compile.targets import ALWAYS, Target, candidates, get
from deploy_recipes.recipe import Recipe
from deploy_runtime.evidence import Backend, Candidate, Evaluation, Precision, Repair
from deploy_runtime.judge import judge, passed

# The typed graph a candidate is built from, where it is not of its own name: bf16 is a way to run, not a graph.
GRAPH_OF = {"bf16": "fp32", "int8_bf16": "int8"}
BUILDERS = 2  # engines built side by side; nothing is timed meanwhile
# By how much the INT8 graph has to beat its limits on the calibration samples: more where held-out samples then fail.
MARGINS_DB = (1.0, 3.0, 6.0, 10.0)
Wanted = tuple[Target, Backend, Precision]
Rankings = dict[frozenset[str], Ranked]
ALL_BACK = "no layer may stay in INT8: with all of them back in float nothing is left to ship"


@dataclass(frozen=True)
class Tried:
    """One candidate built, audited and measured against PyTorch."""

    engine: Built
    row: Candidate
    answers: Path | None = None  # to the golden samples


@dataclass(frozen=True)
class Verified:
    """Every candidate tried, none timed yet, and what it took to make the INT8 graph pass."""

    loaded: Loaded
    samples: Samples
    torch: Reference
    graphs: tuple[Graph, ...]
    ranges: Ranges | None
    tried: tuple[Tried, ...]
    repairs: Mapping[str, Repair]

    @property
    def rows(self) -> list[Candidate]:
        """The rows of all candidates."""
        return [one.row for one in self.tried]

    def sizes(self, options: Options) -> Mapping[str, int] | None:
        """Bytes of the engines by candidate name, where size is what decides."""
        if options.objective != "size":
            return None
        files = {one.engine.name: one.engine.file for one in self.tried if one.engine.file is not None}
        return {
            name: sum(part.stat().st_size for part in file.parent.glob(f"{file.name}*")) for name, file in files.items()
        }


def compile_recipe(recipe: Recipe, options: Options, run: Stages) -> Outcome:
    """Compile one recipe. Raises DeployError for bad input and GateError where no candidate passes every gate."""
    made = verify(recipe, options, run)
    passing = [one.engine for one in made.tried if one.row.status == "passed"]
    speeds = run(measure, passing, made.loaded, recipe, made.samples, options.batch, options.timed_threads)
    rows = [timed(one.row, speeds) for one in made.tried]
    choice = choose(rows, options.require, options.asked, made.repairs.get("cpu"), made.sizes(options))
    evaluation = None
    if options.evaluate is not None and options.truth is not None:
        choice, evaluation = evaluated(run, made, recipe, options, (options.evaluate, options.truth), rows, choice)
    engines = [one.engine for one in made.tried]
    measured = (made.graphs, made.ranges, engines, rows, made.repairs, evaluation)
    shipped = run(
        bundle,
        options,
        recipe,
        made.loaded,
        made.samples,
        made.torch,
        *measured,
        choice,
        made.tried[choice.chosen].answers,
    )
    warnings = made.samples.provenance.warnings if options.int8 else ()
    return Outcome(recipe.name, tuple(rows), choice, shipped, made.repairs, evaluation, warnings)


def verify(recipe: Recipe, options: Options, run: Stages) -> Verified:
    """Build every candidate and find out which of them answers as PyTorch does. Raises DeployError for bad input."""
    threads = options.threads
    loaded = run(load, recipe, options.ref, options.params, options.weights, options.keys, options.uncertainty)
    drawn = (options.calibration, options.algorithm, options.ship_samples, options.calibration_samples)
    samples = run(collect, recipe, *drawn)
    torch = run(reference, loaded, recipe, samples, threads)
    fp32 = run(simplify, run(export, loaded, recipe, options.exporter or recipe.exporter), recipe)
    wanted = candidates(options.targets, options.fp16, options.int8)
    run(canaries, fp32, recipe)  # the batch axis means what it says, before anything is built on it
    if options.int8:
        fp32 = run(equalize, fp32, samples.calibration, threads)
    ranges = run(calibrate, fp32, samples.calibration, options.algorithm, threads) if ranged(wanted) else None
    if ranges is not None and options.int8 and not samples.provenance.synthetic:
        samples = warned(samples, run(saturation, fp32, ranges, samples.held_out, threads))
    streamed = run(stream_reference, loaded, recipe, fp32, samples, threads) if recipe.streams else None
    paired = run(pair_reference, loaded, recipe, samples, torch.seconds, threads) if recipe.pair else None
    seen = Seen(recipe, options, samples, torch, fp32, ranges, streamed, paired)
    graphs = [fp32]
    if ranges is not None and any(precision == "fp16" for _, _, precision in wanted):
        graphs.append(run(cast, fp32, ranges, "fp16", recipe.keep_fp32))
    tried = attempt(run, seen, graphs, [one for one in wanted if not one[2].startswith("int8")])
    floats, repairs, rankings = [one.row for one in tried], dict[str, Repair](), Rankings()
    for name in dict.fromkeys(target.name for target, _, _ in wanted):  # each target has its own form of the INT8 graph
        its = [one for one in wanted if one[0].name == name and one[2].startswith("int8")]
        int8 = quantized(run, seen, its, floats, rankings)
        tried += int8.tried
        graphs += int8.graphs
        repairs |= {} if int8.repair is None else {name: int8.repair}
    tried.sort(key=lambda one: wanted.index((get(one.row.target), one.row.backend, one.row.precision)))
    return Verified(loaded, samples, torch, tuple(graphs), ranges, tuple(tried), repairs)


def ranged(wanted: Sequence[Wanted]) -> bool:
    """Whether a graph among those wanted is made by the ranges of calibration."""
    return any(precision not in ALWAYS for _, _, precision in wanted)


def evaluated(
    run: Stages,
    made: Verified,
    recipe: Recipe,
    options: Options,
    labelled: tuple[Path, Path],
    rows: list[Candidate],
    choice: Choice,
) -> tuple[Choice, Evaluation]:
    """Judge the choice on labelled samples; where accuracy falls too far that row fails and the next is chosen."""
    torch = run(predict_torch, made.loaded, recipe, *labelled, options.threads)
    while True:
        engine = made.tried[choice.chosen].engine
        got = run(predict_engine, engine, recipe, *labelled, options.batch, options.threads)
        found = run(evaluate, torch, got, engine.name, recipe, options.max_drop)
        if found.passed:
            return choice, found.evaluation
        rows[choice.chosen] = replace(rows[choice.chosen], status="failed", reason=refused(found.evaluation))
        choice = choose(rows, options.require, options.asked, made.repairs.get("cpu"), made.sizes(options))


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
class Int8:
    """One target's INT8 graphs, their candidates, and what it took to make them pass."""

    graphs: tuple[Graph, ...] = ()
    tried: tuple[Tried, ...] = ()
    repair: Repair | None = None


def quantized(
    run: Stages, seen: Seen, wanted: Sequence[Wanted], floats: Sequence[Candidate], rankings: Rankings
) -> Int8:
    """Try one target's INT8 candidates, with layers back in float until they pass or none is left in INT8.

    `floats` are the rows of the candidates without INT8. Layers are ranked in one target's form of the INT8 graph for
    all that quantize the same layers: how their errors and times compare hardly depends on the form, and ranking them
    takes longest. What is found stands in `rankings`, by the layers that are not quantized.
    """
    recipe, ranges = seen.recipe, seen.ranges
    if ranges is None or not wanted:
        return Int8()
    form = wanted[0][0].form
    calibration, threads = seen.samples.calibration, seen.options.threads
    plain, found = run(quantize, seen.fp32, ranges, recipe.keep_float, form), Int8()
    corrected = run(correct, seen.fp32, plain, ranges, recipe.keep_float, calibration, threads)
    plain = corrected.graph
    reached = run(reach, seen.fp32, plain, recipe, calibration, MARGINS_DB, threads)
    for margin in MARGINS_DB:
        if reached.margin_db is not None and margin <= reached.margin_db:
            whole = Repair((), reached.layers, reached.sqnr_db, reached.sqnr_db, 1.0, corrected.layers)
            repaired = Repaired(plain, whole)
        else:
            kept = frozenset(plain.kept_float)
            if kept not in rankings:
                rankings[kept] = run(rank, seen.fp32, plain, reached, recipe, calibration, threads)
            about = (ranges, reached, rankings[kept], recipe)
            repaired = run(repair, seen.fp32, plain, *about, calibration, margin, threads, corrected.means)
        if repaired.graph is None:
            return Int8((), tuple(withdrawn(*one) for one in wanted), repaired.repair)
        int8, done = repaired.graph, repaired.repair
        if any(backend == "openvino" for _, backend, _ in wanted):
            how = (margin, seen.options.batch, seen.options.timed_threads, corrected.means)
            joined = run(join, seen.fp32, int8, ranges, reached, recipe, calibration, *how)
            if joined.sqnr_db is not None:
                int8, done = joined.graph, replace(done, residuals=joined.sums, after_db=joined.sqnr_db)
        halved = () if form == "cpu" else (run(cast, int8, ranges, "int8_fp16", recipe.keep_fp32),)
        graphs = (int8, *halved)
        found = Int8(graphs, tuple(attempt(run, seen, graphs, wanted)), done)
        if wanted[0][0].built_there:  # for the versions of TensorRT that refuse fp16 scales
            wider = run(cast, int8, ranges, "int8_fp16", recipe.keep_fp32, "fp32_scales")
            found = replace(found, graphs=(*graphs, wider))
        if not any(fails(one.row, floats, recipe) for one in found.tried):
            break
    return found


def warned(samples: Samples, found: Saturation) -> Samples:
    """The samples with what their ranges do to held-out ones among their warnings."""
    warnings = (*samples.provenance.warnings, *symptoms(found))
    return replace(samples, provenance=replace(samples.provenance, warnings=warnings))


def attempt(run: Stages, seen: Seen, graphs: Sequence[Graph], wanted: Sequence[Wanted]) -> list[Tried]:
    """Build, audit and measure candidates from the graphs of their precisions."""
    recipe, options, fp32 = seen.recipe, seen.options, seen.fp32
    by_precision = {graph.precision: graph for graph in graphs}
    sources = [by_precision[GRAPH_OF.get(precision, precision)] for _, _, precision in wanted]
    shape = (recipe.inputs, recipe.outputs, seen.ranges, options.compute_capabilities)
    engines = run.each(
        BUILDERS,
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


def withdrawn(target: Target, backend: Backend, precision: Precision) -> Tried:
    """An INT8 candidate that is not built, since no layer of it would be in INT8."""
    engine = Built(backend, precision, target.name, "failed", ALL_BACK, None, (), 0.0)
    return Tried(engine, Candidate(backend, precision, target.name, "failed", ALL_BACK))


def fails(row: Candidate, floats: Sequence[Candidate], recipe: Recipe) -> bool:
    """Whether the INT8 graph itself is to blame, so that more of its layers in float may help.

    Not where ONNX Runtime runs a form of it that rounds more often, nor where the precision around the INT8 layers
    breaks the limits by itself, as one of `floats` shows.
    """
    if row.status != "failed" or row.backend == "onnxruntime":
        return False
    around = row.precision.removeprefix("int8_")
    alone = [one for one in floats if (one.target, one.backend, one.precision) == (row.target, row.backend, around)]
    return all(passed(judge(one.drift, recipe.limit(row.precision))) for one in alone if one.drift)


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
