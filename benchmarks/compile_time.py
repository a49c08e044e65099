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
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from deploy_compile.machine import facts, versions

RESULTS = Path(__file__).parent / "results" / "compile_time"
WARM_RUNS = 5
EVERY_S = 0.2


def descendants(pid: int) -> list[int]:
    found = [pid]
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = tasks.read_text().split()
        except OSError:
            continue
        for child in children:
            found += descendants(int(child))
    return found


def proportional_bytes(pid: int) -> int:
    try:
        told = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it ended meanwhile
        return 0
    match = re.search(r"^Pss:\s+(\d+) kB", told, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


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
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(EVERY_S):
            peak = max(peak, sum(map(proportional_bytes, descendants(process.pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, said = process.communicate()
    seconds = time.monotonic() - begun
    done.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(said)
    stages: dict[str, float] = {}
    for name, spent in re.findall(r"✓ (.+?) ([\d.]+) s", said):
        stages[name] = round(stages.get(name, 0.0) + float(spent), 1)
    return {"seconds": round(seconds, 2), "peak_gib": round(peak / 2**30, 2), "stages_s": stages}


def main(recipe: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cold = run(recipe, Path(folder))
        warm = sorted(float(str(run(recipe, Path(folder))["seconds"])) for _ in range(WARM_RUNS))
    result = {
        "recipe": recipe,
        "date": datetime.now(UTC).date().isoformat(),
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
