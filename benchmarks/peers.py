"""What this tool ships beside what a user could have instead, all of them interleaved in one run.

    python benchmarks/peers.py                    every model below; hours on two cores
    python benchmarks/peers.py x3d_s resnet50     these
    python benchmarks/peers.py --page             docs/benchmarks.md again, from the results that stand

For each model: PyTorch eager, torch.compile with freezing, ONNX Runtime fp32 and with its default static quantization,
OpenVINO fp32 and bf16, NNCF's post-training quantization on OpenVINO with its floats in fp32 and bf16, Olive's static
quantization, and NVIDIA ModelOpt's ONNX quantization; and what `recipe MODEL --int8` chose. Same weights, same
calibration and held-out samples, one thread and two, every runner in a process of its own. What is within 15 % of
ours is opened and timed four times more beside it, because what a process gets of the machine when it starts stays with
it. A result that stands is kept until it is asked for with --again.
NNCF and Olive come with `pip install -e ".[peers]"`. ModelOpt pins older versions of onnx and ONNX Runtime: it needs an
environment of its own, `pip install "nvidia-modelopt[onnx]"`, whose interpreter the variable MODELOPT_PYTHON names.
Whatever is missing is told as missing.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import kept
import numpy as np
import sittings
from memory import peak_of
from peers_build import modelopt_python
from peers_page import write_page

from deploy_compile.cache import Stages
from deploy_compile.export import export
from deploy_compile.load import load
from deploy_compile.machine import versions
from deploy_compile.options import Options, fitted
from deploy_compile.pipeline import compile_recipe, verify
from deploy_compile.reference import reference
from deploy_compile.sample_files import paths, stacked
from deploy_compile.samples import collect
from deploy_compile.worker import Crashed, Worker
from deploy_recipes import Recipe
from deploy_runtime import timing
from deploy_runtime.data import encode
from deploy_runtime.errors import DeployError
from deploy_runtime.machine import physical_cores
from deploy_runtime.measure import measure

RESULTS = Path(__file__).parent / "results" / "peers"
MODELS = (
    "resnet50", "efficientnet_b0", "densenet121", "x3d_s", "x3d_m", "vit_base_patch16_224", "resnet50_lstm",
    "r2plus1d_r50", "slowfast_r50", "longitudinal_mim",
)  # fmt: skip
EAGER, OURS = "PyTorch eager", "deploy-compile"
# Name -> (function that builds, function that opens, its last argument), and the package that it needs.
ALTERNATIVES: Mapping[str, tuple[str, str, str, str]] = {
    EAGER: ("torch_eager", "torch", "eager", "torch"),
    "torch.compile": ("torch_compile", "torch", "compile", "torch"),
    "ONNX Runtime fp32": ("onnxruntime_fp32", "onnxruntime", "", "onnxruntime"),
    "ONNX Runtime int8": ("onnxruntime_int8", "onnxruntime", "", "onnxruntime"),
    "OpenVINO fp32": ("openvino_fp32", "openvino", "f32", "openvino"),
    "OpenVINO bf16": ("openvino_bf16", "openvino", "bf16", "openvino"),
    "NNCF int8": ("nncf_int8", "openvino", "f32", "nncf"),
    "NNCF int8 bf16": ("nncf_int8", "openvino", "bf16", "nncf"),
    "Olive int8": ("olive_int8", "onnxruntime", "", "olive"),
    "ModelOpt int8": ("modelopt_int8", "openvino", "f32", "modelopt"),
}
BUILD_S, OPEN_S, RUN_S = 3600.0, 1200.0, 1200.0
BUDGET_S = 90.0  # of timing, for each number of threads
LEAST_ROUNDS = 10
NEAR = 1.15  # an alternative nearer than this, either way, is timed in several sittings
SITTINGS = 5
WORDS = 200  # characters of a reason


def compare(name: str, scratch: Path) -> dict[str, Any]:
    """Build every alternative of a model, measure their answers, and time them side by side."""
    options = Options(name, int8=True, targets=("cpu",), threads=physical_cores())
    recipe = fitted(options)
    run = Stages(scratch / "cache", lambda *_: None, lambda *_: None)
    begun = time.monotonic()
    with peak_of(os.getpid()) as peak:
        made = verify(recipe, options, run)
    seconds = time.monotonic() - begun
    loaded = run(load, recipe, name, {}, "seeded", None, options.uncertainty)
    samples = run(collect, recipe, None, "auto", False)
    answers = run(reference, loaded, recipe, samples, options.threads)
    raw = run(export, loaded, recipe, recipe.exporter).path
    count = len(paths(answers.held_out))
    held_out = paths(samples.held_out)[:count]
    rows: dict[str, dict[str, Any]] = {}
    files: dict[str, Path | None] = {}
    for title, (build, *_, package) in ALTERNATIVES.items():
        if not _has(package):
            rows[title] = {"failed": f"{package} is not installed"}
            continue
        made_here = scratch / build
        if made_here.exists():  # by the alternative before, which opens the same file in another way
            before = next(other for other, (same, *_) in ALTERNATIVES.items() if same == build)
            rows[title], files[title] = dict(rows[before]), files[before]
        else:
            rows[title], files[title] = _built(build, raw, samples.calibration, made_here)
    own: dict[int, tuple[Any, ...]] = {}
    for threads in sorted({1, physical_cores()}):
        outcome = compile_recipe(recipe, Options(name, int8=True, targets=("cpu",), threads=threads), run)
        chosen = made.tried[outcome.choice.chosen].engine
        own[threads] = (
            chosen.backend, chosen.file, chosen.precision, recipe.inputs, recipe.outputs, options.batch, threads, None
        )  # fmt: skip
        rows.setdefault(OURS, {"seconds": round(seconds, 1), "peak_gib": peak.gib, "failed": "", "chosen": {}})
        rows[OURS]["chosen"][str(threads)] = chosen.name
        rows[OURS]["bytes"] = chosen.file.stat().st_size if chosen.file else 0
    names = ([tensor.name for tensor in recipe.inputs], [tensor.name for tensor in recipe.outputs])
    timed = {}
    for threads, engine in own.items():
        openers: dict[str, tuple[Any, ...]] = {OURS: ("peers_run:ours", engine, held_out[0])}
        for title, (_, opener, last, _) in ALTERNATIVES.items():
            if rows[title]["failed"]:
                continue
            if opener == "torch":
                openers[title] = ("peers_run:torch", loaded, names, held_out[0], threads, last)
            else:
                extra = (last,) if last else ()
                openers[title] = (f"peers_run:{opener}", files[title], held_out[0], threads, *extra)
        timed[str(threads)] = _timed(openers, rows, threads, held_out, scratch, recipe, stacked(answers.held_out))
    return {"alternatives": rows, "threads": timed, "samples": count, "repair": encode(made.repairs.get("cpu"))}


def _has(package: str) -> bool:
    if package == "modelopt":
        asked = [modelopt_python(), "-c", "import modelopt.onnx"]
        return subprocess.run(asked, capture_output=True, check=False).returncode == 0
    return find_spec(package) is not None


def _built(build: str, raw: Path, samples: Path, out: Path) -> tuple[dict[str, Any], Path | None]:
    """Run one alternative's own tool in a process; its seconds, peak memory and bytes, or why there is none."""
    out.mkdir()
    begun = time.monotonic()
    with Worker(physical_cores()) as worker, peak_of(worker.pid) as peak:
        try:
            file = worker.call(f"peers_build:{build}", raw, samples, out, timeout_s=BUILD_S)
        except Exception as error:
            reason = error.reason if isinstance(error, Crashed) else f"{type(error).__name__}: {error}"
            return {"failed": " ".join(reason.split())[:WORDS]}, None
    seconds = round(time.monotonic() - begun, 1)
    size = sum(part.stat().st_size for part in file.parent.glob(f"{file.stem}*")) if file else 0
    return {"failed": "", "seconds": seconds, "peak_gib": peak.gib, "bytes": size}, file


