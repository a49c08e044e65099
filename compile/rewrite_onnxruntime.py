"""The INT8 graph in the form that ONNX Runtime runs fast, within the same calibration.

ONNX Runtime computes a convolution in integers only where its input, weights *and output* are quantized and all
tensors between integer operators pass through one Q/DQ pair; and on an x86 processor its kernels for S8 activations
are several times slower than those for U8. So this pass takes the graph apart, lowers what is left for this processor
(`lower_onnxruntime`, exactly: what only moves has the quantization of what it was moved from), and quantizes again:

1. Activations that heavy nodes read keep their grid; S8 with zero point 0 moves to U8 with 128: the same arithmetic.
2. The outputs of quantized convolutions, behind the Relu that follows, are quantized by their own calibrated range.
3. So are the results of Add, Mul, Sigmoid, Relu and global pooling whose operands are all quantized by then; a mean
   over all positions, in one step or two (`split_means`), is written as the global pooling that it is.
4. The bias of a Gemm becomes an INT32 constant in units of input scale times weight scale, which its integer kernel
   asks for (rounding below 1/2 of such a unit; for convolutions ONNX Runtime does that itself).
5. Operators that only move values (MaxPool, Reshape, Flatten, Transpose, Squeeze, Unsqueeze) pass a quantization on
   unchanged, from whichever side has one.
6. What a Softmax gives is quantized over 0 to 1 whatever calibration saw: its integer kernel (1.31) starts again at 0
   above the largest value instead of staying there.

On other processors the same is done with S8 (every zero point 128 lower). Graph outputs stay float. The traps: a
tensor that one consumer reads in float keeps its producer float, so every consumer reads behind the pair; rules 2 and
3 round where the graph did not, so the result is judged by parity, not by being exact; and where the
processor has no VNNI, sums of two U8 x S8 products saturate unless weights keep within 63 levels (see `scales`).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from deploy_compile.convolution import set_nodes
from deploy_compile.grids import MIDDLE, UNSIGNED_STEPS, Grid, grid
from deploy_compile.lower_onnxruntime import lower_for_cpu
from deploy_compile.onnx_graph import VIEWS, array, drop_unread, inferred, links, load, save, taken, unique
from deploy_compile.results_int8 import Range, Ranges
from deploy_runtime.spec import Batch

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
POINTWISE = frozenset({"Add", "Mul", "Sigmoid", "Relu", "GlobalAveragePool"})
MOVERS = VIEWS | {"MaxPool"}


def rewrite(
    source: Path, destination: Path, ranges: Ranges, *, unsigned: bool = True, batch: Batch | None = None
) -> Path:
    """Write the form of the quantized graph `source` that ONNX Runtime runs fast to `destination` and return it.

    `ranges` are those of the fp32 graph's tensors; `unsigned` is right for x86. With `batch`, what the engine serves,
    the graph is lowered for such a processor.
    Raises ValueError for a graph whose activations are not 8 bits wide.
    """
    model, seen = load(source), dict(ranges.tensors)
    grids = _strip(model.graph)
    _pool_means(model)
    if batch is not None:
        outputs = {value.name for value in model.graph.output}  # they stay float, and so does what becomes one
        for new, old in lower_for_cpu(model, batch, quantized=True).origin.items():
            grids |= {new: grids[old]} if old in grids else {}
            seen |= {new: seen[old]} if old in seen and old not in outputs else {}
        _quantize_blocks(model, grids)
    _pass_back(model.graph, grids)
    _spread(model, grids, seen)
    _hold_probabilities(model.graph, grids)
    _quantize_biases(model, grids)
    _insert(model, grids, np.uint8 if unsigned else np.int8)
    del model.graph.value_info[:]  # they tell the types of tensors that are gone
    path = save(model, destination)
    onnx.checker.check_model(str(path))
    return path


def _strip(graph: onnx.GraphProto) -> dict[str, Grid]:
    """Take every activation's Q/DQ pair out; return the grid of each tensor that had one."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    quantizers = {n.output[0]: n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] not in constants}
    grids: dict[str, Grid] = {}
    behind: dict[str, str] = {}
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in quantizers:
            continue
        tensor, scale, zero = quantizers[node.input[0]].input
        at = array(constants[zero])
        if at.size != 1 or at.dtype not in (np.int8, np.uint8):
            raise ValueError(f"the quantization of {tensor} is not 8 bits wide with one zero point")
        behind[node.output[0]] = tensor
        moved = MIDDLE if at.dtype == np.int8 else 0
        grids[tensor] = Grid(float(array(constants[scale])), int(at.item()) + moved)
    kept = [node for node in graph.node if node.output[0] not in behind and node.output[0] not in quantizers]
    for node in kept:
        node.input[:] = [behind.get(name, name) for name in node.input]
    del graph.node[:]
    graph.node.extend(kept)
    return grids


