"""Smooth, moving, diverse inputs made from a seed, where nobody gave real ones. numpy only.

They stand for preprocessed images and clips: mean about 0, spread about 1, most energy at low frequencies, a few soft
edges, motion along the time axis. White noise would not do: its ranges and statistics are those of no camera.
Sample `index` shows scene `index % SCENES`: the scenes are the same in every series, a sample differs from the others
of its scene in motion, contrast, light and place. So there is something to tell apart (see seeded.py).
The trap: they say nothing about accuracy on real data, and everything made with them says so.
"""

from dataclasses import replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from deploy_recipes.recipe import Preprocess, Recipe, Tensor
from deploy_runtime.preprocess import sample_uniformly

SCENES = 4  # different pictures; a network of fewer classes shares them out
SCENE_SEED = 17
WAVES = 10  # plane waves in one sample
DISCS = 2  # soft-edged moving discs in one sample
FREQUENCIES = (0.5, 6.0)  # cycles across the image, of the waves
SHARED_COLOUR = 0.8  # share of a wave's amplitude that all channels have in common
PLAIN_RANGE = (-2.2, 2.6)  # of normalised 8-bit images, where the recipe states no preprocessing

Array = NDArray[np.float32]


def sample(recipe: Recipe, seed: int, index: int, carried: bool = False) -> dict[str, Array]:
    """Return sample `index` of the series `seed`: every input of the recipe by name, with a batch axis of 1.

    State is what it is before the first frame, or with `carried` some other, as in the middle of a stream.
    Pathways look at one clip: the longest of them is drawn, and the others take their frames of it.
    """
    pathways = {} if recipe.preprocess is None else recipe.preprocess.pathways
    if pathways:
        longest = max(recipe.inputs, key=lambda tensor: pathways[tensor.name])
        clip = sample(_one(recipe, longest), seed, index)[longest.name]
        axis = longest.layout.index("T")
        frames = {name: sample_uniformly(clip.shape[axis], count) for name, count in pathways.items()}
        return {tensor.name: np.ascontiguousarray(clip.take(frames[tensor.name], axis)) for tensor in recipe.inputs}
    before = {} if carried else {state.input: state.initial for state in recipe.state}
    return {
        tensor.name: np.full(tensor.at(1), before[tensor.name], np.float32)
        if tensor.name in before
        else _fill(
            tensor,
            recipe.preprocess,
            np.random.default_rng([SCENE_SEED, index % SCENES, place]),
            np.random.default_rng([seed, index, place]),
        )[None]
        for place, tensor in enumerate(recipe.inputs)
    }


def _one(recipe: Recipe, tensor: Tensor) -> Recipe:
    """Return the recipe as one that only has this input."""
    assert recipe.preprocess is not None, "it has pathways"
    return replace(recipe, inputs=(tensor,), preprocess=replace(recipe.preprocess, pathways={}))


def _fill(tensor: Tensor, preprocess: Preprocess | None, scene: Generator, rng: Generator) -> Array:
    shape = tensor.at(1)[1:]
    axes = tensor.layout[1:] if len(tensor.layout) == len(tensor.shape) else "?" * len(shape)
    size = dict(zip(axes, shape, strict=True))
    if not {"H", "W"} <= set(axes):
        return _features(shape, axes, scene, rng)
    channels, frames = size.get("C", 1), size.get("T", 1)
    picture = _picture(channels, frames, size["H"], size["W"], scene, rng)  # C, T, H, W
    low, high = _value_range(preprocess, channels)
    picture = np.clip(picture, low, high)
    order = ["CTHW".index(axis) for axis in axes]
    dropped = tuple(place for place in range(4) if place not in order)
    picture = picture.transpose([*dropped, *order])
    return np.ascontiguousarray(picture.reshape(shape), dtype=np.float32)


