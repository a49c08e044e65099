"""Networks over clips in two-dimensional operators: the same sums, by the kernels that ONNX Runtime has made fast.

Clips become frames (see `frames`), and

    Conv 1 x k x k        one Conv of the frames
    Conv t x k x k        one Conv of t neighbouring frames, side by side in the channels
    grouped t x k x k     the sum of t Convs, one for each place in time; in float only, since integers would round each
    pool 1 x k x k        the pool of the frames
    mean of everything    the mean of each frame, then of those
    elementwise, Concat   itself

where a convolution reads or made the clip; whatever else there is reads clips as before. What would lose more by the
transposes around it than it gains stays as it is: a float convolution that is alone among other operators, and sums
and quantized 1 x 1 x 1 whose clip has no frames yet. Sums over time end in another order, so answers agree up to
rounding. Heavy nodes keep their names; the parts of a sum are called `NODE/0`, `NODE/1`, ...
"""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from deploy_compile.convolution import Convolution, read, set_nodes
from deploy_compile.frames import CHANNELS, CLIP, TIME, Frames
from deploy_compile.onnx_graph import array, attribute

SPATIAL = CLIP - 2  # axes
SAME = frozenset(
    {"Relu", "Sigmoid", "HardSwish", "HardSigmoid", "LeakyRelu", "Tanh", "Erf", "Clip", "BatchNormalization"}
)
JOINING = frozenset({"Add", "Mul", "Sub", "Div"})
POOLS = frozenset({"MaxPool", "AveragePool"})


def lower(model: onnx.ModelProto, batch: int) -> dict[str, str]:
    """Rewrite, in place, convolutions of clips and what surrounds them, for one batch size.

    Return, by the name of each new tensor that holds nothing but values of a tensor of the graph and zeros, the name
    of that tensor: its quantization fits.
    """
    frames = Frames(model, batch)
    for node in model.graph.node:
        made = _lowered(frames, node) if len(node.output) == 1 and frames.is_clip(node.output[0]) else ""
        if made:
            frames.put(node.output[0], made)
        else:
            frames.restore(node.input)
            frames.writer.made.append(node)
    frames.restore(value.name for value in model.graph.output)
    if frames:
        set_nodes(model, frames.writer.made)
    return frames.origin


def _lowered(frames: Frames, node: onnx.NodeProto) -> str:
    """Write a node's form for frames and return what it makes; nothing where it has none."""
    if node.op_type == "Conv":
        conv = read(node, frames.known)
        return "" if conv is None else _convolution(frames, node, conv)
    if not any(name in frames for name in node.input):
        return ""
    inputs: list[str] = []
    if node.op_type in SAME and node.input[0] in frames:
        inputs = [frames.of(node.input[0]), *node.input[1:]]
    elif node.op_type in JOINING:
        inputs = [_operand(frames, name, node.output[0]) for name in node.input]
    elif node.op_type == "Concat" and attribute(node, "axis", 0) % CLIP == CHANNELS:
        inputs = [frames.of(name) for name in node.input if frames.is_clip(name)]
    if inputs:
        complete = len(inputs) == len(node.input) and "" not in inputs
        return frames.writer.node(node.op_type, inputs, node.name, **_attributes(node)) if complete else ""
    if _is_whole_mean(frames, node):
        return _mean(frames, node)
    return _pool(frames, node) if _is_pool_of_frames(node) and node.input[0] in frames else ""


def _convolution(frames: Frames, node: onnx.NodeProto, conv: Convolution) -> str:
    source, name, writer, quantizes = node.input[0], node.name, frames.writer, conv.scale is not None
    summed = conv.group > 1 and conv.kernel[0] > 1
    if not frames.is_clip(source) or (summed and quantizes):
        return ""
    if source not in frames and (summed or (set(conv.kernel) == {1} if quantizes else not _leads_on(frames, node))):
        return ""
    time, made = frames.shape(source)[TIME], frames.shape(node.output[0])[TIME]
    step, apart = conv.strides[0], conv.dilations[0]
    firsts = [place * apart - conv.begins[0] for place in range(conv.kernel[0])]
    # Which frames each place of the kernel sees; one that sees padding only has nothing to add.
    seen = {place: range(first, first + made * step, step) for place, first in enumerate(firsts)}
    seen = {place: times for place, times in seen.items() if any(0 <= at < time for at in times)}
    if not seen:
        return ""
    before = max(0, *(-times[0] for times in seen.values()))
    behind = max(0, *(times[-1] - time + 1 for times in seen.values()))
    parts = {place: frames.at(source, times, before, behind, quantizes) for place, times in seen.items()}
    weights = {place: conv.weight[:, :, place] for place in seen}
    flat = replace(
        conv,
        weight=weights[min(seen)],
        strides=conv.strides[1:],
        dilations=conv.dilations[1:],
        begins=conv.begins[1:],
        ends=conv.ends[1:],
    )
    if len(seen) == 1:
        return writer.convolution(flat, parts[min(seen)], name)
    if conv.group == 1:
        beside = frames.same(source, writer.node("Concat", list(parts.values()), f"{name}/beside", axis=1))
        return writer.convolution(replace(flat, weight=np.concatenate(list(weights.values()), axis=1)), beside, name)
    total = ""
    for place, part in parts.items():
        tap = replace(flat, weight=weights[place], bias=None if total else conv.bias)
        term = writer.convolution(tap, part, f"{name}/{place}")
        total = writer.node("Add", [total, term], f"{name}/{place}/sum") if total else term
    return total


