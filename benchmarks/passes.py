"""What each pass that rewrites graphs for one backend is worth: its engines with and without it, side by side.

    python benchmarks/passes.py                   every model below
    python benchmarks/passes.py x3d_s             this one
    python benchmarks/passes.py --page            docs/passes.md again, from the results that stand

For each model and precision the engine that ships, the same with one pass left out, and one with none of them, in
processes of their own and interleaved in one run, on one thread; seconds are of processor time. ONNX Runtime's passes,
OpenVINO's for INT8, and OpenVINO in fp32, which ships without, with clips as frames. Graphs that are the same are
timed once, and not at all where no pass finds anything. A result that stands is kept until it is asked for with
--again.
"""

import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import kept
import numpy as np
from passes_page import write_page
from passes_run import BLOCKS, BYTES, FRAMES, MEANS, NESTED, UNSIGNED, VECTORS

from deploy_compile.cache import Stages
from deploy_compile.export import export
from deploy_compile.fingerprint import file_digest
from deploy_compile.load import load
from deploy_compile.machine import versions
from deploy_compile.options import Options, fitted
from deploy_compile.quantize import quantize
from deploy_compile.ranges import calibrate
from deploy_compile.sample_files import paths
from deploy_compile.samples import collect
from deploy_compile.simplify import simplify
from deploy_compile.worker import Worker
from deploy_recipes import Recipe
from deploy_runtime import device_cache, timing

RESULTS = Path(__file__).parent / "results" / "passes"
MODELS = ("resnet18", "resnet50", "x3d_s", "x3d_m", "r2plus1d_r50", "slowfast_r50", "efficientnet_b0", "densenet121")
SHIPS, NONE = "all", "none"
EXACT: Mapping[str, tuple[str, ...]] = {  # what is left out; U8 stays, since without it INT8 is another order of slow
    SHIPS: (), f"no {FRAMES}": (FRAMES,), f"no {VECTORS}": (VECTORS,), NONE: (FRAMES, VECTORS),
}  # fmt: skip
INT8: Mapping[str, tuple[str, ...]] = {
    SHIPS: (), f"no {FRAMES}": (FRAMES,), f"no {VECTORS}": (VECTORS,), f"no {BLOCKS}": (BLOCKS,),
    f"no {MEANS}": (MEANS,), f"no {UNSIGNED}": (UNSIGNED,), NONE: (FRAMES, VECTORS, BLOCKS, MEANS),
}  # fmt: skip
VARIANTS = {"fp32": EXACT, "int8": INT8}
OPENVINO: Mapping[str, tuple[str, ...]] = {
    SHIPS: (), f"no {NESTED}": (NESTED,), f"no {BYTES}": (BYTES,), NONE: (NESTED, BYTES),
}  # fmt: skip
SAMPLES = 4  # held-out ones, on which answers are compared
BUDGET_S, LEAST_ROUNDS = 60.0, 24
TIMEOUT_S = 3600.0


def measure(name: str, scratch: Path) -> dict[str, Any]:
    """Build and time every variant of a model."""
    options = Options(name, int8=True, targets=("cpu",), threads=1)
    recipe = fitted(options)
    run = Stages(device_cache.folder(), lambda *_: None, lambda *_: None)
    loaded = run(load, recipe, name, {}, "seeded", None, options.uncertainty)
    samples = run(collect, recipe, None, "auto", False)
    fp32 = run(simplify, run(export, loaded, recipe, recipe.exporter), recipe)
    ranges = run(calibrate, fp32, samples.calibration, "auto", options.threads)
    int8 = run(quantize, fp32, ranges, recipe.keep_float, "cpu")
    found: dict[str, Any] = {}
    for precision, graph in (("fp32", fp32), ("int8", int8)):
        files = {}
        for number, (variant, off) in enumerate(VARIANTS[precision].items()):
            out = scratch / precision / str(number)
            out.mkdir(parents=True)
            with Worker(1) as worker:
                args = (out, graph.path, fp32.path, precision, ranges, recipe.inputs, off)
                files[variant] = worker.call("passes_run:build", *args, timeout_s=TIMEOUT_S)
        held_out = paths(samples.held_out)[:SAMPLES]
        found[precision] = _distinct(files, "onnxruntime", precision, recipe, held_out, scratch)
        if precision == "fp32" and files[SHIPS] != graph.path:
            forms = {SHIPS: graph.path, f"with {FRAMES}": files[SHIPS]}
            found["openvino fp32"] = _timed(forms, "openvino", precision, recipe, held_out, scratch)
    files = {}
    for number, (variant, off) in enumerate(OPENVINO.items()):
        out = scratch / "openvino" / str(number)
        out.mkdir(parents=True)
        with Worker(1) as worker:
            files[variant] = worker.call("passes_run:build_openvino", out, int8.path, off, timeout_s=TIMEOUT_S)
    found["openvino int8"] = _distinct(files, "openvino", "int8", recipe, held_out, scratch)
    return {kind: rows for kind, rows in found.items() if rows}


def _distinct(
    files: Mapping[str, Path], backend: str, precision: str, recipe: Recipe, samples: list[Path], scratch: Path
) -> dict[str, Any]:
    """Time the variants whose graphs differ. One that is what ships has None, all are left out where every one is."""
    content = {variant: file_digest(file) for variant, file in files.items()}
    first = {digest: variant for variant, digest in reversed(content.items())}
    if len(first) == 1:
        return {}
    rows = _timed({one: files[one] for one in first.values()}, backend, precision, recipe, samples, scratch)
    return {
        variant: rows[first[digest]] if variant == SHIPS or first[digest] != SHIPS else None
        for variant, digest in content.items()
    }


def _timed(
    files: Mapping[str, Path], backend: str, precision: str, recipe: Recipe, samples: list[Path], scratch: Path
) -> dict[str, Any]:
    """Let all variants take turns; how much slower each is than what ships, and how far their answers are apart."""
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        answers: dict[str, dict[str, np.ndarray]] = {}
        for variant, file in files.items():
            workers[variant] = stack.enter_context(Worker(1))
            args = (backend, file, precision, recipe.inputs, recipe.outputs, samples)
            workers[variant].hold("passes_run:Engine", *args, timeout_s=TIMEOUT_S)
            workers[variant].held("answers", scratch / "answers.npz", timeout_s=TIMEOUT_S)
            with np.load(scratch / "answers.npz") as arrays:
                answers[variant] = dict(arrays)
        turns = {
            variant: (lambda worker=worker: float(worker.held("turn", timeout_s=TIMEOUT_S)))
            for variant, worker in workers.items()
        }
        times = timing.interleave(turns, BUDGET_S, SHIPS, least_rounds=LEAST_ROUNDS)
    return {
        variant: {
            "ms": float(np.median(times[variant])) * timing.MS,
            "slower": list(timing.ratio_interval(times[variant], times[SHIPS])),
            "difference": max(
                float(np.abs(got - answers[SHIPS][output]).max() / np.abs(answers[SHIPS][output]).max())
                for output, got in answers[variant].items()
            ),
            "runs": len(times[variant]),
        }
        for variant in files
    }


def compared(name: str) -> dict[str, Any]:
    """Measure one model in a scratch folder."""
    with tempfile.TemporaryDirectory() as folder:
        return {"model": name, "versions": dict(versions("onnxruntime-gpu", "openvino")), **measure(name, Path(folder))}


def main() -> None:
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # workers import passes_run
    kept.run(__doc__, "MODEL", RESULTS, MODELS, compared)
    write_page(RESULTS)


if __name__ == "__main__":
    main()