def _timed(
    openers: Mapping[str, tuple[Any, ...]],
    rows: dict[str, dict[str, Any]],
    threads: int,
    held_out: list[Path],
    scratch: Path,
    recipe: Recipe,
    wanted: dict[str, np.ndarray],
) -> dict[str, Any]:
    """Open all, measure their answers once, and let them take turns; then what is near, in more sittings."""

    def learnt(title: str, worker: Worker) -> None:
        if "sqnr_db" not in rows[title]:
            rows[title] |= _drift(worker, held_out, scratch, recipe, wanted)
            rows[title]["first_run_s"] = round(worker.held("opened"), 2)

    times = _sitting(openers, rows, threads, BUDGET_S, EAGER, learnt)
    both = {title: [(own, times[OURS])] for title, own in times.items() if OURS in times}
    near = [title for title, pairs in both.items() if 1 / NEAR < sittings.ratio_interval(pairs)[0] < NEAR]
    for _ in range(SITTINGS - 1 if len(near) > 1 else 0):
        again = _sitting({title: openers[title] for title in near}, rows, threads, BUDGET_S / SITTINGS, OURS)
        for title, own in again.items():
            both[title].append((own, again[OURS]))
    return {
        title: {
            **encode(timing.speed(times[EAGER], own, threads)),
            "ours": list(sittings.ratio_interval(both[title])),  # its time over ours: above 1 we are faster
            "sittings": len(both[title]),
        }
        for title, own in times.items()
    }


