"""Join: sums of residuals go to INT8 too, where OpenVINO is surely faster so on this machine and the gates hold.

OpenVINO adds a residual inside the convolution before it only where both operands of the sum are quantized; otherwise
the sum is a kernel of its own, which reads and writes floats. What that costs hangs on sizes and processor more than
on the architecture, so both forms are timed side by side. It costs accuracy: each operand is rounded once more. Time
with float sums over that with INT8 ones, one thread with AMX, floats in bf16 and in fp32, and the logits in dB:

                    bf16   fp32    float    INT8
resnet50            1.07   1.28    24.8     24.1
r2plus1d_r18        1.08   1.13    30.7     30.2
resnet18            0.97   1.04    28.6     28.1
x3d_s               1.01   1.03    27.1     26.2
efficientnet_b0     0.98   0.98     9.9      9.7

Networks with depthwise convolutions, as the last two, are not tried. ONNX Runtime's form quantizes such sums anyway
(`rewrite_onnxruntime`), and nothing is known of TensorRT's, so that only the form for CPUs is joined.
"""

import glob
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
    files = {FLOAT: rewrite(int8.path, out / "float.onnx"), JOINED: rewrite(graph.path, out / "joined.onnx")}
    gain, low, _ = _gain(files, recipe, min(calibration.glob("*.npz")), batch, threads)
    if gain < LEAST_GAIN or low <= 1.0:
        return Joined(int8, 0, gain)
    reference = sample_files.load(reached.floats)
    got = session.answers(onnx_graph.load(graph.path), trial_samples(fp32, calibration), threads)
    if not passed(judge(measure(reference, got, recipe.task), tightened(recipe.limit("int8"), margin_db))):
        return Joined(int8, 0, gain)
    return Joined(graph, len(sums), gain, decibels(noise(reference, got)))


def _depthwise(model: onnx.ModelProto) -> bool:
    return any(onnx_graph.attribute(node, "group", 1) > 1 for node in onnx_graph.heavy_nodes(model))


def _gain(files: dict[str, Path], recipe: Recipe, sample: Path, batch: Batch, threads: int) -> tuple[float, ...]:
    """Return how many times faster the joined form is, with the interval; nothing where OpenVINO cannot tell."""
    tensors = (tuple(recipe.outputs), tuple(recipe.inputs))
    for precision in PRECISIONS:
        openers: dict[str, tuple[Any, ...]] = {
            name: ("deploy_compile.speed:Engine", file, "openvino", precision, "cpu", *tensors, batch, sample, threads)
            for name, file in files.items()
        }
        times, _ = side_by_side(openers, threads, BUDGET_S, FLOAT)
        if times.keys() >= files.keys():
            return timing.ratio_interval(times[FLOAT], times[JOINED])
    return (0.0, 0.0, 0.0)
