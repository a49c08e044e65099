"""Scenes of handwritten digits, drawn in code, that networks of every family can be trained on in minutes.

Images with a digit or with several, clips of one that moves, grows or turns, clips of digits that now and then
disappear, pairs of images with a planted change. The digits are scikit-learn's `load_digits` (1,797 of 8 x 8 pixels,
UCI optical recognition of handwritten digits); each serves in one split alone, so that nothing a network is tested on
was there when it learned. Colour, light, clutter and noise vary from scene to scene. Every scene is the same each time
it is drawn with the same random generator.
The trap: a scene is drawn at the size to which the network's preprocessing would resize it, or it would be blurred.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, Any]
Frames = Array | Mapping[str, Array]  # uint8 [H, W, 3] or [T, H, W, 3]; a pair of studies by input name

SPLITS = {"test": 1000, "train": 640, "calibration": 96, "validation": 61}  # digits, all that there are
SHUFFLE_SEED = 13
CLASSES = 10
INK = 16.0  # the darkest value of scikit-learn's digits
STROKE = 0.5  # spread of one of the 8 x 8 pixels, in their pitch: strokes without steps
PATCHES = 4  # the background is a smooth surface through PATCHES x PATCHES random colours
GREY, CONTRAST = (90.0, 165.0), (55.0, 90.0)  # of 255: the background, and how far the digit stands out
LINES = 2  # of clutter, at most

MOTIONS = ("leftwards", "rightwards", "upwards", "downwards", "grows", "shrinks", "turns left", "turns right", "still")
SIDEWAYS, UPRIGHT = {"leftwards": -1.0, "rightwards": 1.0}, {"upwards": -1.0, "downwards": 1.0}
GROWTH, TURN = {"grows": 1.0, "shrinks": -1.0}, {"turns left": -1.0, "turns right": 1.0}
WAY = (0.25, 0.5)  # how far a digit moves in a clip, in frame sides
GROWS = (1.5, 2.2)  # by what factor it grows
TURNS = (40.0, 100.0)  # by how many degrees it turns
TREMOR = 0.008  # standard deviation of its place in each frame, in frame sides

HIDDEN = 0.35  # share of the frames in which nothing is shown
CHANGES = 0.25  # share of the others in which another digit comes

QUARTERS = 4  # of an image, a digit in each at most
FOUND = 0.5  # ink from which on a pixel counts as changed


@dataclass(frozen=True)
class Split:
    """Digits: `images` [n, 8, 8] from 0 to 1, `labels` [n], `places` [n] in scikit-learn's set."""

    images: Array
    labels: Array
    places: Array

    def __len__(self) -> int:
        return len(self.labels)


class Draw(Protocol):
    """Draws the scene of the digit at `place`: its frames and the truth, [answers], [labels] or a map [1, H, W]."""

    def __call__(
        self, split: Split, place: int, rng: np.random.Generator, size: tuple[int, int], frames: int, /
    ) -> tuple[Frames, Array]:
        """Draw frames of `size` (height, width)."""


