"""Where a stream's step spends more than a frame of the window does: ONNX Runtime's own profile, by operator.

    python benchmarks/step_costs.py                  the networks over frames, full size
    python benchmarks/step_costs.py resnet50_gru     this one

A recipe is compiled for the CPU (seeded weights, --int8) and the graphs of its ONNX Runtime candidates are opened as
the runtime opens them, once for a step of one frame and once for the window; both take turns on one thread with the
profiler on, which costs each node some microseconds. Results go to benchmarks/results/step_costs, one file a network,
and stand in docs/streaming-measured.md.
"""

import json
import tempfile
from bisect import bisect_right
from collections import Counter
from pathlib import Path
from typing import Any

import kept
import numpy as np
from compiled import compiled
from streaming import THREADS
from streaming_page import COSTS, write_page

from deploy_runtime import backend_onnxruntime, manifest
from deploy_runtime.evidence import Candidate, Manifest
from deploy_runtime.timing import MS

NETWORKS = ("resnet50_lstm", "resnet50_gru")
RUNS, WARM_UP = 12, 2  # of the window; a step is run as often
MICROSECONDS = 1e-6


def measure(name: str) -> dict[str, Any]:
    """Compile one network and profile both graphs of ONNX Runtime."""
    found: dict[str, Any] = {"recipe": name, "failed": "", "candidates": {}}
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        found["failed"] = compiled(name, bundle, {})
        if not found["failed"]:
            made = manifest.read(bundle)
            rows = (row for row in made.candidates if row.backend == "onnxruntime" and row.file is not None)
            found["candidates"] = {row.name: profiled(bundle, made, row) for row in rows if row.status == "passed"}
    return found


def profiled(bundle: Path, made: Manifest, row: Candidate) -> dict[str, Any]:
    """Return the milliseconds that each operator takes of a step and of one frame of the window."""
    frames = next(t.at(1)[t.layout.index("T")] for t in made.inputs if "T" in t.layout)
    with tempfile.TemporaryDirectory() as folder:
        sessions = {count: session(bundle, made, row, count, Path(folder)) for count in (1, frames)}
        feeds = {count: feed(made, count) for count in sessions}
        for _ in range(WARM_UP + RUNS):
            for count, opened in sessions.items():
                opened.run(None, feeds[count])
        step, window = (by_operator(Path(opened.end_profiling()), count) for count, opened in sessions.items())
    return {"step_ms": step, "frame_ms": window}


def session(bundle: Path, made: Manifest, row: Candidate, count: int, folder: Path) -> Any:
    """Open a candidate's graph for so many frames with the profiler on."""
    import onnxruntime  # type: ignore[import-untyped]

    inputs = tuple(tensor.of_frames(count) for tensor in made.inputs)
    options = backend_onnxruntime.options(onnxruntime, inputs, made.batch, THREADS)
    options.enable_profiling, options.profile_file_prefix = True, str(folder / f"frames{count}")
    return onnxruntime.InferenceSession(
        str(bundle / str(row.file)),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=backend_onnxruntime.LEFT_OUT.get(row.precision),
    )


def feed(made: Manifest, count: int) -> dict[str, np.ndarray]:
    """Return random inputs of so many frames: what they show does not change the time."""
    random = np.random.default_rng(0)
    return {t.name: random.standard_normal(t.of_frames(count).at(1)).astype(t.dtype) for t in made.inputs}


def by_operator(profile: Path, frames: int) -> dict[str, float]:
    """Return the median milliseconds of each operator over the runs of a profile, for each of its frames."""
    events = json.loads(profile.read_text())
    starts = sorted(event["ts"] for event in events if event["name"] == "model_run")
    spent = [Counter[str]() for _ in starts]
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            spent[bisect_right(starts, event["ts"]) - 1][event["args"]["op_name"]] += event["dur"]
    timed = spent[WARM_UP:]
    kinds = sorted(set().union(*timed))
    return {
        kind: round(float(np.median([one[kind] for one in timed])) * MICROSECONDS * MS / frames, 4) for kind in kinds
    }


def main() -> None:
    kept.run(__doc__, "NETWORK", COSTS, NETWORKS, measure)
    write_page()


if __name__ == "__main__":
    main()
