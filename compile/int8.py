"""INT8: one target's graphs and candidates, with layers back in float until these pass or none is left in INT8."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from deploy_compile.attempt import Seen, Tried, Wanted, attempt
from deploy_compile.cache import Stages
from deploy_compile.cast import cast
from deploy_compile.correct import correct
from deploy_compile.join import join
from deploy_compile.quantize import quantize
from deploy_compile.repair import rank, reach, repair
from deploy_compile.results import Built, Graph
from deploy_compile.results_int8 import Ranked, Repaired
from deploy_compile.targets import Target
from deploy_recipes.recipe import Recipe
from deploy_runtime.evidence import Backend, Candidate, Precision, Repair
from deploy_runtime.judge import judge, passed

# By how much the INT8 graph has to beat its limits on the calibration samples: more where held-out samples then fail,
# and beyond USUAL_DB only where no candidate would ship: one flipped decision of 16 fails a graph 10 dB within them.
MARGINS_DB, USUAL_DB = (1.0, 3.0, 6.0, 10.0, 15.0, 20.0, 25.0), 10.0
Rankings = dict[frozenset[str], Ranked]
ALL_BACK = "no layer may stay in INT8: with all of them back in float nothing is left to ship"


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
        if margin >= USUAL_DB and any(ships(one.row) for one in found.tried):
            break  # another layer in float would slow that one too
    return found


def withdrawn(target: Target, backend: Backend, precision: Precision) -> Tried:
    """An INT8 candidate that is not built, since no layer of it would be in INT8."""
    engine = Built(backend, precision, target.name, "failed", ALL_BACK, None, (), 0.0)
    return Tried(engine, Candidate(backend, precision, target.name, "failed", ALL_BACK))


def ships(row: Candidate) -> bool:
    """Whether an INT8 candidate is there to be shipped, ONNX Runtime's aside: it is the slower of the two on CPUs."""
    return (row.status == "passed" or row.unrun) and row.backend != "onnxruntime"


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