@cache
def split(name: str) -> Split:
    """Return the digits of `train`, `validation`, `calibration` or `test`."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(labels))
    ends = np.cumsum(list(SPLITS.values()))
    taken = np.split(order, ends)[list(SPLITS).index(name)]
    return Split(pixels.reshape(-1, 8, 8)[taken] / INK, labels[taken], taken)


def image(
    split: Split, place: int, rng: np.random.Generator, size: tuple[int, int], _frames: int, noise: float = 8.0
) -> tuple[Frames, Array]:
    """One digit somewhere, turned a little; the truth is its class. `noise` is in grey levels, as everywhere."""
    shown = ink(split.images[place], somewhere(rng), rng.uniform(0.45, 0.7), rng.uniform(-15.0, 15.0), size)
    return photograph(rng, shown[None], noise)[0], split.labels[place : place + 1]


def plate(
    split: Split, place: int, rng: np.random.Generator, size: tuple[int, int], _frames: int, noise: float = 8.0
) -> tuple[Frames, Array]:
    """One light digit in the middle of an even dark ground; the truth is its class.

    What a transformer, which begins without any notion of an edge or a place, learns from a few thousand images.
    """
    centre = rng.uniform(0.48, 0.52, 2)
    shown = ink(split.images[place], centre, rng.uniform(0.65, 0.75), rng.uniform(-10.0, 10.0), size)
    ground = np.full((*size, 3), GREY[0])
    return lit(rng, ground, ground + CONTRAST[1], shown[None], noise)[0], split.labels[place : place + 1]


def several(
    split: Split,
    place: int,
    rng: np.random.Generator,
    size: tuple[int, int],
    _frames: int,
    noise: float = 8.0,
    most: int = QUARTERS,
) -> tuple[Frames, Array]:
    """Some digits, each in a quarter of the image; the truth is, for each class, whether one is there."""
    count = int(rng.integers(1, most + 1))
    chosen = [place, *rng.integers(len(split), size=count - 1)]
    shown, truth = np.zeros(size), np.zeros(CLASSES, np.int64)
    for index, quarter in zip(chosen, rng.permutation(QUARTERS), strict=False):
        centre = np.array([0.27 + 0.46 * (quarter // 2), 0.27 + 0.46 * (quarter % 2)]) + rng.uniform(-0.05, 0.05, 2)
        shown += ink(split.images[index], centre, rng.uniform(0.32, 0.44), rng.uniform(-10.0, 10.0), size)
        truth[split.labels[index]] = 1
    return photograph(rng, shown[None], noise)[0], truth


def motion(
    split: Split, place: int, rng: np.random.Generator, size: tuple[int, int], frames: int, noise: float = 8.0
) -> tuple[Frames, Array]:
    """A digit that moves, grows, turns or stands, trembling; the truth is which of MOTIONS.

    It is half way through in the middle of the clip, wherever that is: no single frame says anything about the class.
    """
    label = int(rng.integers(len(MOTIONS)))
    name = MOTIONS[label]
    way, growth, turn = rng.uniform(*WAY), np.log(rng.uniform(*GROWS)), rng.uniform(*TURNS)
    side, angle, centre = rng.uniform(0.38, 0.55), rng.uniform(-15.0, 15.0), somewhere(rng)
    steps = np.linspace(-0.5, 0.5, frames)
    moved = steps[:, None] * way * np.array([UPRIGHT.get(name, 0.0), SIDEWAYS.get(name, 0.0)])
    shown = np.stack([
        ink(
            split.images[place],
            centre + moved[index] + rng.normal(0.0, TREMOR, 2),
            side * np.exp(step * growth * GROWTH.get(name, 0.0)),
            angle + step * turn * TURN.get(name, 0.0),
            size,
        )
        for index, step in enumerate(steps)
    ])  # fmt: skip
    return photograph(rng, shown, noise), np.array([label])


def last_seen(
    split: Split, place: int, rng: np.random.Generator, size: tuple[int, int], frames: int, noise: float = 8.0
) -> tuple[Frames, Array]:
    """Digits one after another, now and then hidden; the truth is, for each frame, the class that was seen last.

    While nothing is shown only the frames before can tell, as in an operation whose camera is covered.
    """
    shown, truth = np.zeros((frames, *size)), np.zeros(frames, np.int64)
    for frame in range(frames):
        hidden = frame > 0 and rng.random() < HIDDEN
        if frame > 0 and not hidden and rng.random() < CHANGES:
            place = int(rng.integers(len(split)))
        if not hidden:
            side, angle = rng.uniform(0.5, 0.7), rng.uniform(-12.0, 12.0)
            shown[frame] = ink(split.images[place], somewhere(rng), side, angle, size)
        truth[frame] = split.labels[place]
    return photograph(rng, shown, noise), truth


def change(
    split: Split, place: int, rng: np.random.Generator, size: tuple[int, int], _frames: int, noise: float = 8.0
) -> tuple[Frames, Array]:
    """A pair of grey images in different light, between which digits came or went; the truth is a map of those.

    Two digits stay, each shifted a little between the two, as anatomy does between two studies; one or two, or none,
    are in one of the pair alone.
    """
    planted = int(rng.integers(0, 3))
    chosen = [place, *rng.integers(len(split), size=1 + planted)]
    both, changed = [np.zeros(size), np.zeros(size)], np.zeros(size)
    for order, (index, cell) in enumerate(zip(chosen, rng.permutation(9), strict=False)):
        centre = np.array([0.2 + 0.3 * (cell // 3), 0.2 + 0.3 * (cell % 3)]) + rng.uniform(-0.03, 0.03, 2)
        side, angle = rng.uniform(0.22, 0.3), rng.uniform(-15.0, 15.0)
        alone = int(rng.integers(2)) if order >= len(chosen) - planted else None
        for study in (0, 1) if alone is None else (alone,):
            at = centre + rng.uniform(-0.012, 0.012, 2)
            drawn = ink(split.images[index], at, side, angle, size)
            both[study] += drawn
            if alone is not None:
                changed += drawn
    background, contrast = surface(rng, size).mean(axis=2, keepdims=True), rng.uniform(*CONTRAST)
    studies = [
        lit(rng, background, background + contrast, shown[None], noise)[0].mean(axis=2).astype(np.uint8)
        for shown in both
    ]
    truth = (changed >= FOUND).astype(np.float32)[None]
    return {"baseline": studies[0], "followup": studies[1]}, truth


def somewhere(rng: np.random.Generator) -> Array:
    """Return a centre near the middle, as shares of height and width."""
    return rng.uniform(0.38, 0.62, 2)


def ink(image: Array, centre: Array, side: float, angle: float, size: tuple[int, int]) -> Array:
    """Return how much of a digit [8, 8] is at each pixel, [H, W] from 0 to 1.

    `centre` and `side` are shares of the frame; `angle` turns to the right, in degrees.
    """
    height, width = size
    short = min(size)
    down, across = np.meshgrid(
        (np.arange(height, dtype=np.float32) + 0.5 - centre[0] * height) / short,
        (np.arange(width, dtype=np.float32) + 0.5 - centre[1] * width) / short,
        indexing="ij",
    )
    turned = np.deg2rad(angle)
    rows = -across * np.sin(turned) + down * np.cos(turned)
    columns = across * np.cos(turned) + down * np.sin(turned)
    near = [_strokes(axis.ravel() * 8.0 / side) for axis in (rows, columns)]
    reached: Array = np.einsum("pi,pi->p", near[0] @ image, near[1])
    return np.clip(reached, 0.0, 1.0).reshape(size)


def photograph(rng: np.random.Generator, shown: Array, noise: float) -> Array:
    """Return frames uint8 [T, H, W, 3] of ink [T, H, W] on a smooth background with a few lines of clutter."""
    size = (shown.shape[1], shown.shape[2])
    background = surface(rng, size)
    colour = background.mean() + rng.uniform(*CONTRAST) * rng.choice((-1.0, 1.0)) + rng.normal(0.0, 12.0, 3)
    for _ in range(rng.integers(LINES + 1)):
        background = background + rng.normal(0.0, 25.0, 3) * line(rng, size)[:, :, None]
    return lit(rng, background, colour, shown, noise)


def lit(rng: np.random.Generator, background: Array, colour: Array, shown: Array, noise: float) -> Array:
    """Return frames uint8 [T, H, W, C], each in light of its own and with noise."""
    light = rng.normal(1.0, 0.05, (len(shown), 1, 1, 1))
    scene = (background + (colour - background) * shown[..., None]) * light
    scene += noise * rng.standard_normal((*shown.shape, 1))
    return np.asarray(np.clip(scene + 0.5, 0.0, 255.0), np.uint8)


def surface(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    """Return a smooth background [H, W, 3]."""
    patches = rng.uniform(*GREY) + rng.normal(0.0, 12.0, (PATCHES, PATCHES, 1))
    colours = patches + rng.normal(0.0, 8.0, (PATCHES, PATCHES, 3))
    return np.asarray(np.einsum("hp,pqc,wq->hwc", _blend(size[0]), colours, _blend(size[1])))


def line(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    """Return a straight stroke through the frame, [H, W] from 0 to 1."""
    angle, away = rng.uniform(0.0, np.pi), rng.uniform(-0.4, 0.4)
    rows, columns = ((np.arange(length) + 0.5) / length - 0.5 for length in size)
    distance = np.cos(angle) * rows[:, None] + np.sin(angle) * columns[None, :] - away
    return np.asarray(np.exp(-0.5 * (distance / 0.02) ** 2))


def _strokes(places: Array) -> Array:
    """Return [n, 8]: how far each of a digit's eight rows or columns reaches; places in their pitch from its middle."""
    away = places[:, None] - (np.arange(8) - 3.5)
    return np.asarray(np.exp(-0.5 * (away / STROKE) ** 2))


def _blend(length: int) -> Array:
    """Return [length, PATCHES]: the share each patch has in each pixel along one axis, summing to one."""
    away = np.linspace(0, PATCHES - 1, length)[:, None] - np.arange(PATCHES)
    near = np.exp(-0.5 * (away / 0.6) ** 2)
    return np.asarray(near / near.sum(axis=1, keepdims=True))
