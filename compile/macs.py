"""Count multiply-adds: how much of a graph's work each heavy node does, at batch 1.

What is counted is what the definition of the operator multiplies, padding included, as published figures do (resnet50
4.09 G, x3d_s 1.96 G at 13 x 160 x 160). Only the graph file is read, not its external weights.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from deploy_compile import onnx_graph

# A graph run as it is written, Q/DQ pairs and all: EfficientNet-B5 over 16 frames of 224 pixels takes 2.7 times as long
# for each multiply-add as ResNet-50 does.
MOVED = 60
Shapes = Mapping[str, tuple[int, tuple[int | None, ...]]]


def macs(graph: Path) -> dict[str, int]:
    """Return the multiply-adds of each heavy node of the main graph, by node name, at batch 1.

    Raises ValueError where a shape cannot be inferred.
    """
    nodes, shapes = _read(graph)
    return {node.name: _count(node, shapes) for node in nodes}


def cost(graph: Path) -> int:
    """Return what a run as written takes, in multiply-adds: those of the heavy nodes, and MOVED for each value moved.

    Depthwise networks wait for memory more than for arithmetic.
    """
    nodes, shapes = _read(graph)
    return sum(
        _count(node, shapes) + MOVED * sum(math.prod(_dims(name, shapes)) for name in (node.input[0], node.output[0]))
        for node in nodes
    )


def affordable(graph: Path, budget: float, least: int, most: int) -> int:
    """Return how many samples a budget allows (multiply-adds, see `cost`), between `least` and `most`."""
    return min(most, max(least, int(budget // max(1, cost(graph)))))


def _read(graph: Path) -> tuple[Sequence[onnx.NodeProto], Shapes]:
    """Return the heavy nodes of an ONNX file and every tensor's shape at batch 1."""
    model = onnx.load(graph, load_external_data=False)
    return onnx_graph.heavy_nodes(model), onnx_graph.inferred(model, batch=1)


def _count(node: onnx.NodeProto, shapes: Shapes) -> int:
    first, second = _dims(node.input[0], shapes), _dims(node.input[1], shapes)
    result = _dims(node.output[0], shapes)
    if node.op_type == "Conv":  # weight [out, in / group, *kernel]: each output value sums in / group · kernel products
        return math.prod(result) * math.prod(second[1:])
    if (
        node.op_type == "ConvTranspose"
    ):  # weight [in, out / group, *kernel]: each input value feeds out / group · kernel
        return math.prod(first) * math.prod(second[1:])
    if node.op_type == "Gemm":
        transposed = onnx_graph.attribute(node, "transA", 0)
        return math.prod(result) * first[0 if transposed else 1]
    return math.prod(result) * first[-1]


def _dims(name: str, shapes: Shapes) -> tuple[int, ...]:
    dims = shapes[name][1] if name in shapes else (None,)
    if any(dim is None for dim in dims):
        raise ValueError(f"the shape of {name} is open at batch 1: {dims}")
    return tuple(dim for dim in dims if dim is not None)