def _pool_means(model: onnx.ModelProto) -> None:
    """Write a ReduceMean over all axes behind the channels as GlobalAveragePool, which has an integer kernel."""
    known = links(model)
    shapes, joined = inferred(model), False
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in known.constants:
            continue
        rank = len(shapes[node.input[0]][1]) if node.input[0] in shapes else 0
        axes = sorted(int(axis) % rank for axis in array(known.constants[node.input[1]])) if rank > 2 else []
        keeps = all(a.i == 1 for a in node.attribute if a.name == "keepdims")
        if axes == list(range(2, rank)) and keeps and axes:
            node.op_type = "GlobalAveragePool"
            del node.input[1:], node.attribute[:]
            parts = known.producers.get(node.input[0])
            if parts is not None and _averages_slices(parts, shapes):
                node.input[0], joined = parts.input[0], True
    if joined:
        set_nodes(model, list(model.graph.node))


def _averages_slices(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, tuple[int | None, ...]]]) -> bool:
    """Whether a pool averages all but the first spatial axis, so that it has the mean of what it was given."""
    lists = {item.name: tuple(item.ints) for item in node.attribute}
    size = shapes[node.input[0]][1][2:] if node.input[0] in shapes else ()
    plain = not any(lists.get("pads", ())) and lists.get("strides", (1,))[0] == 1 and "dilations" not in lists
    return node.op_type == "AveragePool" and plain and bool(size) and lists.get("kernel_shape") == (1, *size[1:])


def _quantize_blocks(model: onnx.ModelProto, grids: dict[str, Grid]) -> None:
    """Leave a picture float that is read in blocks only: they are quantized, and once is enough."""
    known = links(model)
    for node in model.graph.node:
        if node.op_type == "SpaceToDepth" and node.output[0] in grids and len(known.consumers[node.input[0]]) == 1:
            grids.pop(node.input[0], None)


def _pass_back(graph: onnx.GraphProto, grids: dict[str, Grid]) -> None:
    """Give the inputs of operators that only move values the quantization of their outputs."""
    for node in reversed(graph.node):
        if node.op_type in MOVERS and node.output[0] in grids:
            grids.setdefault(node.input[0], grids[node.output[0]])


def _spread(model: onnx.ModelProto, grids: dict[str, Grid], ranges: Mapping[str, Range]) -> None:
    """Quantize what follows: rules 2, 3 and 5 of the module, in graph order."""
    known = links(model)
    outputs = {value.name for value in model.graph.output}

    def quantized(name: str) -> bool:
        producer = known.producers.get(name)
        return name in grids or (producer is not None and producer.op_type == "DequantizeLinear")

    for node in model.graph.node:
        operands = [name for name in node.input if name]
        if node.op_type in MOVERS and operands[0] in grids and node.output[0] not in outputs:
            grids.setdefault(node.output[0], grids[operands[0]])
        convolves = node.op_type in CONVOLUTIONS and all(map(quantized, operands[:2]))
        if not convolves and not (node.op_type in POINTWISE and all(map(quantized, operands))):
            continue
        readers = known.consumers.get(node.output[0], ())
        before_relu = len(readers) == 1 and readers[0].op_type == "Relu" and node.output[0] not in outputs
        tensor = readers[0].output[0] if before_relu else node.output[0]
        if tensor not in outputs and tensor not in grids and tensor in ranges:  # it is not where lowering summed anew
            grids[tensor] = grid(ranges[tensor], before_relu or node.op_type == "Relu")