def _leads_on(frames: Frames, node: onnx.NodeProto) -> bool:
    """Whether another convolution reads what a node makes, through nothing but what has a form for frames."""
    waiting, seen = [node.output[0]], set[str]()
    while waiting:
        name = waiting.pop()
        for reader in frames.known.consumers.get(name, ()):
            if reader.op_type == "Conv":
                return True
            in_frames = reader.op_type in SAME | JOINING | {"Concat"} or _is_pool_of_frames(reader)
            if in_frames and reader.output[0] not in seen:
                seen.add(reader.output[0])
                waiting.append(reader.output[0])
    return False


def _operand(frames: Frames, name: str, result: str) -> str:
    """Return what an elementwise node reads instead of `name`; nothing where it has no form for frames."""
    if name in frames.known.constants:
        values = array(frames.known.constants[name])
        per_channel = values.ndim in (CLIP - 1, CLIP) and values.size == values.shape[-CLIP + 1]
        if values.size > 1 and not per_channel:
            return ""
        return frames.writer.constant(f"{name}/frames", values.reshape(() if values.size == 1 else (-1, 1, 1)))
    if not frames.is_clip(name):
        return ""
    shape, wanted = frames.shape(name), frames.shape(result)
    if shape[0] != wanted[0]:
        return ""
    if shape[TIME] == wanted[TIME] or shape[0] == 1:
        return frames.of(name)
    repeats = frames.integers(f"{name}/repeats", [wanted[TIME], 1, 1, 1])
    return frames.same(name, frames.writer.node("Tile", [frames.of(name), repeats], f"{name}/repeated"))


def _is_pool_of_frames(node: onnx.NodeProto) -> bool:
    if node.op_type not in POOLS:
        return False
    found = _attributes(node)
    pads, strides = found.get("pads", [0] * 2 * SPATIAL), found.get("strides", [1] * SPATIAL)
    in_time = (found["kernel_shape"][0], strides[0], pads[0], pads[len(pads) // 2]) != (1, 1, 0, 0)
    return not in_time and found.get("auto_pad", b"NOTSET") == b"NOTSET"


def _pool(frames: Frames, node: onnx.NodeProto) -> str:
    found = _attributes(node)
    for name in ("kernel_shape", "strides", "dilations"):
        found |= {name: found[name][1:]} if name in found else {}
    if "pads" in found:
        found["pads"] = [*found["pads"][1:SPATIAL], *found["pads"][SPATIAL + 1 :]]
    return frames.writer.node(node.op_type, [frames.of(node.input[0])], node.name, **found)


def _is_whole_mean(frames: Frames, node: onnx.NodeProto) -> bool:
    """Whether a node averages all values of each channel of a clip."""
    before, after = frames.shapes.get(node.input[0], ()), frames.shapes[node.output[0]]
    if len(before) != CLIP or after != (*before[:2], 1, 1, 1):
        return False
    if node.op_type == "AveragePool":
        found = _attributes(node)
        return tuple(found["kernel_shape"]) == before[2:] and not any(found.get("pads", ()))
    return node.op_type in ("GlobalAveragePool", "ReduceMean")


def _mean(frames: Frames, node: onnx.NodeProto) -> str:
    batch, channels, time, *_ = frames.shape(node.input[0])
    means = frames.writer.node("GlobalAveragePool", [frames.of(node.input[0])], f"{node.name}/of_frames")
    if time == 1:
        return means
    moments = frames.reshaped(means, (time, batch * channels), f"{node.name}/moments")
    axes = frames.integers(f"{node.name}/axes", [0])
    whole = frames.writer.node("ReduceMean", [moments, axes], node.name, keepdims=1)
    return frames.reshaped(whole, (batch, channels, 1, 1), f"{node.name}/frames")


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
