"""Which clipping threshold each quantized tensor gets under `auto`: the one whose readers' outputs err least.

The histogram tells how well a threshold serves the values of a tensor; what counts is how well it serves the
convolutions and products that read it. So every threshold that some algorithm proposes is tried: the tensor is
quantized with it, each reader computes its output from that and from the float tensor, and the relative squared
errors are added up. One graph does all of it side by side, and only the sums leave it. Weights stay float here: their
rounding is the same whatever the threshold.

SQNR of the logits in dB, seeded weights, 16 synthetic samples of another seed, the INT8 graph run as written:

                  minmax  percentile    mse  entropy   auto
x3d_s              23.8      25.0      24.9    21.8    25.5
resnet50           23.2      23.6      23.8    23.5    23.7
efficientnet_b0    -2.8       2.2       5.2     7.6     7.4
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploy_compile import onnx_graph, session
from deploy_compile.results import Range
from deploy_compile.scales import LEVELS, scales

SAMPLES = 4  # of the calibration set, evenly spread: an error is a sum over many thousands of values of each
SAME = 0.01  # thresholds that differ by less than this share are tried once


def choose(
    model: onnx.ModelProto, proposed: Mapping[str, Mapping[str, Range]], files: Sequence[Path], threads: int
) -> dict[str, Range]:
    """Return the best proposed range of each tensor that INT8 heavy nodes read and that has more than one.

    `proposed` holds, by algorithm, the range of every tensor; `files` are the calibration samples, `.npz` of one each.
    """
    trials = _Trials(model)
    tried: dict[str, dict[str, list[tuple[str, str]]]] = {}  # tensor -> algorithm -> (error, energy) outputs
    for tensor, readers in onnx_graph.quantizable(model).items():
        ranges = _distinct({algorithm: found[tensor] for algorithm, found in proposed.items() if tensor in found})
        if len(ranges) > 1:
            tried[tensor] = {name: trials.add(tensor, seen.threshold, readers) for name, seen in ranges.items()}
    if not tried:
        return {}
    errors = trials.run(files[:: max(1, len(files) // SAMPLES)][:SAMPLES], threads)
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
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        del self.model.graph.output[:], self.model.graph.value_info[:]
        self.used = onnx_graph.taken(model)
        self.count = 0
        self.energies: dict[str, str] = {}  # a reader's output -> its sum of squares

    def add(self, tensor: str, threshold: float, readers: Sequence[onnx.NodeProto]) -> list[tuple[str, str]]:
        """Add one threshold of a tensor; return, for each reader, the outputs that hold error and energy."""
        scale = self._constant(scales(np.array(threshold), LEVELS))
        zero = self._constant(np.array(0, np.int8))
        inside = self._node("QuantizeLinear", [tensor, scale, zero])
        clipped = self._node("DequantizeLinear", [inside, scale, zero])
        return [self._reader(reader, tensor, clipped) for reader in readers]

    def _reader(self, reader: onnx.NodeProto, tensor: str, clipped: str) -> tuple[str, str]:
        again = onnx.NodeProto()
        again.CopyFrom(reader)
        again.name = self._name()
        again.input[:] = [clipped if name == tensor else name for name in reader.input]
        again.output[:] = [self._name()]
        self.model.graph.node.append(again)
        wanted = reader.output[0]
        if wanted not in self.energies:
            self.energies[wanted] = self._sum_of_squares(wanted)
        return self._sum_of_squares(self._node("Sub", [again.output[0], wanted])), self.energies[wanted]

    def _sum_of_squares(self, tensor: str) -> str:
        result = self._node("ReduceSumSquare", [tensor])
        self.model.graph.node[-1].attribute.append(helper.make_attribute("keepdims", 0))
        self.model.graph.output.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, []))
        return result

    def _name(self) -> str:
        self.count += 1
        return onnx_graph.unique(f"trial{self.count}", self.used)

    def _constant(self, values: np.ndarray) -> str:
        name = self._name()
        self.model.graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def _node(self, op: str, inputs: Sequence[str]) -> str:
        output = self._name()
        self.model.graph.node.append(helper.make_node(op, list(inputs), [output], self._name()))
        return output

    def run(self, files: Sequence[Path], threads: int) -> dict[str, float]:
        """Return every sum of squares, added up over the samples."""
        names = [value.name for value in self.model.graph.output]
        sums = np.zeros(len(names))
        with session.opened(self.model, threads) as opened:
            for file in files:
                with np.load(file, allow_pickle=False) as arrays:
                    sums += np.array(opened.run(names, dict(arrays)), np.float64)
        return dict(zip(names, sums.tolist(), strict=True))
