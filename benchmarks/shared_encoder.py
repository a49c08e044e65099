"""Both studies of a pair through the encoder as one batch, or one by one: which is faster, and are they the same.

    python benchmarks/shared_encoder.py                       the networks that compare two studies, full size
    python benchmarks/shared_encoder.py longitudinal_mim      this one

A recipe is compiled for the CPU twice (seeded weights, --int8, `--param encoder=once` and `twice`); of every candidate
that passed in both bundles the two engines take turns in one run, on one thread and on all cores, 95 % intervals.
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
from compiled import compiled, shipped

from deploy_runtime.data import encode
from deploy_runtime.machine import physical_cores

RESULTS = Path(__file__).parent / "results" / "shared_encoder"
PAGE = Path(__file__).parent.parent / "docs" / "pairs-measured.md"
NETWORKS = ("longitudinal_mim", "longitudinal_mim_big")
FORMS = ("once", "twice")
BUDGET_S = 60.0
HEAD = """# One encoder, two studies: measured

Made by `python benchmarks/shared_encoder.py` from the results in `benchmarks/results/shared_encoder`: seeded weights,
full size, both engines taking turns in one run. *twice / once*: the time of a pair whose studies go through the encoder
one by one over that of a pair which goes through it as one batch, with its 95 % interval; above 1 the batch is faster.
*apart*: the largest difference of the two maps, over the largest value.

| network | candidate | threads | once ms | twice ms | twice / once | apart |
| --- | --- | ---: | ---: | ---: | --- | ---: |
"""


def measure(name: str) -> dict[str, Any]:
    """Compile both forms of one network and time every candidate of both, each in a process of its own."""
    found: dict[str, Any] = {"recipe": name, "failed": "", "candidates": []}
    with tempfile.TemporaryDirectory() as folder:
        bundles = {form: Path(folder) / form for form in FORMS}
        for form, bundle in bundles.items():
            if failed := compiled(name, bundle, {"encoder": form}):
                return {**found, "failed": failed}
        for candidate in sorted(set(shipped(bundles["once"])) & set(shipped(bundles["twice"]))):
            for threads in sorted({1, physical_cores()}):
                result = Path(folder) / "result.json"
                words = [sys.executable, __file__, name, "--of", *map(str, bundles.values())]
                rest = ["--candidate", candidate, "--threads", str(threads), "--into", str(result)]
                subprocess.run([*words, *rest], check=True)
                found["candidates"].append(json.loads(result.read_text()))
    return found


def timed(bundles: dict[str, Path], candidate: str, threads: int) -> dict[str, Any]:
    """Time one candidate of both bundles, in this process."""
    from deploy_runtime import golden, manifest, timing
    from deploy_runtime.model import open_session

    found = {form: manifest.read(bundle) for form, bundle in bundles.items()}
    once = found["once"]  # weights and samples of both are those of one seed
    pair = {
        name: array[:1]
        for name, array in golden.read(bundles["once"], "inputs", once.inputs, once.golden.samples).items()
    }
    engines = {
        form: open_session(bundles[form], one, next(row for row in one.candidates if row.name == candidate), threads)
        for form, one in found.items()
    }
    maps = [next(iter(engine.run(dict(pair)).values())) for engine in engines.values()]
    runners = {form: partial(seconds, engine, pair) for form, engine in engines.items()}
    spent = timing.interleave(runners, BUDGET_S, "once")
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
        f"{row['apart']:.1e}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = kept.parser(__doc__, "NETWORK")
    for option in ("--candidate", "--threads", "--into"):
        parser.add_argument(option, help=argparse.SUPPRESS)
    parser.add_argument("--of", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.of:
        bundles = dict(zip(FORMS, map(Path, given.of), strict=True))
        Path(given.into).write_text(json.dumps(timed(bundles, given.candidate, int(given.threads))))
        return
    kept.keep(RESULTS, () if given.page else given.names or NETWORKS, given.again, measure)
    write_page(RESULTS)


if __name__ == "__main__":
    main()