def _picture(channels: int, frames: int, height: int, width: int, scene: Generator, rng: Generator) -> Array:
    """Draw what the `scene` fixes, with the motion, contrast and light that `rng` gives this one sample of it."""
    t = np.linspace(0, 1, frames, dtype=np.float32)[:, None, None]
    y = np.linspace(0, 1, height, dtype=np.float32)[None, :, None]
    x = np.linspace(0, 1, width, dtype=np.float32)[None, None, :]
    out = np.zeros((channels, frames, height, width), np.float32)
    for _ in range(WAVES):
        cycles = np.exp(scene.uniform(*np.log(FREQUENCIES)))
        angle, phase = scene.uniform(0, 2 * np.pi, 2)
        across, down, along = (
            2 * np.pi * n for n in (cycles * np.cos(angle), cycles * np.sin(angle), rng.normal(0, 0.15))
        )
        rows = down * y + along * t + phase + rng.normal(0, 0.1)  # T, H, 1: cos(rows + columns) needs no more cosines
        cosine, sine = np.cos(rows).astype(np.float32), np.sin(rows).astype(np.float32)
        wave = cosine * np.cos(across * x).astype(np.float32)
        wave -= sine * np.sin(across * x).astype(np.float32)
        out += _colour(channels, scene) / np.float32(np.sqrt(cycles)) * wave
    for _ in range(DISCS):
        top, left = scene.uniform(0.2, 0.8, 2) + rng.normal(0, 0.03, 2)
        down, right = rng.normal(0, 0.1, 2)
        distance = np.hypot((y - top - down * t).astype(np.float32), (x - left - right * t).astype(np.float32))
        radius, softness = scene.uniform(0.08, 0.3), scene.uniform(0.01, 0.05)
        edge = np.tanh((np.float32(radius) - distance) / np.float32(softness))
        out += np.float32(0.8) * _colour(channels, scene) * edge
    out -= out.mean()
    out *= rng.uniform(0.85, 1.15) / max(float(out.std()), 1e-6)  # contrast differs from sample to sample
    light = rng.normal(0, 0.2) + rng.normal(0, 0.1) * t  # and so does brightness, slowly in time
    return out + light.astype(np.float32)


def _colour(channels: int, rng: Generator) -> Array:
    colour = SHARED_COLOUR * rng.normal() + (1 - SHARED_COLOUR) * rng.normal(size=(channels, 1, 1, 1))
    return np.asarray(colour, np.float32)


def _features(shape: tuple[int, ...], axes: str, scene: Generator, rng: Generator) -> Array:
    """Return normal values about those of the scene, drifting slowly along a time axis where there is one."""
    values = 0.8 * scene.standard_normal(shape) + 0.6 * rng.standard_normal(shape)
    if "T" in axes:
        axis = axes.index("T")
        steps = np.arange(1, shape[axis] + 1).reshape([-1 if i == axis else 1 for i in range(len(shape))])
        values = np.cumsum(values, axis=axis) / np.sqrt(steps)
    return values.astype(np.float32)


def value_range(preprocess: Preprocess) -> tuple[float, float]:
    """Return the least and the largest value that preprocessing can give in any channel."""
    low, high = _ends(preprocess)
    return min(low), max(high)


def _ends(preprocess: Preprocess) -> tuple[list[float], list[float]]:
    pairs = list(zip(preprocess.mean, preprocess.std, strict=True))
    return [-mean / std for mean, std in pairs], [(1 - mean) / std for mean, std in pairs]


def _value_range(preprocess: Preprocess | None, channels: int) -> tuple[Array, Array]:
    """Return the least and the largest value that preprocessing can give, one a channel, shaped C,1,1,1."""
    if preprocess is None or len(preprocess.mean) != channels:
        low, high = ([value] * channels for value in PLAIN_RANGE)
    else:
        low, high = _ends(preprocess)
    return np.asarray(low, np.float32).reshape(-1, 1, 1, 1), np.asarray(high, np.float32).reshape(-1, 1, 1, 1)
