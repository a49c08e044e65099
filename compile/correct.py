"""Correct: what quantizing a layer adds to its output on average goes out of its bias, channel by channel.

Weights rounded to 8 bits and activations rounded and clipped move the mean of a layer's outputs; a bias can give that
back, and costs nothing when the network runs (Nagel et al., Data-Free Quantization through Weight Equalization and
Bias Correction, ICCV 2019; from calibration samples here, as its section 4.2 has it for networks without batch norm).

Each layer is measured by itself, on float inputs, so that its correction holds whatever other layers are in INT8. A
mean is shrunk by what it owes to chance: to 1 - (its standard error over samples / itself)² of it, so that a channel
that errs another way for every sample is left alone. Without that EfficientNet-B0 loses 2 dB. Where the answers to
other calibration samples get no better, nothing is corrected. SQNR of the logits in dB, seeded weights, 16 held-out
samples, every layer in INT8:

                            before  after
x3d_s                         27.4   29.3
resnet18                      28.7   30.4
densenet121                   21.4   22.3
efficientnet_b0               11.6   11.7
vit_base, 6 blocks            26.4   29.0
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from deploy_compile import biases, onnx_graph, sample_files, session
from deploy_compile.macs import affordable
from deploy_compile.probes import Probes
from deploy_compile.quantize import quantize
from deploy_compile.results import Graph
from deploy_compile.results_int8 import Corrected, Ranges
from deploy_compile.sensitivity import decibels, noise
from deploy_compile.switches import Sample, quantized_forms
from deploy_recipes.recipe import Keep

MEASURED, JUDGED = 4, 4  # calibration samples that corrections are measured on, and others that judge them
LEAST_MEASURED, LEAST_JUDGED = 3, 1  # of a network so large that COUNTED_MACS allow no more of either
COUNTED_MACS = 4e11


def correct(
    out: Path, fp32: Graph, int8: Graph, ranges: Ranges, keep_float: Sequence[Keep], calibration: Path, threads: int
) -> Corrected:
    """Return the INT8 graph with corrected biases, as it is where that does not bring it nearer to the float graph.

    `calibration` is a folder of one-sample `.npz` files; fewer than three are too few to correct anything by.
    """
    model, quantized = onnx_graph.load(fp32.path), onnx_graph.load(int8.path)
    counts = [
        affordable(fp32.path, COUNTED_MACS, *ends) for ends in ((LEAST_MEASURED, MEASURED), (LEAST_JUDGED, JUDGED))
    ]
    measured, judged = _split(sample_files.paths(calibration), *counts)
    means = _means(model, quantized, [sample_files.load(path) for path in measured], threads) if judged else {}
    if not means:
        return Corrected(int8)
    written = biases.write(out / "means.npz", means)
    better = quantize(out, fp32, ranges, keep_float, int8.form, written)
    samples = [sample_files.load(path) for path in judged]
    reference, before, after = (
        session.answers(one, samples, threads) for one in (model, quantized, onnx_graph.load(better.path))
    )
    before_db, after_db = decibels(noise(reference, before)), decibels(noise(reference, after))
    if after_db <= before_db:
        return Corrected(int8, None, 0, before_db, after_db)
    return Corrected(better, written, len(means), before_db, after_db)


def _split(files: Sequence[Path], most: int, judges: int) -> tuple[Sequence[Path], Sequence[Path]]:
    """Return samples to measure on and others to judge by, evenly spread; nothing where there are too few."""
    if len(files) < LEAST_MEASURED:
        return (), ()
    spread = files[:: max(1, len(files) // (most + judges))][: most + judges]
    judged = spread[1::2][:judges]
    return [path for path in spread if path not in judged][:most], judged


def _means(
    fp32: onnx.ModelProto, int8: onnx.ModelProto, samples: Sequence[Sample], threads: int
) -> dict[str, np.ndarray]:
    """Return by how much each quantized node's output is too large on average, [channels], shrunk."""
    links, kinds = onnx_graph.links(fp32), onnx_graph.inferred(fp32, batch=1)
    forms = quantized_forms(fp32, int8)
    probes = Probes(fp32, onnx_graph.taken(int8))
    onnx_graph.add_constants(probes.model.graph, int8, forms.values())
    asked: dict[str, str] = {}
    for node in onnx_graph.heavy_nodes(fp32):
        place = biases.place(node, links) if node.name in forms else None
        if place is not None:
            wanted = node.output[0]
            error = probes.node("Sub", [probes.copies(forms[node.name]), wanted])
            asked[node.name] = probes.channel_means(error, place.axis, len(kinds[wanted][1]))
    found = list(probes.each(samples, threads)) if asked else []
    return {name: _shrunk(np.array([one[probe] for one in found], np.float64)) for name, probe in asked.items()}


def _shrunk(means: np.ndarray) -> np.ndarray:
    """Return the mean over samples of [samples, channels], less what chance has in it (positive-part James-Stein)."""
    mean = means.mean(axis=0)
    chance = means.var(axis=0, ddof=1) / len(means)
    kept = np.maximum(0.0, 1.0 - chance / np.maximum(np.square(mean), np.finfo(np.float64).tiny))
    return np.asarray(mean * kept, np.float32)
