"""The first convolution of a quantized graph over blocks of 2 x 2 pixels: the same sums, from four times the channels.

ONNX Runtime's integer convolutions gather each window's values channel by channel, which is slow where a pixel has
three: without this ResNet-18 takes 1.08 times as long (docs/passes.md). With stride 2 every window begins at a block of
2 x 2 pixels, so that SpaceToDepth makes 12 channels of the picture, at a quarter of the places, and the window of 7 x 7
pixels is one of 4 x 4 blocks, some of whose weights are zero.

Promise: quantized answers are the same integers. Only where a picture comes from outside and nothing but its axes was
moved: then it is quantized behind SpaceToDepth, which takes floats as fast as bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from deploy_compile.convolution import Array, Convolution, Writer, read, set_nodes
from deploy_compile.onnx_graph import VIEWS, behind, inferred, links

STRIDE = 2
MOST_CHANNELS = 4  # of a picture; more gain nothing


def fold_strides(model: onnx.ModelProto) -> Mapping[str, str]:
    """Rewrite such convolutions in place; return, for each new tensor of blocks, the picture whose values it holds."""
    known, writer = links(model), Writer(model)
    shapes = {name: shape for name, (_, shape) in inferred(model).items()}
    given = {value.name for value in model.graph.input}
    blocks: dict[str, str] = {}  # picture -> its blocks
    for node in model.graph.node:
        conv = read(node, known)
        folded = None if conv is None else _folded(conv, shapes.get(node.input[0], ()))
        if folded is None or behind(node.input[0], known.producers, VIEWS) not in given:
            writer.made.append(node)
            continue
        picture = node.input[0]
        if picture not in blocks:
            blocks[picture] = writer.node("SpaceToDepth", [picture], f"{picture}/blocks", blocksize=STRIDE)
        writer.convolution(folded, blocks[picture], node.name, node.output[0])
    if blocks:
        set_nodes(model, writer.made)
    return {made: picture for picture, made in blocks.items()}


def _folded(conv: Convolution, shape: Sequence[int | None]) -> Convolution | None:
    """Return the same convolution over blocks, or None where it is not one that gains."""
    size = [length for length in shape[2:] if length is not None and length % STRIDE == 0]
    plain = conv.group == 1 and conv.strides == (STRIDE, STRIDE) and set(conv.dilations) == {1}
    if not plain or conv.scale is None or conv.inputs > MOST_CHANNELS or len(size) != len(conv.strides):
        return None
    axes = [_over_blocks(*axis) for axis in zip(size, conv.kernel, conv.begins, conv.ends, strict=True)]
    if any(end < 0 for *_, end in axes):
        return None
    (tall, top, bottom), (wide, left, right) = axes
    return replace(
        conv,
        weight=_blocks(conv.weight, (tall, wide), conv.begins, (top, left)),
        strides=(1, 1),
        begins=(top, left),
        ends=(bottom, right),
    )


def _over_blocks(length: int, kernel: int, begin: int, end: int) -> tuple[int, int, int]:
    """Return, along one axis, the window in blocks and the padding before and behind, which may come out negative."""
    first, last = -begin // STRIDE, (kernel - 1 - begin) // STRIDE  # blocks, from the one where a window is said to be
    window, places = last - first + 1, (length + begin + end - kernel) // STRIDE + 1
    return window, -first, places - length // STRIDE + first + window - 1


def _blocks(weight: Array, window: tuple[int, int], begins: Sequence[int], first: tuple[int, int]) -> Array:
    """Return weights [outputs, 4 · inputs, *window], channels in the order of SpaceToDepth: row, column, channel."""
    outputs, inputs, tall, wide = weight.shape
    made = np.zeros((outputs, STRIDE, STRIDE, inputs, *window), weight.dtype)
    for y in range(tall):
        for x in range(wide):
            (row, v), (column, h) = divmod(y - begins[0], STRIDE), divmod(x - begins[1], STRIDE)
            made[:, v, h, :, row + first[0], column + first[1]] = weight[:, :, y, x]
    return made.reshape(outputs, STRIDE * STRIDE * inputs, *window)
