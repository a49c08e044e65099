"""Clips of a handwritten digit that drifts to the left or to the right: a two-class video task, made in code.

The direction is in time only. The frame is a torus (what leaves at one side enters at the other), the digit starts
anywhere on it, and each clip played backwards is a clip of the other class: no single frame, nor the set of all
frames without their order, says anything about the class. Size, speed, contrast, colour, background, light and noise
vary. The digits are scikit-learn's `load_digits` (8 x 8 pixels, UCI optical recognition of handwritten digits);
each image serves in one of the splits alone. Lengths are in pixels of a frame 182 wide, the short side X3D-S expects.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

LABELS = ("leftwards", "rightwards")
SPLITS = {"train": 1200, "validation": 64, "test": 300, "calibration": 48}  # images of digits, of 1,797 that there are
SHUFFLE_SEED = 7

HEIGHT, WIDTH, FRAMES = 200, 182, 13
DIGIT_PX = (44.0, 76.0)  # height and width of a digit
SPEED_PX = (3.0, 7.0)  # per frame, sideways
DRIFT_PX = 2.0  # per frame, up or down, at most
MIDDLE = (0.3, 0.7)  # where its centre is half way through, of the height: the crop always shows it
STROKE = 0.5  # spread of one of the 8 x 8 pixels, in their pitch: strokes without steps
PATCHES = 6  # the background is a smooth surface through PATCHES x PATCHES random colours
FLICKER = 0.06  # standard deviation of a frame's brightness, relative
NOISE = 6.0  # standard deviation at most, grey levels


@dataclass(frozen=True)
class Split:
    """Clips, and all it takes to draw them: `images` uint8 [n, 8, 8] in 0..16, `labels` [n], `seeds` [n]."""

    images: Array
    labels: Array
    seeds: Array

    def __len__(self) -> int:
        return len(self.labels)

    def clip(self, place: int) -> Array:
        """Return one clip, uint8 [13, 200, 182, 3]; the same at every call."""
        return clip(self.images[place], int(self.labels[place]), int(self.seeds[place]))

    def save(self, path: Path) -> None:
        """Write what the clips are drawn from, in a few kilobytes."""
        np.savez_compressed(path, images=self.images, labels=self.labels, seeds=self.seeds)


def read(path: Path) -> Split:
    """Return a split that `save` wrote."""
    with np.load(path) as held:
        return Split(held["images"], held["labels"], held["seeds"])


def split(name: str) -> Split:
    """Return the clips of `train`, `validation`, `test` or `calibration`: classes take turns, digits are disjoint."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    images = load_digits(return_X_y=True)[0].reshape(-1, 8, 8).astype(np.uint8)
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(images))
    ends = np.cumsum(list(SPLITS.values()))
    taken = np.split(order, ends)[list(SPLITS).index(name)]
    return Split(images[taken], np.arange(len(taken)) % len(LABELS), taken)


def clip(image: Array, label: int, seed: int, *, height: int = HEIGHT, width: int = WIDTH) -> Array:
    """Draw `image` [8, 8] in 0..16 drifting in the direction of `label`: uint8 [13, height, width, 3].

    Another width scales the whole scene; the height only crops or extends it.
    """
    rng = np.random.default_rng(seed)
    scale = width / WIDTH
    size, speed = rng.uniform(*DIGIT_PX) * scale, rng.uniform(*SPEED_PX) * scale
    drift = rng.uniform(-DRIFT_PX, DRIFT_PX) * scale
    x, y = rng.uniform(0.0, width), height * rng.uniform(*MIDDLE)
    background, colour = _colours(rng, height, width)
    light = 1.0 + rng.normal(0.0, FLICKER, FRAMES)
    noise = rng.uniform(0.0, NOISE)
    direction = 1.0 if LABELS[label] == "rightwards" else -1.0
    frames = np.empty((FRAMES, height, width, 3), np.uint8)
    for t in range(FRAMES):
        step = t - (FRAMES - 1) / 2
        rows = _strokes(y + drift * step, size / 8, height)
        columns = _strokes(x + direction * speed * step, size / 8, width)
        ink = np.clip(rows @ (image / 16.0) @ columns.T, 0.0, 1.0)[:, :, None]
        scene = (background * (1.0 - ink) + colour * ink) * light[t]
        scene += noise * rng.standard_normal((height, width, 1), np.float32)
        frames[t] = np.clip(scene + 0.5, 0.0, 255.0)
    return frames


def _strokes(centre: float, pitch: float, length: int) -> Array:
    """Return [length, 8]: how far each of the digit's eight rows reaches along an axis that closes on itself."""
    places = centre + (np.arange(8) - 3.5) * pitch
    away = (np.arange(length)[:, None] - places[None, :] + length / 2) % length - length / 2
    return np.asarray(np.exp(-0.5 * (away / (STROKE * pitch)) ** 2))


def _colours(rng: np.random.Generator, height: int, width: int) -> tuple[Array, Array]:
    """Return a smooth background [height, width, 3] and the digit's colour [3], clearly darker or brighter."""
    base, contrast = rng.uniform(90.0, 165.0), rng.uniform(60.0, 90.0) * rng.choice((-1.0, 1.0))
    patches = base + rng.normal(0.0, 18.0, (PATCHES, PATCHES, 1)) + rng.normal(0.0, 8.0, (PATCHES, PATCHES, 3))
    rows, columns = _blend(height), _blend(width)
    background = np.einsum("hp,pqc,wq->hwc", rows, patches, columns)
    return background, base + contrast + rng.normal(0.0, 12.0, 3)


def _blend(length: int) -> Array:
    """Return [length, PATCHES]: the share each patch has in each pixel along one axis, summing to one."""
    away = np.linspace(0, PATCHES - 1, length)[:, None] - np.arange(PATCHES)[None, :]
    near = np.exp(-0.5 * (away / 0.6) ** 2)
    return np.asarray(near / near.sum(axis=1, keepdims=True))
