"""Which clipping threshold each quantized tensor gets under `auto`: the one whose readers' outputs err least.

The histogram tells how well a threshold serves the values of a tensor; what counts is how well it serves the
convolutions and products that read it. So every threshold that some algorithm proposes is tried: the tensor is
quantized with it, each reader computes its output from that and from the float tensor, and the relative squared
errors are added up. One graph does all of it side by side, and only the sums leave it. Weights stay float here: their
rounding is the same whatever the threshold.

Tried on the grids of CPUs (grids.py), which have up to twice the steps of GPUs', so that clipping buys less there; and
on all samples of a small network, since a few show too little of what lies far out: on S8 grids and four samples every
trained task clipped too much. SQNR of the outputs in dB, the INT8 graph for CPUs run as written, biases corrected, 300
test scenes of trained tasks (benchmarks/tasks.py) and, below, seeded weights on synthetic samples:

                          minmax  percentile   S8, 4   U8, all
x3d_s-motion                39.7        39.9    38.2      39.6
cnn_gru-motion              44.4        44.8    44.3      44.4
chexnet-digits              34.2        34.1    33.4      34.5
r2plus1d_r18-motion         47.5        47.9    46.7      47.6
efficientnet_b0-digit       37.3        37.0    31.6      36.4
resnet18                    30.5        30.6    30.5      30.5
efficientnet_b0              6.1         9.0    11.3      11.0

One algorithm for all tensors is as good on most trained networks, and 2 to 5 dB worse where channels differ most.
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
        chosen[tensor] = proposed[min(scores, key=lambda name: scores[name])][tensor]
    return chosen


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
