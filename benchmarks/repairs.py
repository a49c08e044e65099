"""What each accuracy repair of INT8 is worth on trained networks: drift and accuracy with it and without it.

    python benchmarks/repairs.py                    every task of tasks_list.py
    python benchmarks/repairs.py resnet18-digit     this one

The networks of benchmarks/tasks.py, trained there or here (checkpoints stay in the user's cache, $DEPLOY_CACHE), every
layer in INT8 in the form for CPUs: nothing goes back to float, which would hide what a repair does. Graphs are computed
as they are written, on the 1,000 test scenes. Results go to benchmarks/results/repairs, one file a task;
docs/repairs.md is made from them. Nothing here is timed: other work may run beside it.
"""

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kept
from tasks_list import TASKS, get, trained
from tasks_score import compared, test_on

from deploy_compile import onnx_graph, sample_files, session
from deploy_compile.cache import Stages
from deploy_compile.correct import correct
from deploy_compile.equalize import equalize
from deploy_compile.export import export
from deploy_compile.load import load
from deploy_compile.quantize import quantize
from deploy_compile.ranges import calibrate
from deploy_compile.results import Form, Graph
from deploy_compile.samples import collect
from deploy_compile.sensitivity import decibels, noise
from deploy_compile.simplify import simplify
from deploy_runtime import device_cache

RESULTS = Path(__file__).parent / "results" / "repairs"
PAGE = Path(__file__).parent.parent / "docs" / "repairs.md"
SAMPLES = 1000  # of the test, each of a digit of its own
THREADS = 1
ALL, BIASES, CHANNELS, GRIDS, MINMAX, PERCENTILE, NONE = (
    "all of them", "no bias correction", "no even channels", "S8 grids", "min-max ranges", "percentile ranges", "none",
)  # fmt: skip
RANGES = {MINMAX: "minmax", PERCENTILE: "percentile"}  # instead of `auto`
# What a variant goes without: the correction of biases, even channels, U8 grids, the choice of ranges.
WITHOUT: Mapping[str, frozenset[str]] = {
    ALL: frozenset(),
    **{one: frozenset({one}) for one in (BIASES, CHANNELS, GRIDS, MINMAX, PERCENTILE)},
    NONE: frozenset({BIASES, CHANNELS, GRIDS, MINMAX}),
}
HEAD = """# Accuracy repairs of INT8: what each is worth

Made by `python benchmarks/repairs.py` from the results in `benchmarks/results/repairs`: the trained networks of
[tasks.md](tasks.md), every layer in INT8 in the form for CPUs, graphs computed as they are written, 1,000 test scenes.
A cell is the drift in dB against the float graph, and the share of its accuracy that is kept. *all of them* is what
ships: corrected biases, even channels before depthwise convolutions, U8 grids where they span the range better, ranges
chosen by measured error (`auto`); then each left out, and all of them (*none*: S8 grids, min-max ranges).

"""
FOOT = """
A cell that equals the first one says that there was nothing to do: no depthwise convolution behind a ReLU to even
channels for, or a correction that did not bring the answers nearer and so was not kept.
"""


def measure(name: str) -> dict[str, Any]:
    """Quantize one trained network in every variant; drift and accuracy of each."""
    task = get(name)
    run = Stages(device_cache.folder(), lambda *_: None, lambda *_: None)
    recipe, _, options = trained(task, run, THREADS)
    loaded = run(load, recipe, options.ref, options.params, options.weights, options.keys, options.uncertainty)
    drawn = (options.calibration, options.algorithm, options.ship_samples, options.calibration_samples)
    calibration = run(collect, recipe, *drawn).calibration
    fp32 = run(simplify, run(export, loaded, recipe, recipe.exporter), recipe)
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        truth = test_on(Path(folder), recipe, task.draw, SAMPLES)

        def answers(graph: Graph) -> dict[str, Any]:
            return session.answers(onnx_graph.load(graph.path), sample_files.read(Path(folder)), THREADS)

        reference = answers(fp32)
        for variant, without in WITHOUT.items():
            even = fp32 if CHANNELS in without else run(equalize, fp32, calibration, THREADS)
            algorithm = next((RANGES[one] for one in RANGES if one in without), options.algorithm)
            ranges = run(calibrate, even, calibration, algorithm, THREADS)
            form: Form = "" if GRIDS in without else "cpu"
            int8 = run(quantize, even, ranges, recipe.keep_float, form)
            if BIASES not in without:
                int8 = run(correct, even, int8, ranges, recipe.keep_float, calibration, THREADS).graph
            got = answers(int8)
            found = compared(recipe, reference, got, truth)["kept"]
            rows[variant] = {"sqnr_db": round(decibels(noise(reference, got)), 2), "kept": found}
    return {"task": name, "recipe": task.recipe, "variants": rows, "failed": ""}


def write_page(results: Path) -> None:
    """Write docs/repairs.md."""
    titles = list(WITHOUT)
    lines = [f"| task | {' | '.join(titles)} |", f"| --- |{' ---: |' * len(titles)}"]
    found = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    for one in found:
        cells = [f"{row['sqnr_db']:.1f}, {row['kept']['value']:.2%}" for row in one["variants"].values()]
        lines.append(f"| `{one['task']}` | {' | '.join(cells)} |")
    if found:
        lines.append(f"| mean change | – | {' | '.join(_change(found, title) for title in titles[1:])} |")
    where = sorted({f"{one['machine']['cpu']}, {one['date']}, commit {one['commit']}" for one in found})
    PAGE.write_text("\n".join([HEAD + "\n".join(lines), FOOT, f"Measured on {'; '.join(where)}.", ""]))


def _change(found: list[Any], title: str) -> str:
    drops = [one["variants"][title]["sqnr_db"] - one["variants"][ALL]["sqnr_db"] for one in found]
    return f"{math.fsum(drops) / len(drops):+.1f} dB"


if __name__ == "__main__":
    kept.run(__doc__, "TASK", RESULTS, [task.name for task in TASKS], measure)
    write_page(RESULTS)