def _hold_probabilities(graph: onnx.GraphProto, grids: dict[str, Grid]) -> None:
    """Let the results of a Softmax reach 1: rule 6 of the module."""
    for node in graph.node:
        if node.op_type == "Softmax" and node.output[0] in grids:
            grids[node.output[0]] = Grid(1 / UNSIGNED_STEPS, 0)


def _quantize_biases(model: onnx.ModelProto, grids: Mapping[str, Grid]) -> None:
    """Write the float bias of every quantized Gemm as a dequantized INT32 constant: rule 4."""
    known, names, graph = links(model), taken(model), model.graph
    for place, node in reversed(list(enumerate(graph.node))):
        if node.op_type != "Gemm" or len(node.input) < 3 or node.input[0] not in grids:
            continue
        weights = known.producers.get(node.input[1])
        if weights is None or node.input[2] not in known.constants:
            continue
        bias = array(known.constants[node.input[2]])
        unit = np.atleast_1d(grids[node.input[0]].scale * array(known.constants[weights.input[1]]).astype(np.float64))
        limits = np.iinfo(np.int32)
        values = np.clip(np.rint(bias / unit), limits.min, limits.max).astype(np.int32)
        if values.shape != np.broadcast_shapes(values.shape, unit.shape) or values.ndim != 1:
            continue
        constant, scale, zero, out = (
            unique(f"{node.input[2]}_{what}", names) for what in ("q", "unit", "origin", "dq")
        )
        for name, value in (
            (constant, values),
            (scale, np.broadcast_to(unit, values.shape).astype(np.float32)),
            (zero, np.zeros(values.shape, np.int32)),
        ):
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        graph.node.insert(place, helper.make_node("DequantizeLinear", [constant, scale, zero], [out], out, axis=0))
        node.input[2] = out


def _insert(model: onnx.ModelProto, grids: Mapping[str, Grid], kind: type[np.uint8] | type[np.int8]) -> None:
    """Put a Q/DQ pair behind the producer of every tensor that has a grid; all its consumers read from there."""
    graph, names = model.graph, taken(model)
    lowest = 0 if kind is np.uint8 else MIDDLE
    behind = {tensor: unique(f"{tensor}_dequantized", names) for tensor in grids}
    inner = [node for node in graph.node]  # noqa: C416 - a copy, since the graph's own list is emptied below
    del graph.node[:]

    def pair(tensor: str) -> None:
        scale, zero, middle = (unique(f"{tensor}_{what}", names) for what in ("scale", "zero", "quantized"))
        at = grids[tensor]
        graph.initializer.append(numpy_helper.from_array(np.array(at.scale, np.float32), scale))
        graph.initializer.append(numpy_helper.from_array(np.array(at.zero - lowest, kind), zero))
        graph.node.append(
            helper.make_node("QuantizeLinear", [tensor, scale, zero], [middle], unique(f"{tensor}_Q", names))
        )
        graph.node.append(
            helper.make_node("DequantizeLinear", [middle, scale, zero], [behind[tensor]], unique(f"{tensor}_DQ", names))
        )

    for value in graph.input:
        if value.name in grids:
            pair(value.name)
    for node in inner:
        node.input[:] = [behind.get(name, name) for name in node.input]
        graph.node.append(node)
        for tensor in node.output:
            if tensor in grids:
                pair(tensor)
    drop_unread(graph)
