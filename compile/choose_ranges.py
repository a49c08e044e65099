"""Which clipping threshold each quantized tensor gets under `auto`: the one whose readers' outputs err least.

The histogram tells how well a threshold serves the values of a tensor; what counts is how well it serves the
convolutions and products that read it. So every threshold that some algorithm proposes is tried: the tensor is
quantized with it, each reader computes its output from that and from the float tensor, and the relative squared
errors are added up. One graph does all of it side by side, and only the sums leave it. Weights stay float here: their
rounding is the same whatever the threshold.

Another threshold than `percentile`'s has to make the error less by a tenth: clipping moves all large values one way,
which adds up along the network, while rounding evens out, so that of two thresholds alike by this measure the wider
one serves the answers better. Tried on the grids of CPUs (grids.py), which have up to twice the steps of GPUs', so that
clipping buys less there; and on all samples of a small network, since a few show too little of what lies far out.
What that is worth: docs/int8.md.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from deploy_compile import onnx_graph, sample_files
from deploy_compile.grids import grid
from deploy_compile.probes import Probes
from deploy_compile.results_int8 import Range
from deploy_compile.scales import LEVELS, scales

SAME = 0.01  # thresholds that differ by less than this share are tried once
USUAL = "percentile"
BETTER = 1.1  # how many times the least error the usual threshold's has to be for another one to be taken


def choose(
    model: onnx.ModelProto, proposed: Mapping[str, Mapping[str, Range]], files: Sequence[Path], threads: int
) -> dict[str, Range]:
    """Return the best proposed range of each tensor that INT8 heavy nodes read and that has more than one.

    `proposed` holds, by algorithm, the range of every tensor; `files` are some of the calibration samples, `.npz` of
    one each: an error is a sum over many thousands of values of each.
    """
    trials = _Trials(model)
    tried: dict[str, dict[str, list[tuple[str, str]]]] = {}  # tensor -> algorithm -> (error, energy) outputs
    for tensor, readers in onnx_graph.quantizable(model).items():
        ranges = _distinct({algorithm: found[tensor] for algorithm, found in proposed.items() if tensor in found})
        if len(ranges) > 1:
            tried[tensor] = {name: trials.add(tensor, seen, readers) for name, seen in ranges.items()}
    if not tried:
        return {}
    errors = trials.probes.run(map(sample_files.load, files), threads)
    chosen = {}
    for tensor, outputs in tried.items():
        scores = {
            algorithm: sum(errors[error] / (errors[energy] or 1.0) for error, energy in pairs)
            for algorithm, pairs in outputs.items()
        }
        thresholds = {name: found[tensor].threshold for name, found in proposed.items() if tensor in found}
        chosen[tensor] = proposed[_best(scores, thresholds)][tensor]
    return chosen


def _best(scores: Mapping[str, float], thresholds: Mapping[str, float]) -> str:
    """Return the algorithm of the least score: the one nearest to the usual threshold, unless another is surely better.

    `thresholds` are those of all algorithms, also of those that were not tried since another one's is about the same.
    """
    best = min(scores, key=lambda name: scores[name])
    if USUAL not in thresholds:
        return best
    usual = min(scores, key=lambda name: abs(thresholds[name] - thresholds[USUAL]))
    return best if scores[usual] > BETTER * scores[best] else usual


def _distinct(ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Leave out thresholds that an earlier algorithm proposed already, and those that no scale can serve."""
    found: dict[str, Range] = {}
    for algorithm, seen in ranges.items():
        usable = seen.threshold > 0.0 and np.isfinite(scales(np.array(seen.threshold), LEVELS))
        if usable and all(abs(seen.threshold / other.threshold - 1) >= SAME for other in found.values()):
            found[algorithm] = seen
    return found


class _Trials:
    """The fp32 graph with trials added: a tensor quantized, its readers computed again, and the sums of squares."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.probes = Probes(model)
        self.energies: dict[str, str] = {}  # a reader's output -> its sum of squares

    def add(self, tensor: str, seen: Range, readers: Sequence[onnx.NodeProto]) -> list[tuple[str, str]]:
        """Add one range of a tensor; return, for each reader, the probes that give error and energy."""
        steps = grid(seen)
        values = (np.array(steps.scale, np.float32), np.array(steps.zero, np.uint8))
        placed = [self.probes.constant(value) for value in values]
        clipped = self.probes.node("DequantizeLinear", [self.probes.node("QuantizeLinear", [tensor, *placed]), *placed])
        return [self._reader(reader, tensor, clipped) for reader in readers]

    def _reader(self, reader: onnx.NodeProto, tensor: str, clipped: str) -> tuple[str, str]:
        wanted = reader.output[0]
        again = self.probes.copies([reader], {tensor: clipped})
        if wanted not in self.energies:
            self.energies[wanted] = self.probes.sum_of_squares(wanted)
        return self.probes.sum_of_squares(self.probes.node("Sub", [again, wanted])), self.energies[wanted]
