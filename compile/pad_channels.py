"""Channels around depthwise convolutions filled up to a multiple of 16: the same numbers, in whole vectors.

ONNX Runtime's depthwise kernels work on 8 or 16 channels at once, and slowly on what is left over: a value in X3D's
54 channels costs them 2.7 times what one in its 108 does. So the dense convolutions that make such channels make some
more, which are never read: their weights are zero, and so are those of the convolutions behind.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from deploy_compile.convolution import Array, Convolution, Writer, read, set_nodes
from deploy_compile.onnx_graph import Links, array, attribute, inferred, links

MULTIPLE = 16
MOST_GROWTH = 1.25  # more channels than this cost the dense convolutions more than the depthwise ones gain
# What keeps channels apart and finite values finite.
KEEPS = frozenset(
    {"Relu", "Sigmoid", "HardSwish", "HardSigmoid", "Tanh", "Add", "Mul", "GlobalAveragePool", "AveragePool", "MaxPool"}
)
Shapes = Mapping[str, Sequence[int | None]]


@dataclass(frozen=True)
class _Graph:
    known: Links
    shapes: Shapes
    outputs: frozenset[str]
    convolutions: Mapping[str, Convolution]  # by what they make


def pad_channels(model: onnx.ModelProto, ranks: Collection[int]) -> int:
    """Fill up, in place, the channels around depthwise convolutions of some ranks; return how many of those got more.

    Channels that a graph's input or output has, or that any other operator mixes or moves, are left alone.
    """
    known = links(model)
    convolutions = {node.output[0]: conv for node in model.graph.node if (conv := read(node, known)) is not None}
    shapes = {name: shape for name, (_, shape) in inferred(model).items()}
    graph = _Graph(known, shapes, frozenset(value.name for value in model.graph.output), convolutions)
    padded: set[str] = set()
    for tensor, conv in convolutions.items():
        whole = _whole(conv.outputs)
        pays = conv.depthwise and conv.weight.ndim in ranks and conv.outputs < whole <= MOST_GROWTH * conv.outputs
        if pays and tensor not in padded:
            padded |= _connected(graph, tensor)
    writer = Writer(model)
    for node in model.graph.node:
        if node.output[0] in convolutions and not padded.isdisjoint((node.input[0], node.output[0])):
            conv = _padded(convolutions[node.output[0]], node.input[0] in padded, node.output[0] in padded)
            writer.convolution(conv, node.input[0], node.name, node.output[0])
        else:
            writer.made.append(node)
    if padded:
        set_nodes(model, writer.made)
    return sum(convolutions[tensor].depthwise for tensor in padded & convolutions.keys())


def _whole(channels: int) -> int:
    return -(-channels // MULTIPLE) * MULTIPLE


def _padded(conv: Convolution, reads: bool, makes: bool) -> Convolution:
    """Return a convolution with more channels: on the side that it reads, that it makes, or both where depthwise."""
    if conv.depthwise:
        conv = replace(conv, group=_whole(conv.group))
    elif reads:
        conv = replace(conv, weight=_filled(conv.weight, _whole(conv.inputs), 1))
    if not makes:
        return conv
    size = _whole(conv.outputs)
    return replace(
        conv,
        weight=_filled(conv.weight, size, 0),
        scale=None if conv.scale is None else _filled(conv.scale, size, 0, 1),
        bias=None if conv.bias is None else _filled(conv.bias, size, 0),
    )


def _filled(values: Array, size: int, axis: int, value: float = 0) -> Array:
    more = [(0, size - length if at == axis else 0) for at, length in enumerate(values.shape)]
    return np.pad(values, more, constant_values=value)


def _connected(graph: _Graph, start: str) -> set[str]:
    """Return the tensors that have to get more channels where one does; none where one of them cannot."""
    found, waiting = {start}, [start]
    while waiting:
        tensor = waiting.pop()
        maker = graph.known.producers.get(tensor)
        if maker is None or tensor in graph.outputs:
            return set()
        for node in (maker, *graph.known.consumers.get(tensor, ())):
            others = _joined(graph, node, tensor)
            if others is None:
                return set()
            waiting += others - found
            found |= others
    return found


def _joined(graph: _Graph, node: onnx.NodeProto, tensor: str) -> set[str] | None:
    """Return which tensors of a node have the channels of `tensor`, one of them; None where it mixes or moves them."""
    conv = graph.convolutions.get(node.output[0])
    if conv is not None and conv.depthwise:
        return {node.input[0], node.output[0]}
    if conv is not None:
        return {tensor} if conv.group == 1 else None
    if len(node.output) > 1 or not (node.op_type in KEEPS or _is_spatial_mean(graph, node)):
        return None
    others = node.input[:1] if node.op_type == "ReduceMean" else node.input
    rest = [name for name in others if graph.shapes.get(name) != (1,) and graph.shapes.get(name) != ()]
    shapes = [graph.shapes.get(name, ()) for name in rest]
    whole = graph.shapes[tensor]
    if any(name in graph.known.constants or len(shape) != len(whole) for name, shape in zip(rest, shapes, strict=True)):
        return None
    if any(shape[1] not in (1, whole[1]) for shape in shapes):
        return None
    return {node.output[0], *(name for name, shape in zip(rest, shapes, strict=True) if shape[1] == whole[1])}


def _is_spatial_mean(graph: _Graph, node: onnx.NodeProto) -> bool:
    """Whether a node averages over axes behind the channels, and keeps them all."""
    if node.op_type != "ReduceMean" or attribute(node, "keepdims", 1) != 1 or len(node.input) != 2:
        return False
    axes, rank = graph.known.constants.get(node.input[1]), len(graph.shapes.get(node.input[0], ()))
    return axes is not None and rank > 0 and bool((array(axes) % rank > 1).all())
