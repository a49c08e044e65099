"""TensorRT-RTX engines of full-size networks at fp16 and INT8, for batches of 1 to 16, built and audited without a GPU.

    python benchmarks/rtx_builds.py                  the six networks below; half an hour or more on two cores
    python benchmarks/rtx_builds.py x3d_s vit_base   these

Each recipe goes through the pipeline for the target `rtx` with `--batch 1:4:16 --fp16 --int8`, in a cache of its own,
and leaves benchmarks/results/rtx_builds/NAME.json: what became of each candidate, which precisions its layers got, its
bytes, how long the build took. Then NVIDIA's polygraphy runs the graphs on the golden samples through ONNX Runtime, and
the distance from PyTorch that its answers have stands beside ours. Not run on hardware: there is no speed here.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kept
import numpy as np

from deploy_compile.attempt import Tried
from deploy_compile.cache import Stages
from deploy_compile.options import Options, fitted
from deploy_compile.pipeline import Verified, verify
from deploy_compile.sample_files import stacked
from deploy_recipes import Recipe
from deploy_runtime.machine import physical_cores
from deploy_runtime.measure import measure
from deploy_runtime.spec import Batch

NAMES = ("x3d_s", "resnet50", "vit_base_patch16_224", "slowfast_r50", "resnet50_gru", "longitudinal_mim")
RESULTS = Path(__file__).parent / "results" / "rtx_builds"
PAGE = Path(__file__).parent.parent / "docs" / "rtx-builds.md"
BATCH = Batch(1, 4, 16)


def built(name: str) -> dict[str, Any]:
    """Build every engine of a recipe and ask polygraphy about its graphs."""
    options = Options(name, fp16=True, int8=True, targets=("rtx",), batch=BATCH, threads=physical_cores())
    recipe = fitted(options)
    with tempfile.TemporaryDirectory() as folder:
        made = verify(recipe, options, Stages(Path(folder), lambda *_: None, lambda *_: None))
        asked = {g.precision: polygraphy(recipe, made, g.path, Path(folder)) for g in made.graphs if not g.form}
        rows = [row_of(one, asked.get(one.row.precision, {})) for one in made.tried]
    return {"recipe": recipe.name, "batch": [BATCH.least, BATCH.best, BATCH.most], "candidates": rows}


def row_of(one: Tried, asked: Mapping[str, float]) -> dict[str, Any]:
    row = one.row
    return {
        "name": row.name,
        "status": row.status,
        "reason": row.reason,
        "layers": dict(row.coverage.layers) if row.coverage else {},
        "breaches": list(row.coverage.breaches) if row.coverage else [],
        "bytes": one.engine.file.stat().st_size if one.engine.file else None,
        "seconds": round(one.engine.seconds, 1),
        "golden_sqnr_db": {drift.output: round(drift.sqnr_db, 2) for drift in row.golden},
        "polygraphy_sqnr_db": dict(asked),
    }


def polygraphy(recipe: Recipe, made: Verified, graph: Path, folder: Path) -> dict[str, float]:
    """Run a graph on the golden samples by `polygraphy run`; SQNR of its answers from PyTorch's, in dB, by output."""
    from polygraphy.comparator import RunResults  # type: ignore[import-untyped]
    from polygraphy.json import save_json  # type: ignore[import-untyped]

    inputs, wanted = stacked(made.samples.golden), stacked(made.torch.golden)
    count = len(next(iter(inputs.values())))
    given = [{name: array[place : place + 1] for name, array in inputs.items()} for place in range(count)]
    save_json(given, str(folder / "inputs.json"))
    command = Path(sys.executable).with_name("polygraphy")
    words = [str(command), "run", str(graph), "--onnxrt", "--load-inputs", str(folder / "inputs.json")]
    words += ["--save-outputs", str(folder / "outputs.json")]
    ended = subprocess.run(words, check=False, stdout=subprocess.DEVNULL).returncode
    if ended < 0:  # a signal: ONNX Runtime 1.31 dies at its last level of optimisation on an fp16 graph with a GRU
        print(f"polygraphy run on {graph.name} died of signal {-ended}: its runner, a level lower", flush=True)
        answers = a_level_lower(graph, given)
    elif ended == 0:
        ((_, answers),) = RunResults.load(str(folder / "outputs.json")).items()
    else:
        raise SystemExit(f"{' '.join(words)} ended with {ended}")
    got = {name: np.concatenate([one[name] for one in answers]) for name in wanted}
    drifts = measure(wanted, got, recipe.task, {})
    return {drift.output: round(drift.sqnr_db, 2) for drift in drifts}


def a_level_lower(graph: Path, given: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Run a graph by polygraphy's own runner of ONNX Runtime, at the level of optimisation before the last."""
    import onnxruntime  # type: ignore[import-untyped]
    from polygraphy.backend.onnxrt import OnnxrtRunner  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    with OnnxrtRunner(session) as runner:
        return [{name: array.copy() for name, array in runner.infer(sample).items()} for sample in given]


def write_page() -> None:
    """Write docs/rtx-builds.md from the results that stand."""
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    lines = [
        "# TensorRT-RTX engines of full-size networks",
        "",
        "Made by `python benchmarks/rtx_builds.py`: built and audited by the real compiler without a GPU, for sm86,",
        "sm89 and sm120 and batches of 1, 4 and 16; **not run on hardware**. *layers* is what precision each",
        "convolution and matrix product got. *ours* is the distance from PyTorch on the golden samples as the",
        "pipeline emulates the engine; *polygraphy* is that of NVIDIA's `polygraphy run --onnxrt` on the same graph",
        "and samples, which computes fp16 graphs in wider types, so that it lies above ours there (where ONNX Runtime",
        "dies at its last level of optimisation, as it does of an fp16 GRU, polygraphy's runner a level lower). Worst",
        "output each.",
        "",
        "| recipe | candidate | state | layers | MB | build s | ours dB | polygraphy dB | commit |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for result in results:
        lines += [_line(result, row) for row in result["candidates"]]
    PAGE.write_text("\n".join(lines) + "\n")


def _line(result: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    state = {"built_not_run": "built"}.get(row["status"], f"{row['status']}: {row['reason']}")
    layers = ", ".join(f"{count} {precision}" for precision, count in sorted(row["layers"].items())) or "–"
    size = f"{row['bytes'] / 1e6:.1f}" if row["bytes"] else "–"
    ours, asked = (
        f"{min(row[key].values()):.1f}" if row[key] else "–" for key in ("golden_sqnr_db", "polygraphy_sqnr_db")
    )
    cells = (f"`{result['recipe']}`", row["name"], state, layers, size, row["seconds"], ours, asked, result["commit"])
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    kept.run(__doc__, "RECIPE", RESULTS, NAMES, built)
    write_page()


if __name__ == "__main__":
    main()
