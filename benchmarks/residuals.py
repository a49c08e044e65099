"""Sums of residuals in INT8 against float ones, on OpenVINO: what `deploy_compile.join` tries, and more.

    python benchmarks/residuals.py               all of MODELS, full size
    python benchmarks/residuals.py resnet50      this one

Seeded weights, ranges and biases as a compile has them, every layer in INT8; both forms of the graph take turns in one
run on one thread, with the floats between INT8 layers in bf16 and in fp32. Decibels are those of the outputs against
the float graph on held-out samples, both graphs computed as they are written. Stages go through the user's cache
($DEPLOY_CACHE). Results go to benchmarks/results/residuals, one file a model; docs/residuals.md is made from them.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kept

from deploy_compile import onnx_graph, sample_files, session
from deploy_compile.cache import Stages
from deploy_compile.correct import correct
from deploy_compile.equalize import equalize
from deploy_compile.export import export
from deploy_compile.join import FLOAT, JOINED, PRECISIONS, gain
from deploy_compile.load import load
from deploy_compile.options import Options, fitted
from deploy_compile.quantize import quantize
from deploy_compile.ranges import calibrate
from deploy_compile.rewrite_openvino import rewrite
from deploy_compile.samples import collect
from deploy_compile.sensitivity import decibels, noise
from deploy_compile.simplify import simplify
from deploy_runtime import device_cache
from deploy_runtime.data import encode

RESULTS = Path(__file__).parent / "results" / "residuals"
PAGE = Path(__file__).parent.parent / "docs" / "residuals.md"
MODELS = ("resnet18", "resnet50", "r2plus1d_r18", "slowfast_r50", "x3d_s", "efficientnet_b0")
SAMPLES = 8  # held out, for the decibels
HEAD = """# Sums of residuals in INT8: measured

Made by `python benchmarks/residuals.py` from the results in `benchmarks/results/residuals`: full size, seeded weights,
one thread, both forms of the INT8 graph taking turns in OpenVINO. *float / INT8*: the time with float sums over that
with INT8 ones, with its 95 % interval; above 1 the INT8 sums are faster. *dB*: the outputs against the float graph.

| network | sums | float / INT8, bf16 floats | fp32 floats | dB, float sums | INT8 sums |
| --- | ---: | --- | --- | ---: | ---: |
"""


def measure(name: str) -> dict[str, Any]:
    """Quantize one network with float and with INT8 sums, and time and judge both forms."""
    options = Options(name, int8=True, targets=("cpu",), threads=1)
    recipe = fitted(options)
    run = Stages(device_cache.folder(), lambda *_: None, lambda *_: None)
    loaded = run(load, recipe, options.ref, options.params, options.weights, options.keys, options.uncertainty)
    samples = run(collect, recipe, None, options.algorithm, False, options.calibration_samples)
    fp32 = run(simplify, run(export, loaded, recipe, recipe.exporter), recipe)
    fp32 = run(equalize, fp32, samples.calibration, options.threads)
    ranges = run(calibrate, fp32, samples.calibration, options.algorithm, options.threads)
    plain = run(quantize, fp32, ranges, recipe.keep_float, "cpu")
    int8 = run(correct, fp32, plain, ranges, recipe.keep_float, samples.calibration, options.threads)
    model = onnx_graph.load(fp32.path)
    sums = [node.name for node in onnx_graph.residual_sums(model)]
    held_out = sample_files.paths(samples.held_out)[:SAMPLES]
    with tempfile.TemporaryDirectory() as folder:
        joined = quantize(Path(folder), fp32, ranges, recipe.keep_float, "cpu", int8.means, sums)
        both = {FLOAT: int8.graph, JOINED: joined}
        files = {form: rewrite(graph.path, Path(folder) / f"{form}.onnx") for form, graph in both.items()}
        gains = {which: gain(files, which, recipe, held_out[0], options.batch, 1) for which in PRECISIONS}
        graphs = {"fp32": model, **{form: onnx_graph.load(graph.path) for form, graph in both.items()}}
        answers = {form: session.answers(graph, map(sample_files.load, held_out), 1) for form, graph in graphs.items()}
    db = {form: round(decibels(noise(answers["fp32"], answers[form])), 2) for form in both}
    return {"recipe": name, "sums": len(sums), "gains": encode(gains), "db": db, "failed": ""}


def write_page(results: Path) -> None:
    """Write docs/residuals.md."""
    lines, foot = [HEAD.rstrip("\n")], []
    for path in sorted(results.glob("*.json")):
        one = json.loads(path.read_text())
        lines.append(_row(one))
        machine = one["machine"]
        foot.append(f"`{one['recipe']}`: {machine['cpu']} ({machine['instructions']}), {one['date']}, {one['commit']}.")
    PAGE.write_text("\n".join([*lines, "", *(f"{line}\n" for line in foot)]))


def _row(one: Mapping[str, Any]) -> str:
    gains = ["{:.2f} ({:.2f}–{:.2f})".format(*found) if found else "refused" for found in one["gains"].values()]
    cells = (f"`{one['recipe']}`", str(one["sums"]), *gains, f"{one['db'][FLOAT]:.1f}", f"{one['db'][JOINED]:.1f}")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    kept.run(__doc__, "MODEL", RESULTS, MODELS, measure)
    write_page(RESULTS)
