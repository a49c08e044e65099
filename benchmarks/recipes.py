"""Every recipe at full size through the whole pipeline, and the page that says what came of it.

    python benchmarks/recipes.py                  all of them, small ones first; hours on two cores
    python benchmarks/recipes.py x3d_s resnet50   these
    python benchmarks/recipes.py --page           docs/recipes.md again, from the results that stand
    python benchmarks/recipes.py x3d_s --caches DIR   what the stages made stays in DIR/x3d_s, to go on from

Each recipe is `deploy-compile recipe NAME --int8 --fp16`, in a process and a cache of its own, and leaves
benchmarks/results/recipes/NAME.json. A result that stands is kept until it is deleted or asked for with --again, so
that a run that was cut short goes on where it was. A recipe that fails leaves a result that says so.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import kept
from memory import watched
from recipes_page import write_page

import deploy_recipes
from deploy_compile.results import Loaded
from deploy_recipes import Recipe
from deploy_runtime.data import encode
from deploy_runtime.errors import DeployError
from deploy_runtime.evidence import Candidate
from deploy_runtime.machine import physical_cores

RESULTS = Path(__file__).parent / "results" / "recipes"
SEED, SAMPLES = 7, 4  # of the synthetic series on which branches are compared
LAST_WORDS = 300  # characters of what a crashed run said last


def measure(name: str, caches: Path | None) -> dict[str, Any]:
    """Compile one recipe in a process of its own; its result, or the reason why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        result, cache = Path(folder) / "result.json", caches / name if caches else Path(folder) / "cache"
        if cache.exists():
            raise SystemExit(f"{cache} is there already: a recipe is measured from nothing. Delete it.")
        process = subprocess.Popen(
            [sys.executable, __file__, name, "--into", str(result)],
            env={**os.environ, "DEPLOY_CACHE": str(cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        _, said, peak_gib = watched(process)
        if result.exists():
            made = json.loads(result.read_text())
        else:
            made = {"failed": f"the run ended with {process.returncode}: {' '.join(said.split())[-LAST_WORDS:]}"}
    recipe = deploy_recipes.get(name)
    return {
        **described(recipe),
        "threads": physical_cores(),
        "peak_gib": peak_gib,
        **made,
    }


def described(recipe: Recipe) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "family": recipe.family,
        "source": recipe.source,
        "parameters": recipe.parameters,
        "inputs": encode(recipe.inputs),
        "outputs": encode(recipe.outputs),
    }


def compile_into(name: str, path: Path) -> None:
    """Compile one recipe here and write what was measured. A gate that fails is a result."""
    from deploy_compile.cache import Stages
    from deploy_compile.load import load
    from deploy_compile.options import Options, fitted
    from deploy_compile.pipeline import compile_recipe

    cache, spent = Path(os.environ["DEPLOY_CACHE"]), defaultdict[str, float](float)

    def finished(stage: str, _detail: str, seconds: float | None) -> None:
        spent[stage] += seconds or 0.0

    recipe = deploy_recipes.get(name)
    options = Options(name, fp16=True, int8=True, threads=physical_cores())
    found: dict[str, Any] = {}
    try:
        stages = Stages(cache, lambda *_: None, finished)
        outcome = compile_recipe(fitted(options), options, stages)
        loaded = stages(load, recipe, name, {}, "seeded", None, options.uncertainty)  # kept: it is there already
        found |= {
            "failed": "",
            "verdict": outcome.choice.sentence,
            "chosen": outcome.rows[outcome.choice.chosen].name,
            "candidates": [row_of(row) for row in outcome.rows],
            "repair": encode(outcome.repairs.get("cpu")),
            "deepest_branch": deepest_branch(recipe, loaded),
        }
    except DeployError as error:
        found["failed"] = error.message
    found |= graph_facts(next(iter((cache / "stages").glob("simplify-*/fp32.onnx")), None))
    path.write_text(json.dumps({**found, "stages_s": {stage: round(s, 1) for stage, s in spent.items()}}))


def deepest_branch(recipe: Recipe, loaded: Loaded) -> float | None:
    """By how much zeroing the deepest residual branch moves the first output, rms over rms; None without branches.

    Parity says something about that branch where this is several times the INT8 error.
    """
    import torch

    from deploy_compile import seeded, synthetic
    from deploy_compile.load import module

    net = module(loaded)
    ends = seeded.branch_ends(net, recipe)
    if not ends:
        return None
    samples = [synthetic.sample(recipe, SEED, index) for index in range(SAMPLES)]

    @torch.inference_mode()
    def answers() -> torch.Tensor:
        given = [net(*(torch.from_numpy(sample[tensor.name]) for tensor in recipe.inputs)) for sample in samples]
        return torch.cat([answer[0] if isinstance(answer, tuple) else answer for answer in given])

    before = answers()
    for parameter in net.get_submodule(ends[-1]).parameters():
        parameter.data.zero_()
    return round(float((answers() - before).square().mean().sqrt() / before.square().mean().sqrt()), 3)


def graph_facts(graph: Path | None) -> dict[str, Any]:
    import onnx

    from deploy_compile.macs import macs

    if graph is None:
        return {}
    nodes = onnx.load(graph, load_external_data=False).graph.node
    return {
        "nodes": len(nodes),
        "operators": sorted({node.op_type for node in nodes}),
        "gmacs": round(sum(macs(graph).values()) / 1e9, 3),
    }


def row_of(row: Candidate) -> Mapping[str, Any]:
    """A candidate as the page needs it: what became of it, its worst output, what ran in which precision, its speed."""
    worst = min(row.drift, key=lambda drift: drift.sqnr_db, default=None)
    return {
        "name": row.name,
        "backend": row.backend,
        "precision": row.precision,
        "status": row.status,
        "reason": row.reason,
        "emulated": row.emulated,
        "drift": encode(worst),
        "layers": dict(row.coverage.layers) if row.coverage else {},
        "macs": dict(row.coverage.macs) if row.coverage else {},
        "speed": encode(row.speed),
    }


def main() -> None:
    parser = kept.parser(__doc__, "RECIPE")
    parser.add_argument("--caches", type=Path, metavar="DIR", help="a folder that keeps each recipe's stages")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.into:
        compile_into(given.names[0], given.into)
        return
    wanted = sorted(given.names or deploy_recipes.names(), key=lambda name: deploy_recipes.get(name).parameters)
    kept.keep(RESULTS, () if given.page else wanted, given.again, partial(measure, caches=given.caches))
    write_page(RESULTS)


if __name__ == "__main__":
    main()
