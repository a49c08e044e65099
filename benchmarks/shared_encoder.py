"""Both studies of a pair through the encoder as one batch, or one by one: which is faster, and are they the same.

    python benchmarks/shared_encoder.py                       the networks that compare two studies, full size
    python benchmarks/shared_encoder.py longitudinal_mim      this one

A recipe's graph is exported twice (the same seeded weights, `--param encoder=once` and `twice`), quantized and built
for the CPU as a compile does it, through the user's cache ($DEPLOY_CACHE); INT8 ranges are those of one sample, on
which its speed does not depend. Of every candidate the two engines take turns in one run, on all cores, 95 % intervals.
Results go to benchmarks/results/shared_encoder, one file a network, and docs/pairs-measured.md is made from them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import kept
import numpy as np

import deploy_recipes
from deploy_compile import sample_files, synthetic
from deploy_compile.build import build
from deploy_compile.cache import Stages
from deploy_compile.export import export
from deploy_compile.load import load
from deploy_compile.options import Options, fitted
from deploy_compile.quantize import quantize
from deploy_compile.ranges import calibrate
from deploy_compile.results import Built
from deploy_compile.simplify import simplify
from deploy_compile.targets import candidates
from deploy_runtime import backends, device_cache, timing
from deploy_runtime.data import encode
from deploy_runtime.machine import physical_cores
from deploy_runtime.spec import Batch

RESULTS = Path(__file__).parent / "results" / "shared_encoder"
PAGE = Path(__file__).parent.parent / "docs" / "pairs-measured.md"
NETWORKS = ("longitudinal_mim", "longitudinal_mim_big")
FORMS = ("once", "twice")
BUDGET_S = 30.0
SEED = 8001
HEAD = """# One encoder, two studies: measured

Made by `python benchmarks/shared_encoder.py` from the results in `benchmarks/results/shared_encoder`: seeded weights,
full size, both engines taking turns in one run. *twice / once*: the time of a pair whose studies go through the encoder
one by one over that of a pair which goes through it as one batch, with its 95 % interval; above 1 the batch is faster.
*apart*: the largest difference of the two maps, over the largest value; not said of INT8, where each form has ranges of
its own.

| network | candidate | threads | once ms | twice ms | twice / once | apart |
| --- | --- | ---: | ---: | ---: | --- | ---: |
"""


def measure(name: str) -> dict[str, Any]:
    """Build both forms of one network and time every candidate of both, each in a process of its own."""
    found: dict[str, Any] = {"recipe": name, "failed": "", "candidates": []}
    with tempfile.TemporaryDirectory() as folder:
        run = Stages(device_cache.folder(), lambda *_: None, partial(_told, name))
        once = run(load, deploy_recipes.get(name), name, {}, "seeded", None)
        built = [engines(run, Path(folder) / form, name, form, once.weights) for form in FORMS]
        for pair in zip(*built, strict=True):
            refused = next((one.reason for one in pair if one.file is None), "")
            if refused:
                print(f"{name}, {pair[0].name}: {refused}", flush=True)
                continue
            result = Path(folder) / "result.json"
            words = [sys.executable, __file__, name, "--of", *(str(one.file) for one in pair)]
            subprocess.run([*words, "--candidate", pair[0].name, "--into", str(result)], check=True)
            found["candidates"].append(json.loads(result.read_text()))
    return found


def engines(run: Stages, folder: Path, name: str, form: str, weights: Path) -> list[Built]:
    """Export, quantize and build one form of a network for the CPU.

    Both have the same `weights`: seeded as the form itself is run, they would differ.
    """
    options = Options(name, {"encoder": form}, int8=True, targets=("cpu",), threads=physical_cores())
    recipe = fitted(options)
    loaded = run(load, recipe, name, options.params, weights, None)
    fp32 = run(simplify, run(export, loaded, recipe, recipe.exporter), recipe)
    sample_files.write(folder, iter([dict(synthetic.sample(recipe, SEED, 0))]))
    ranges = run(calibrate, fp32, folder, "minmax", options.threads)
    int8 = run(quantize, fp32, ranges, recipe.keep_float, "cpu")
    graphs = {"fp32": fp32, "bf16": fp32, "int8": int8, "int8_bf16": int8}
    return [
        run(build, graphs[precision], fp32, backend, precision, target, Batch(), recipe.inputs, recipe.outputs, ranges)
        for target, backend, precision in candidates(options.targets, options.fp16, options.int8)
    ]


def _told(name: str, stage: str, detail: str, seconds: float | None) -> None:
    if seconds is not None:
        print(f"{name}: {stage} {detail} {seconds:.0f} s", file=sys.stderr, flush=True)


def timed(name: str, files: dict[str, Path], candidate: str) -> dict[str, Any]:
    """Time one candidate of both forms, in this process."""
    recipe, threads = fitted(Options(name)), physical_cores()
    backend, precision = candidate.split()
    open_engine = partial(backends.get(backend).open, precision=precision, inputs=recipe.inputs)
    both = {
        form: open_engine(file, outputs=recipe.outputs, batch=Batch(), threads=threads, cache=None)
        for form, file in files.items()
    }
    pair = dict(synthetic.sample(recipe, SEED, 1))
    maps = [next(iter(engine.run(dict(pair)).values())) for engine in both.values()]
    spent = timing.interleave({form: partial(seconds, engine, pair) for form, engine in both.items()}, BUDGET_S, "once")
    return {
        "name": candidate,
        "threads": threads,
        "once_ms": round(float(np.median(spent["once"])) * timing.MS, 2),
        "twice_ms": round(float(np.median(spent["twice"])) * timing.MS, 2),
        "ratio": encode(list(timing.ratio_interval(spent["twice"], spent["once"]))),
        "apart": float(np.abs(maps[0] - maps[1]).max() / np.abs(maps[0]).max()),
    }


def seconds(engine: Any, inputs: dict[str, np.ndarray]) -> float:
    """Run one pair; return how long it took."""
    begun = time.perf_counter()
    engine.run(inputs)
    return time.perf_counter() - begun


def write_page(results: Path) -> None:
    """Write docs/pairs-measured.md."""
    lines, foot = [HEAD.rstrip("\n")], []
    for path in sorted(results.glob("*.json")):
        one = json.loads(path.read_text())
        lines += [_row(one["recipe"], row) for row in one["candidates"]]
        machine = one["machine"]
        foot.append(f"`{one['recipe']}`: {machine['cpu']} ({machine['instructions']}), {one['date']}, {one['commit']}")
        foot[-1] += f", failed: {one['failed']}" if one["failed"] else ""
    PAGE.write_text("\n".join([*lines, "", *(f"{line}.\n" for line in foot)]))


def _row(recipe: str, row: dict[str, Any]) -> str:
    value, low, high = row["ratio"]
    cells = (
        f"`{recipe}`",
        row["name"],
        str(row["threads"]),
        f"{row['once_ms']:.0f}",
        f"{row['twice_ms']:.0f}",
        f"{value:.2f} ({low:.2f}–{high:.2f})",
        "–" if row["name"].split()[1].startswith("int8") else f"{row['apart']:.1e}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = kept.parser(__doc__, "NETWORK")
    for option in ("--candidate", "--into"):
        parser.add_argument(option, help=argparse.SUPPRESS)
    parser.add_argument("--of", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.of:
        files = dict(zip(FORMS, map(Path, given.of), strict=True))
        Path(given.into).write_text(json.dumps(timed(given.names[0], files, given.candidate)))
        return
    kept.keep(RESULTS, () if given.page else given.names or NETWORKS, given.again, measure)
    write_page(RESULTS)


if __name__ == "__main__":
    main()