def _sitting(
    openers: Mapping[str, tuple[Any, ...]],
    rows: dict[str, dict[str, Any]],
    threads: int,
    budget_s: float,
    baseline: str,
    learnt: Callable[[str, Worker], None] = lambda *_: None,
) -> dict[str, np.ndarray]:
    """Open runners in new processes and return their seconds by round; `learnt` is called with each that opened."""
    with ExitStack() as stack:
        opened: dict[str, Worker] = {}
        for title, (function, *args) in openers.items():
            worker = stack.enter_context(Worker(threads))
            try:
                worker.hold(function, *args, timeout_s=OPEN_S)
                learnt(title, worker)
            except Exception as error:
                reason = error.reason if isinstance(error, Crashed) else f"{type(error).__name__}: {error}"
                rows[title]["failed"] = " ".join(reason.split())[:WORDS]
                continue
            opened[title] = worker
        turns = {title: partial(_turn, title, worker) for title, worker in opened.items()}
        died: dict[str, str] = {}
        times = timing.interleave_survivors(turns, died, budget_s, baseline, LEAST_ROUNDS)
        for title, reason in died.items():
            rows[title]["failed"] = reason
    return times


def _turn(title: str, worker: Worker) -> float:
    try:
        return float(worker.held("turn", timeout_s=RUN_S))
    except Crashed as crash:
        raise timing.Died(title, crash.reason) from crash


def _drift(
    worker: Worker, held_out: list[Path], scratch: Path, recipe: Recipe, wanted: dict[str, np.ndarray]
) -> dict[str, Any]:
    worker.held("answers", held_out, scratch / "answers.npz", timeout_s=RUN_S * 4)
    with np.load(scratch / "answers.npz") as arrays:
        got = {name: arrays[name] for name in wanted}
    drifts = measure(wanted, got, recipe.task)
    worst = min(drifts, key=lambda drift: drift.sqnr_db)
    agreement = next((drift.agreement for drift in drifts if drift.agreement is not None), None)
    return {"sqnr_db": min(worst.sqnr_db, 200.0), "cosine": worst.cosine, "agreement": agreement}


def measured(name: str) -> dict[str, Any]:
    """Compare on one model in a scratch folder; the reason where that cannot be done."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = compare(name, Path(folder))
        except DeployError as error:
            found = {"failed": error.message}
    libraries = versions("torch", "onnxruntime-gpu", "openvino", "nncf", "olive-ai")
    return {"model": name, "versions": dict(libraries), **found}


def main() -> None:
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # workers import peers_build and peers_run
    kept.run(__doc__, "MODEL", RESULTS, MODELS, measured)
    write_page(RESULTS)


if __name__ == "__main__":
    main()
