"""Every shipped candidate of a recipe beside PyTorch eager, interleaved, at a stated number of threads.

    python benchmarks/speed.py x3d_s resnet50      writes benchmarks/results/speed/NAME-1thread.json

Compiles `NAME --int8` (through the cache), then runs `deploy-compile bench` on the bundle. A result that stands for
the same commit is not measured again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from provenance import commit

from deploy_compile.machine import facts

RESULTS = Path(__file__).parent / "results" / "speed"


def measure(recipe: str, threads: int, seconds: float) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / recipe
        command = [sys.executable, "-m", "deploy_compile"]
        subprocess.run([*command, "recipe", recipe, "--int8", "--target", "cpu", "--out", str(bundle)], check=True)
        bench = [*command, "bench", str(bundle), "--threads", str(threads), "--seconds", str(seconds), "--json"]
        told = subprocess.run(bench, check=True, capture_output=True, text=True).stdout
    return {
        "recipe": recipe,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": dict(facts()),
        **json.loads(told),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=120.0)
    given = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for recipe in given.recipes:
        path = RESULTS / f"{recipe}-{given.threads}thread.json"
        if path.exists() and json.loads(path.read_text())["commit"] == commit():
            continue
        path.write_text(json.dumps(measure(recipe, given.threads, given.seconds), indent=1) + "\n")
        print(path.read_text())


if __name__ == "__main__":
    main()
