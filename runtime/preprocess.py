"""8-bit frames to the array that the network was trained on, in numpy: sample, resize, crop, normalise, lay out.

With `antialias` the resize is Pillow's (what torchvision's Resize does to images: a triangle filter as wide as the
shrinking, rounded to grey levels). Without, it is PyTorch's `interpolate(align_corners=False)`, which
pytorchvideo's ShortSideScale uses on floats. Both agree with the original to one grey level. The trap: they are
far apart where a frame shrinks much, and a network notices.

Only what the crop shows is computed, one frame at a time, so a long film needs the memory of its result and one frame.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deploy_runtime.errors import DeployError
from deploy_runtime.spec import Preprocess, Tensor

Array = np.ndarray[Any, Any]

WHITE = 255.0  # the largest value of 8 bits
PILLOW_CUBIC, TORCH_CUBIC = -0.5, -0.75  # the free coefficient of their bicubic filters
LUMA = (299, 587, 114)  # thousandths of red, green, blue in a grey level: ITU-R 601-2, as Pillow converts


def prepare_inputs(frames: Array | Mapping[str, Array], how: Preprocess, inputs: Sequence[Tensor]) -> dict[str, Array]:
    """Turn one sample into the arrays of every input, by name, each without its batch axis.

    `frames` is what the one input is made from, or, where each input is an image of its own (a pair), a mapping of
    them by input name. A network of several pathways takes one clip. Raises DeployError as `prepare` does, and where
    one image is given and several are needed.
    """
    names = [tensor.name for tensor in inputs]
    if isinstance(frames, Mapping):
        if set(frames) != set(names):
            raise DeployError(
                f"the frames are {', '.join(map(str, frames)) or 'none'} instead of {', '.join(names)}",
                f"Give a dictionary with exactly {', '.join(names)}.",
            )
        return {name: prepare(frames[name], how) for name in names}
    if how.pathways:
        clip = prepare(frames, how)
        axis = how.layout.index("T")
        return {
            name: np.ascontiguousarray(clip.take(sample_uniformly(clip.shape[axis], how.pathways[name]), axis))
            for name in names
        }
    if len(names) > 1:
        raise DeployError(
            f"one image is given and the network compares {len(names)}: {', '.join(names)}",
            f"Give a dictionary of frames by name: {{{', '.join(repr(name) + ': ...' for name in names)}}}.",
        )
    return {names[0]: prepare(frames, how)}


def prepare(frames: Array, how: Preprocess) -> Array:
    """Turn one sample into a float32 array in `how.layout`, without its batch axis.

    `frames` is uint8: an image [H, W, 3] (or grey [H, W]), or for a video network [T, H, W, 3], RGB, first frame first.
    Raises DeployError for anything else, and for frames that the crop does not fit into.
    """
    video = _checked(frames, how)
    chosen = np.arange(len(video)) if how.frames is None else sample_uniformly(len(video), how.frames)
    rows, columns = _windows(video.shape[1], video.shape[2], how)
    mean, std = (np.asarray(one, np.float32).reshape(-1, 1, 1) for one in (how.mean, how.std))
    out = np.empty((len(chosen), len(how.mean), *how.crop), np.float32)
    last = -1
    for i, frame in enumerate(chosen):
        if frame == last:  # a film shorter than the network's: the same frame again
            out[i] = out[i - 1]
            continue
        pixels = _resized(video[frame], rows, columns, how.antialias)
        out[i] = (pixels / WHITE - mean) / std
        last = frame
    if how.layout == "CHW":
        return np.asarray(out[0])
    return out if how.layout == "TCHW" else np.ascontiguousarray(out.transpose(1, 0, 2, 3))


def sample_uniformly(total: int, wanted: int) -> Array:
    """Return `wanted` of `total` frame numbers, evenly spread from the first to the last.

    pytorchvideo's `uniform_temporal_subsample`: torch.linspace cut to whole numbers. It rounds to float32 once (a fused
    multiply-add), counted from the nearer end, and so does this: another rounding takes other frames now and then.
    """
    if wanted == 1:
        return np.zeros(1, np.int64)
    step, index = np.float64(np.float32(total - 1) / np.float32(wanted - 1)), np.arange(wanted)
    places = np.where(index < wanted // 2, step * index, (total - 1) - step * (wanted - 1 - index))
    return np.asarray(np.clip(places.astype(np.float32), 0, total - 1), np.int64)


def weights(source: int, target: int, antialias: bool, interpolation: str = "bilinear") -> Array:
    """Return the [target, source] matrix, float32, that resizes one axis; each row sums to one.

    Bicubic is Pillow's with `antialias` (a = -0.5) and PyTorch's without (a = -0.75).
    """
    scale = source / target
    width = max(scale, 1.0) if antialias else 1.0
    centres = (np.arange(target) + 0.5) * scale - 0.5
    if interpolation == "bicubic":
        return _bicubic(source, centres, width, antialias)
    if not antialias:
        centres = np.clip(centres, 0.0, source - 1.0)  # interpolate repeats the border; Pillow cuts the filter off
    distance = np.abs(np.arange(source)[None, :] - centres[:, None]) / width
    matrix = np.maximum(0.0, 1.0 - distance)
    return np.asarray(matrix / matrix.sum(axis=1, keepdims=True), np.float32)


def _bicubic(source: int, centres: Array, width: float, antialias: bool) -> Array:
    """Keys' cubic convolution. Pillow cuts the filter off at the border; interpolate repeats the border's pixels."""
    a = PILLOW_CUBIC if antialias else TORCH_CUBIC
    reach = 0 if antialias else 2  # pixels beyond the border that the filter reads
    distance = np.abs(np.arange(-reach, source + reach)[None, :] - centres[:, None]) / width
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    matrix = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    if reach:
        inside = matrix[:, reach:-reach].copy()
        inside[:, 0] += matrix[:, :reach].sum(axis=1)
        inside[:, -1] += matrix[:, -reach:].sum(axis=1)
        matrix = inside
    return np.asarray(matrix / matrix.sum(axis=1, keepdims=True), np.float32)


def _resized(frame: Array, rows: Array, columns: Array, rounded: bool) -> Array:
    """Return the crop [C, h, w] of the resized frame [H, W, C], in grey levels as float32.

    Two matrix products; rows and columns that no weight reads are left out. With `rounded`, columns come first and
    both results are rounded and clipped to grey levels, as in Pillow: a bicubic filter overshoots at edges.
    """
    used_rows, used_columns = rows.any(axis=0), columns.any(axis=0)
    pixels = np.asarray(frame[used_rows][:, used_columns], np.float32)
    if rounded:
        low = _levels(columns[:, used_columns] @ pixels.transpose(1, 0, 2).reshape(pixels.shape[1], -1))
        low = low.reshape(len(low), len(pixels), -1).transpose(1, 0, 2)  # [H, w, C]
        high = _levels(rows[:, used_rows] @ low.reshape(len(pixels), -1))
        return high.reshape(len(high), len(columns), -1).transpose(2, 0, 1)
    low = (rows[:, used_rows] @ pixels.reshape(len(pixels), -1)).reshape(-1, *pixels.shape[1:])  # [h, W, C]
    return np.asarray(low.transpose(2, 0, 1) @ columns[:, used_columns].T)


def _levels(values: Array) -> Array:
    return np.clip(np.floor(values + np.float32(0.5)), 0.0, WHITE)


def _windows(height: int, width: int, how: Preprocess) -> tuple[Array, Array]:
    """Return the weights of the rows and of the columns that the centre crop shows."""
    new_height, new_width = _new_size(height, width, how)
    matrices = []
    for source, target, crop, word in zip(
        (height, width), (new_height, new_width), how.crop, ("high", "wide"), strict=True
    ):
        if target < crop:
            raise DeployError(
                f"the frames of {height} by {width} pixels are only {target} {word} after resizing",
                f"The network sees {how.crop[0]} by {how.crop[1]}: give larger frames.",
            )
        start = round((target - crop) / 2)  # to the even neighbour, as torchvision's CenterCrop does
        matrices.append(weights(source, target, how.antialias, how.interpolation)[start : start + crop])
    return matrices[0], matrices[1]


def _new_size(height: int, width: int, how: Preprocess) -> tuple[int, int]:
    short, size = min(height, width), how.short_side
    if how.stretch is not None:
        return how.stretch
    if size is None:
        return height, width
    photo, clip = int(size * max(height, width) / short), math.floor(max(height, width) / short * size)
    long = photo if how.antialias else clip  # torchvision and pytorchvideo round at different places
    return (size, long) if height == short else (long, size)


def _checked(frames: Array, how: Preprocess) -> Array:
    """Return the frames as [T, H, W, channels] of the network's channels. Raises DeployError.

    Grey is seen in every channel; colour, by a network of one channel, as its luma, rounded as Pillow does.
    """
    wanted = f"uint8 {'[H, W, C]' if how.frames is None else '[T, H, W, C]'} with {len(how.mean)} channels"
    if not isinstance(frames, np.ndarray):
        raise DeployError(
            f"the frames are a {type(frames).__name__}", f"Give a numpy array, {wanted}: np.asarray(...)."
        )
    if frames.dtype != np.uint8:
        raise DeployError(f"the frames are {frames.dtype}", f"Give grey levels of 0 to 255 as {wanted}.")
    if how.frames is None and frames.ndim == 2:
        frames = frames[:, :, None]
    if frames.ndim != (3 if how.frames is None else 4):
        raise DeployError(f"the frames have the shape {list(frames.shape)}", f"Give {wanted}.")
    if frames.shape[-1] == 1 and len(how.mean) > 1:
        frames = np.broadcast_to(frames, (*frames.shape[:-1], len(how.mean)))  # grey, seen in every channel
    if frames.shape[-1] == 3 and len(how.mean) == 1:
        frames = np.asarray((frames.astype(np.int32) @ np.array(LUMA) + 500) // 1000, np.uint8)[..., None]
    if frames.shape[-1] != len(how.mean) or frames.size == 0:
        raise DeployError(f"the frames have the shape {list(frames.shape)}", f"Give {wanted}, in the order R, G, B.")
    return frames[None] if how.frames is None else frames
