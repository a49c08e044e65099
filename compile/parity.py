"""How far each candidate lies from PyTorch on the held-out samples. Gives numbers; `deploy_runtime.judge` judges them.

fp32 is also measured against an fp64 run of the module, so that an ill-conditioned net is told from a wrong export.
An engine that cannot run on this machine is measured by its graph: as it is for int8, with every node's output
rounded to half precision for fp16 and int8_fp16 ("emulated": a CPU computes fp16 graphs in wider types, and would
show neither their rounding nor their overflow). That is slow, so that large networks are run on fewer samples, whose
number stands beside the result.
"""

from pathlib import Path

import numpy as np

from deploy_compile import parity_run
from deploy_compile.emulate import emulate
from deploy_compile.macs import affordable
from deploy_compile.reference import fewest
from deploy_compile.results import Built, Graph, Parity, Reference, Samples
from deploy_compile.sample_files import paths, save, stacked
from deploy_recipes.recipe import Recipe
from deploy_runtime.errors import DeployError
from deploy_runtime.evidence import Status
from deploy_runtime.measure import measure
from deploy_runtime.spec import Batch

EMULATED_MACS = 4e11  # of held-out samples: a graph run node by node as it is written takes many times an engine's time


def parity(
    out: Path,
    built: Built,
    graph: Graph,
    recipe: Recipe,
    samples: Samples,
    reference: Reference,
    batch: Batch,
    threads: int,
) -> Parity:
    """Measure one built candidate on the held-out samples, and on the golden ones for devices to compare with.

    A crash or a refusal is its reason, not the end.
    """
    if built.file is None:
        return Parity((), built.status, built.reason)
    wanted, golden = stacked(reference.held_out), stacked(reference.golden)
    if built.status in ("built_not_run", "to_build"):
        return _emulated(built.status, graph, recipe, samples, reference, wanted, golden, threads)
    count = len(paths(reference.held_out))  # fewer than there are samples where PyTorch is slow
    files = paths(samples.held_out)[:count] + paths(samples.golden)
    try:
        engine = (built.file, built.backend, built.precision, recipe.inputs, recipe.outputs, batch)
        got = parity_run.outputs(*engine, files, threads, built.target)
    except DeployError as error:
        return Parity((), "crashed", error.message)
    answers = {name: array[count:] for name, array in got.items()}
    save(out / "golden.npz", answers)
    own, fp64 = reference.fp64_distance, stacked(reference.fp64)
    drift = measure(wanted, {name: array[:count] for name, array in got.items()}, recipe.task, own, fp64)
    shipped = measure(golden, answers, recipe.task, own)
    return Parity(drift, "passed", "", golden=shipped, answers=out / "golden.npz")


def _emulated(
    status: Status,
    graph: Graph,
    recipe: Recipe,
    samples: Samples,
    reference: Reference,
    wanted: dict[str, np.ndarray],
    golden: dict[str, np.ndarray],
    threads: int,
) -> Parity:
    count = affordable(graph.path, EMULATED_MACS, fewest(recipe), len(paths(reference.held_out)))
    wanted = {name: array[:count] for name, array in wanted.items()}
    got = emulate(graph.path, samples.held_out, count, threads)
    own = reference.fp64_distance
    shipped = measure(golden, emulate(graph.path, samples.golden, None, threads), recipe.task, own)
    return Parity(measure(wanted, got, recipe.task, own), status, "", emulated=True, golden=shipped)
