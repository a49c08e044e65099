"""Quantize: write the INT8 graph, Q/DQ around every heavy node: symmetric S8S8, or with U8 activations for CPUs.

Promise: activations per tensor in int8 with zero point 0, or on CPUs in uint8 where `grids` says that it spans their
range better; one Q -> DQ pair a tensor, shared by the heavy nodes that read it; weights as int8 initializers with a
per-channel DQ; bias (corrected where that helps, see correct.py) and every other node in float but, where asked for,
sums of residuals (join.py); every heavy node is quantized or listed in `kept_float` with its reason; in the form for
GPUs, scales that fp16 holds exactly (scales.py).

Ours and not ONNX Runtime's `quantize_static`: its defaults are refused by the TensorRT parser (int32 bias behind a DQ,
non-zero zero points), it quantizes Softmax and Sigmoid, its `Entropy` equals `MinMax`, its scales are not fp16-exact,
and it would run the calibration again.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from deploy_compile import biases, keep, onnx_graph
from deploy_compile.grids import grid
from deploy_compile.results import Form, Graph
from deploy_compile.results_int8 import Range, Ranges
from deploy_compile.scales import DENSE_LEVELS, LEVELS, quantized, scales
from deploy_recipes.recipe import Keep

# Why a product of two activations stays float: 4 to 17 dB for peaked attention in ViT-B and RAD-DINO (its softmax @ v),
# and no engine is faster for it (1.0x on OpenVINO; TensorRT's fused attention is fp16).
ATTENTION = "a product of two activations, as in attention: most softmax values are smaller than one INT8 step"


def quantize(
    out: Path,
    graph: Graph,
    ranges: Ranges,
    keep_float: Sequence[Keep],
    form: Form = "",
    means: Path | None = None,
    sums: Collection[str] = (),
) -> Graph:
    """Write `int8.onnx` into `out` from the fp32 graph and its ranges, in the form that GPUs or that CPUs take.

    `means` (`biases.read`) are taken out of the biases of the nodes that are quantized: see correct.py. `sums` names
    Adds whose operands are quantized too. Raises DeployError where a glob of `keep_float` names no heavy node.
    """
    model = onnx_graph.load(graph.path)
    heavy = onnx_graph.heavy_nodes(model)
    kept = keep.kept(heavy, keep_float, "keep_float", "convolution, matmul or gemm")
    links = onnx_graph.links(model)
    for node in heavy:
        if node.name not in kept and (reason := _refusal(node, links, ranges.tensors)):
            kept[node.name] = reason
    writer = _Writer(model, links, ranges.tensors, form)
    for name, mean in biases.read(means).items() if means else ():
        if name not in kept:
            writer.correct(next(node for node in heavy if node.name == name), mean)
    writer.part_biases(heavy)
    chosen = {node.name for node in heavy if node.name not in kept}.union(sums)
    for node in model.graph.node:
        if node.name in chosen:
            writer.quantize(node)
    writer.finish()
    path = onnx_graph.save(model, out / "int8.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    done = len(heavy) - len(kept)
    result = Graph(path, "int8", len(model.graph.node), len(heavy), done, kept, form)
    _check(model, result, writer)
    return result


def _refusal(node: onnx.NodeProto, links: onnx_graph.Links, ranges: Mapping[str, Range]) -> str:
    """Say why a node is not quantized, or nothing."""
    data = node.input[: onnx_graph.DATA_INPUTS]
    if all(name in links.constants for name in data):
        return "both of its inputs are constants"
    if not any(name in links.constants for name in data):
        return ATTENTION
    reasons = (
        _weight_refusal(onnx_graph.array(links.constants[name]))
        if name in links.constants
        else _range_refusal(ranges.get(name))
        for name in data
    )
    return next((f"its input {name} {reason}" for name, reason in zip(data, reasons, strict=True) if reason), "")


def _weight_refusal(weight: np.ndarray) -> str:
    if weight.dtype != np.float32:
        return f"is {weight.dtype}, not float32"
    largest = np.abs(weight).max(initial=0.0)
    return "" if np.isfinite(scales(largest, DENSE_LEVELS)) else f"reaches {largest:.3g}, too large for an fp16 scale"


def _range_refusal(seen: Range | None) -> str:
    if seen is None:
        return "is not float32"
    if seen.threshold == 0.0:
        return "was zero in every calibration sample"
    wide = not np.isfinite(scales(np.array(seen.threshold), LEVELS))
    return f"reaches {seen.threshold:.3g}, too large for an fp16 scale" if wide else ""


def channel_axis(node: onnx.NodeProto, position: int, rank: int) -> int:
    """Return the axis of a weight that runs over output channels: `position` is its place among the node's inputs."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        transposed = onnx_graph.attribute(node, "transB" if position else "transA", 0)
        return (1 - transposed) if position else transposed
    return rank - 1 if position else max(rank - 2, 0)


def depthwise(node: onnx.NodeProto, weight: np.ndarray) -> bool:
    """Whether a convolution has one input channel a group, so that no products of two channels are summed in pairs."""
    return node.op_type == "Conv" and onnx_graph.attribute(node, "group", 1) > 1 and weight.shape[1] == 1


