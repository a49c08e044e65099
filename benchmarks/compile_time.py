"""How long `deploy-compile recipe NAME --int8` takes, cold and again, where the time goes, and its peak memory.

    python benchmarks/compile_time.py x3d_s        writes benchmarks/results/compile_time/x3d_s.json

Cold means an empty cache; imports come from a warm disk. Peak memory is the largest sum over the process and all its
workers, proportional set sizes read from /proc every 0.2 s (Linux only).
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from memory import watched
from provenance import commit

from deploy_compile.machine import facts, versions

RESULTS = Path(__file__).parent / "results" / "compile_time"
WARM_RUNS = 5


def run(recipe: str, place: Path) -> dict[str, object]:
    """Run the command once and return seconds, peak bytes and the stages' own seconds."""
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy_compile", "recipe", recipe, "--int8", "--out", str(place / "bundle")],
        env={**os.environ, "DEPLOY_CACHE": str(place / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    _, said, peak_gib = watched(process)
    seconds = time.monotonic() - begun
    if process.returncode:
        raise SystemExit(said)
    stages: dict[str, float] = {}
    for name, spent in re.findall(r"✓ (.+?) ([\d.]+) s", said):
        stages[name] = round(stages.get(name, 0.0) + float(spent), 1)
    return {"seconds": round(seconds, 2), "peak_gib": peak_gib, "stages_s": stages}


def main(recipe: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cold = run(recipe, Path(folder))
        warm = sorted(float(str(run(recipe, Path(folder))["seconds"])) for _ in range(WARM_RUNS))
    result = {
        "recipe": recipe,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": dict(facts()),
        "versions": versions("deploy-compile", "torch", "onnxruntime-gpu", "openvino", "tensorrt_rtx_cu13"),
        "cold": cold,
        "again_s": {"median": warm[len(warm) // 2], "least": warm[0], "most": warm[-1]},
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{recipe}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(sys.argv[1])
