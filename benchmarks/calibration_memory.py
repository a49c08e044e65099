"""The memory that calibration takes, with 32, 128 and 512 samples: it does not grow with them.

    python benchmarks/calibration_memory.py x3d_s     writes benchmarks/results/calibration_memory/x3d_s.json

The stage alone runs on synthetic samples in a process of its own; its peak is the largest sum over that process and its
workers, proportional set sizes read from /proc every 0.2 s (Linux only). One discarded run warms the disk.
"""

import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import kept
from memory import watched

from deploy_compile import synthetic
from deploy_compile.cache import Stages
from deploy_compile.export import export
from deploy_compile.load import load
from deploy_compile.options import Options, fitted
from deploy_compile.ranges import calibrate
from deploy_compile.results import Graph
from deploy_compile.sample_files import write
from deploy_compile.simplify import simplify
from deploy_runtime.machine import physical_cores

NAMES = ("x3d_s", "resnet18")
COUNTS = (32, 128, 512)
RESULTS = Path(__file__).parent / "results" / "calibration_memory"
SEED = 1


def measure(name: str) -> dict[str, Any]:
    """Run the stage on each number of samples; seconds and the peak in GiB."""
    recipe = fitted(Options(name))
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        run = Stages(place / "cache", lambda *_: None, lambda *_: None)
        loaded = run(load, recipe, name, {}, "seeded", None, Options(name).uncertainty)
        fp32 = run(simplify, run(export, loaded, recipe, recipe.exporter), recipe)
        for count in (COUNTS[0], *COUNTS):  # the first again: its own run counts
            samples = place / f"samples-{count}"
            if not samples.exists():
                write(samples, (synthetic.sample(recipe, SEED, index) for index in range(count)))
            process = subprocess.Popen(
                [sys.executable, __file__, "--stage", str(fp32.path), str(samples), folder],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            printed, said, gib = watched(process)
            if process.returncode:
                raise SystemExit(said)
            found[count] = {"peak_gib": gib, "seconds": float(printed)}
    most, least = (end(one["peak_gib"] for one in found.values()) for end in (max, min))
    verdict = ", ".join(f"{count} samples {one['peak_gib']} GiB" for count, one in found.items())
    return {"recipe": name, "samples": found, "largest_over_least": round(most / least, 3), "verdict": verdict}


def stage(graph: Path, samples: Path, folder: Path) -> None:
    """Run the stage alone and print its seconds."""
    import time

    begun = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder) as out:
        calibrate(Path(out), Graph(graph, "fp32", 0, 0, 0, {}), samples, "auto", physical_cores())
    print(round(time.monotonic() - begun, 1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--stage"]:
        stage(*map(Path, islice(sys.argv, 2, 5)))
    else:
        given = kept.parser(__doc__, "RECIPE").parse_args()
        kept.keep(RESULTS, given.names or NAMES, given.again, measure)
