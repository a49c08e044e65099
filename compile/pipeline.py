"""From a recipe to a verified bundle, a stage a line. One typed graph per precision; every engine is built from it.

Each stage runs through the cache (`run`): a second run does no work, a killed one goes on where it was. What a stage
promises is checked when it hands its result over (`promises.check`), so that a breach names the stage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deploy_compile.attempt import Seen, Tried, Wanted, attempt
from deploy_compile.bundle import bundle
from deploy_compile.cache import Stages
from deploy_compile.canary import canaries
from deploy_compile.cast import cast
from deploy_compile.choose import choose
from deploy_compile.equalize import equalize
from deploy_compile.evaluate import evaluate, predict_engine, predict_torch, refused
from deploy_compile.export import export
from deploy_compile.int8 import Rankings, quantized
from deploy_compile.load import load
from deploy_compile.options import Options
from deploy_compile.pair_parity import pair_reference
from deploy_compile.ranges import calibrate
from deploy_compile.reference import reference
from deploy_compile.results import Choice, Graph, Loaded, Outcome, Reference, Samples
from deploy_compile.results_int8 import Ranges, Saturation
from deploy_compile.rows import timed
from deploy_compile.samples import collect
from deploy_compile.saturation import saturation, symptoms
from deploy_compile.simplify import simplify
from deploy_compile.speed import measure
from deploy_compile.stream_parity import stream_reference
from deploy_compile.targets import ALWAYS, candidates, get
from deploy_recipes.recipe import Recipe
from deploy_runtime.evidence import Candidate, Evaluation, Repair


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


def warned(samples: Samples, found: Saturation) -> Samples:
    """The samples with what their ranges do to held-out ones among their warnings."""
    warnings = (*samples.provenance.warnings, *symptoms(found))
    return replace(samples, provenance=replace(samples.provenance, warnings=warnings))