class _Writer:
    """Adds Q and DQ nodes to a model, one pair a tensor; new nodes stand right before their first reader."""

    def __init__(
        self, model: onnx.ModelProto, links: onnx_graph.Links, ranges: Mapping[str, Range], form: Form
    ) -> None:
        self.model, self.links, self.ranges, self.form = model, links, ranges, form
        self.used = onnx_graph.taken(model)
        self.made: dict[tuple[str, int], str] = {}  # (tensor, axis; -1 for activations) -> its DQ output
        self.before: dict[str, list[onnx.NodeProto]] = {}
        self.pairs = 0

    def correct(self, node: onnx.NodeProto, mean: np.ndarray) -> None:
        """Take a mean [channels] out of a heavy node's bias, or give it one."""
        place = biases.place(node, self.links)
        if place is None:
            raise ValueError(f"{node.name} has no bias to correct")
        own = 0.0 if place.values is None else place.values
        name = self._constant(f"{node.name}/bias", np.asarray(own - mean, np.float32))
        if len(place.node.input) == place.position:
            place.node.input.append(name)
        else:
            place.node.input[place.position] = name

    def part_biases(self, heavy: Sequence[onnx.NodeProto]) -> None:
        """Give every heavy node a bias of its own: OpenVINO computes convolutions that share one in float."""
        seen: set[str] = set()
        for node in heavy:
            for position, name in enumerate(node.input[onnx_graph.DATA_INPUTS :], onnx_graph.DATA_INPUTS):
                if name in seen and name in self.links.constants:
                    node.input[position] = self._constant(name, onnx_graph.array(self.links.constants[name]))
                seen.add(name)

    def quantize(self, node: onnx.NodeProto) -> None:
        """Give a heavy node, or a sum, quantized data inputs. Nodes come in graph order."""
        for position, name in enumerate(node.input[: onnx_graph.DATA_INPUTS]):
            if name in self.links.constants:
                weight = onnx_graph.array(self.links.constants[name])
                axis = channel_axis(node, position, weight.ndim)
                if (name, axis) not in self.made:
                    self.made[name, axis] = self._weight(name, weight, axis, node)
            else:
                axis = -1
                if (name, axis) not in self.made:
                    self.made[name, axis] = self._activation(name, node)
            node.input[position] = self.made[name, axis]

    def _activation(self, name: str, reader: onnx.NodeProto) -> str:
        own = grid(self.ranges[name])
        if self.form == "cpu" and not own.symmetric:
            scale = self._constant(f"{name}_scale", np.array(own.scale, np.float32))
            zero = self._constant(f"{name}_zero_point", np.array(own.zero, np.uint8))
        else:
            scale = self._constant(f"{name}_scale", scales(np.array(self.ranges[name].threshold), LEVELS))
            zero = self._constant(f"{name}_zero_point", np.array(0, np.int8))
        inside = self._node("QuantizeLinear", [name, scale, zero], f"{name}_quantized", reader)
        self.pairs += 1
        return self._node("DequantizeLinear", [inside, scale, zero], f"{name}_dequantized", reader)

    def _weight(self, name: str, weight: np.ndarray, axis: int, reader: onnx.NodeProto) -> str:
        others = tuple(i for i in range(weight.ndim) if i != axis)
        levels = LEVELS if depthwise(reader, weight) else DENSE_LEVELS
        scale = scales(np.abs(weight).max(axis=others, initial=0.0), levels)
        inputs = [
            self._constant(f"{name}_quantized", quantized(weight, scale, axis)),
            self._constant(f"{name}_scale", scale),
            self._constant(f"{name}_zero_point", np.zeros(scale.shape, np.int8)),
        ]
        return self._node("DequantizeLinear", inputs, f"{name}_dequantized", reader, axis=axis)

    def _constant(self, name: str, values: np.ndarray) -> str:
        name = onnx_graph.unique(name, self.used)
        self.model.graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def _node(
        self, op: str, inputs: Sequence[str], output: str, reader: onnx.NodeProto, axis: int | None = None
    ) -> str:
        output = onnx_graph.unique(output, self.used)
        name = onnx_graph.unique(f"{output}/{op}", self.used)
        made = helper.make_node(op, list(inputs), [output], name)
        if axis is not None:
            made.attribute.append(helper.make_attribute("axis", axis))
        self.before.setdefault(reader.name, []).append(made)
        return output

    def finish(self) -> None:
        """Put the new nodes in their places and drop the float weights that nobody reads any more."""
        nodes = [made for node in self.model.graph.node for made in (*self.before.get(node.name, ()), node)]
        read = {name for node in nodes for name in node.input} | {value.name for value in self.model.graph.output}
        nodes = [node for node in nodes if node.op_type != "Constant" or node.output[0] in read]
        weights = [tensor for tensor in self.model.graph.initializer if tensor.name in read]
        del self.model.graph.node[:]
        self.model.graph.node.extend(nodes)
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend(weights)


def _check(model: onnx.ModelProto, result: Graph, writer: _Writer) -> None:
    """Raise ValueError where the written graph is not what this stage promises."""
    made = {output: node.op_type for node in model.graph.node for output in node.output}
    ops = list(made.values())
    if (ops.count("QuantizeLinear"), ops.count("DequantizeLinear")) != (writer.pairs, len(writer.made)):
        raise ValueError("the INT8 graph has another number of Q and DQ nodes than were written")
    for node in onnx_graph.heavy_nodes(model):
        whole = all(made.get(name) == "DequantizeLinear" for name in node.input[: onnx_graph.DATA_INPUTS])
        if whole == (node.name in result.kept_float):
            raise ValueError(f"{node.name} is neither quantized nor kept float")
