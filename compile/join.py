"""Join: sums of residuals go to INT8 too, where OpenVINO is surely faster so on this machine and the gates hold.

OpenVINO adds a residual inside the convolution before it only where both operands of the sum are quantized; otherwise
the sum is a kernel of its own, which reads and writes floats. What that costs hangs on sizes and processor more than
on the architecture, so both forms are timed side by side (docs/residuals.md: ResNets gain, X3D and EfficientNet do
not). It costs accuracy, up to 1 dB: each operand is rounded once more.

Networks with depthwise convolutions are not tried. ONNX Runtime's form quantizes such sums anyway
(`rewrite_onnxruntime`), and nothing is known of TensorRT's, so that only the form for CPUs is joined.
"""

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from deploy_compile import onnx_graph, sample_files, session
from deploy_compile.quantize import quantize
from deploy_compile.repair import tightened, trial_samples
from deploy_compile.results import Graph
from deploy_compile.results_int8 import Joined, Ranges, Reached
from deploy_compile.rewrite_openvino import rewrite
from deploy_compile.sensitivity import decibels, noise
from deploy_compile.speed import side_by_side
from deploy_recipes.recipe import Keep, Recipe
from deploy_runtime import timing
from deploy_runtime.judge import judge, passed
from deploy_runtime.measure import measure
from deploy_runtime.spec import Batch

LEAST_GAIN = 1.03  # the time of float sums over that of INT8 ones, for which it is worth their rounding
BUDGET_S = 12.0  # of timing
PRECISIONS = ("int8_bf16", "int8")  # the floats beside INT8, the faster first: what this processor has is timed
FLOAT, JOINED = "float", "joined"
NEVER = (0.0, 0.0, 0.0)


def join(
    out: Path,
    fp32: Graph,
    int8: Graph,
    ranges: Ranges,
    reached: Reached,
    recipe: Recipe,
    calibration: Path,
    margin_db: float,
    batch: Batch,
    threads: int,
    means: Path | None = None,
) -> Joined:
    """Return the INT8 graph with its residual sums in INT8, or as it is where that is not faster or does not pass.

    `calibration` is a folder of one-sample `.npz` files; `means` are those that `int8` was corrected by.
    """
    model = onnx_graph.load(fp32.path)
    sums = [node.name for node in onnx_graph.residual_sums(model) if ranges.tensors.keys() >= set(node.input)]
    if not sums or _depthwise(model):
        return Joined(int8)
    kept = [Keep(glob.escape(node), reason) for node, reason in int8.kept_float.items()]
    graph = quantize(out, fp32, ranges, kept, int8.form, means, sums)
    both = {FLOAT: int8, JOINED: graph}
    files = {name: rewrite(form.path, out / f"{name}.onnx") for name, form in both.items()}
    tried = (gain(files, which, recipe, min(calibration.glob("*.npz")), batch, threads) for which in PRECISIONS)
    ratio, low, _ = next((found for found in tried if found), NEVER)
    if ratio < LEAST_GAIN or low <= 1.0:
        return Joined(int8, 0, ratio)
    reference = sample_files.load(reached.floats)
    got = session.answers(onnx_graph.load(graph.path), trial_samples(fp32, calibration), threads)
    if not passed(judge(measure(reference, got, recipe.task), tightened(recipe.limit("int8"), margin_db))):
        return Joined(int8, 0, ratio)
    return Joined(graph, len(sums), ratio, decibels(noise(reference, got)))


def _depthwise(model: onnx.ModelProto) -> bool:
    return any(onnx_graph.attribute(node, "group", 1) > 1 for node in onnx_graph.heavy_nodes(model))


def gain(
    files: Mapping[str, Path], precision: str, recipe: Recipe, sample: Path, batch: Batch, threads: int
) -> tuple[float, float, float] | None:
    """Return how many times faster the joined form is, with its 95 % interval; None where OpenVINO cannot tell."""
    tensors = (tuple(recipe.outputs), tuple(recipe.inputs))
    openers: dict[str, tuple[Any, ...]] = {
        name: ("deploy_compile.speed:Engine", file, "openvino", precision, "cpu", *tensors, batch, sample, threads)
        for name, file in files.items()
    }
    times, _ = side_by_side(openers, threads, BUDGET_S, FLOAT)
    return timing.ratio_interval(times[FLOAT], times[JOINED]) if times.keys() >= files.keys() else None
