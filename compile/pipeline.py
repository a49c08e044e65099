"""From a recipe to a verified bundle, a stage a line. One typed graph per precision; every engine is built from it.

Each stage runs through the cache (`run`): a second run does no work, a killed one goes on where it was. What a stage
promises is checked when it hands its result over (`promises.check`), so that a breach names the stage.
"""

from dataclasses import dataclass, replace

from deploy_compile.audit import audit
from deploy_compile.build import build
from deploy_compile.bundle import bundle
from deploy_compile.cache import Stages
from deploy_compile.canary import canaries
from deploy_compile.cast import cast
from deploy_compile.choose import choose
from deploy_compile.export import export
from deploy_compile.load import load
from deploy_compile.options import Options
from deploy_compile.parity import parity
from deploy_compile.quantize import quantize
from deploy_compile.ranges import calibrate
from deploy_compile.reference import reference
from deploy_compile.results import Audited, Built, Graph, Loaded, Outcome, Parity, Ranges, Reference, Samples, Speeds
from deploy_compile.samples import collect
from deploy_compile.simplify import simplify
from deploy_compile.speed import measure
from deploy_compile.targets import candidates
from deploy_recipes.recipe import Recipe
from deploy_runtime.judge import judge
from deploy_runtime.spec import Candidate

# The typed graph a candidate is built from, where it is not of its own name: bf16 is a way to run, not a graph.
GRAPH_OF = {"bf16": "fp32", "int8_bf16": "int8"}
BUILDERS = 2  # engines built side by side; nothing is timed meanwhile


@dataclass(frozen=True)
class Verified:
    """Every candidate built, audited and measured against PyTorch; not timed yet. `engines` and `rows` go together."""

    loaded: Loaded
    samples: Samples
    torch: Reference
    graphs: tuple[Graph, ...]
    engines: tuple[Built, ...]
    rows: tuple[Candidate, ...]


def compile_recipe(recipe: Recipe, options: Options, run: Stages) -> Outcome:
    """Compile one recipe. Raises DeployError for bad input and GateError where no candidate passes every gate."""
    made = verify(recipe, options, run)
    passing = [engine for engine, row in zip(made.engines, made.rows, strict=True) if row.status == "passed"]
    speeds = run(measure, passing, made.loaded, recipe, made.samples, options.batch, options.threads)
    rows = [timed(row, speeds) for row in made.rows]
    choice = choose(rows, options.require, options.asked)
    shipped = run(
        bundle, options, recipe, made.loaded, made.samples, made.torch, made.graphs, made.engines, rows, choice
    )
    return Outcome(recipe.name, tuple(rows), choice, shipped)


def verify(recipe: Recipe, options: Options, run: Stages) -> Verified:
    """Build every candidate and find out which of them answers as PyTorch does. Raises DeployError for bad input."""
    threads, batch, capabilities = options.threads, options.batch, options.compute_capabilities
    loaded = run(load, recipe, options.ref, options.params, options.weights, options.keys, options.uncertainty)
    samples = run(collect, recipe, options.calibration, options.algorithm, options.ship_samples)
    torch = run(reference, loaded, recipe, samples, threads)
    fp32 = run(simplify, run(export, loaded, recipe, options.exporter or recipe.exporter))
    run(canaries, fp32, recipe)  # the batch axis means what it says, before anything is built on it
    ranges = run(calibrate, fp32, samples.calibration, options.algorithm, threads) if options.asked else None
    graphs = {graph.precision: graph for graph in typed(run, fp32, ranges, recipe, options)}
    wanted = candidates(options.targets, options.fp16, options.int8)
    sources = [graphs[GRAPH_OF.get(precision, precision)] for _, _, precision in wanted]
    engines = run.each(
        BUILDERS,
        build,
        [
            (graph, fp32, backend, precision, target, batch, recipe.inputs, recipe.outputs, ranges, capabilities)
            for graph, (target, backend, precision) in zip(sources, wanted, strict=True)
        ],
    )  # fmt: skip
    audits = [run(audit, fp32, engine, graph.kept_float) for engine, graph in zip(engines, sources, strict=True)]
    drifts = [
        run(parity, engine, graph, recipe, samples, torch, batch, threads)
        for engine, graph in zip(engines, sources, strict=True)
    ]
    rows = tuple(judged(recipe, torch, *measured) for measured in zip(engines, audits, drifts, strict=True))
    return Verified(loaded, samples, torch, tuple(graphs.values()), tuple(engines), rows)


def typed(run: Stages, fp32: Graph, ranges: Ranges | None, recipe: Recipe, options: Options) -> list[Graph]:
    """One graph for each precision that some candidate is built from."""
    graphs = [fp32]
    if ranges is not None and options.fp16:
        graphs.append(run(cast, fp32, ranges, "fp16"))
    if ranges is not None and options.int8:
        int8 = run(quantize, fp32, ranges, recipe.keep_float)
        graphs += [int8, run(cast, int8, ranges, "int8_fp16")]
    return graphs


def judged(recipe: Recipe, torch: Reference, engine: Built, audited: Audited, drifts: Parity) -> Candidate:
    """One candidate's row: built, then audited, then measured; the first of them that fails gives its status."""
    row = Candidate(engine.backend, engine.precision, engine.target, engine.status, engine.reason)
    if engine.file is None:
        return row
    limit = recipe.limit(engine.precision)
    verdicts = judge(drifts.drift, limit, torch.fp64_distance)
    row = replace(
        row,
        coverage=audited.coverage,
        drift=drifts.drift,
        verdicts=verdicts,
        emulated=drifts.emulated,
        golden=drifts.golden,
    )
    if audited.coverage.breaches:
        shown = ", ".join(audited.coverage.breaches[:3])
        more = f" and {len(audited.coverage.breaches) - 3} more" if len(audited.coverage.breaches) > 3 else ""
        return replace(row, status="rejected", reason=f"not in {engine.precision}: {shown}{more}")
    if drifts.status not in ("passed", "built_not_run"):
        return replace(row, status=drifts.status, reason=drifts.reason)
    failed = [f"{v.metric} {v.value:.4g}, limit {v.limit:.4g}" for v in verdicts if not v.passed]
    return replace(row, status="failed", reason="; ".join(failed)) if failed else row


def timed(row: Candidate, speeds: Speeds) -> Candidate:
    """The row with its speed, or with the reason why it could not be timed."""
    if row.name in speeds.failed:
        return replace(row, status="crashed", reason=speeds.failed[row.name])
    return replace(row, speed=speeds.measured.get(row.name))
