"""Collects the samples of a compile: those that set INT8 ranges, those that measure drift, those that ship.

Without a folder all are synthetic and say so. With one, calibration and held-out samples come from different sources
(patients), never from one; what ships stays synthetic unless asked. One sample is in memory at a time.
The trap: names of files are patients' names. Nothing here keeps one; the digest is over decoded content.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from deploy_compile import media, synthetic
from deploy_compile.options import MOST_CALIBRATION
from deploy_compile.pairs import Pair
from deploy_compile.results import Samples
from deploy_compile.sample_files import paths, read, write
from deploy_compile.saturation import doubts
from deploy_recipes.recipe import Recipe
from deploy_runtime.data import encode
from deploy_runtime.errors import DeployError
from deploy_runtime.evidence import Calibration
from deploy_runtime.preprocess import prepare_inputs

CALIBRATION = 16  # synthetic samples: each scene four times
HELD_OUT = 16
MOST_HELD_OUT = 32
GOLDEN = 4
GOLDEN_BYTES = 32 * 2**20  # of golden inputs, at most
HELD_OUT_SHARE = 3  # one source in three is held out
MOST_WINDOWS = 8  # of one file: more of the same operation teach little
CALIBRATION_SEED, HELD_OUT_SEED, GOLDEN_SEED = 5001, 5002, 5003

Sample = dict[str, np.ndarray]


def collect(
    out: Path,
    recipe: Recipe,
    calibration: Path | None,
    algorithm: str,
    ship_samples: bool = False,
    most: int = MOST_CALIBRATION,
) -> Samples:
    """Write calibration, held-out and golden samples of a fitted recipe into `out`.

    `ship_samples` takes the golden ones from the held-out ones; without a folder those are synthetic anyway. At `most`
    so many samples of a folder calibrate.
    Raises DeployError where the folder cannot be read, cannot be split into two sets of sources or gives no ranges.
    """
    if calibration is None:
        write(out / "calibration", _synthetic(recipe, CALIBRATION_SEED, CALIBRATION))
        write(out / "held_out", _synthetic(recipe, HELD_OUT_SEED, HELD_OUT))
        sources, note = 0, f"{HELD_OUT} synthetic samples, of another seed than the calibration samples"
    else:
        sources, note = _from_folder(out, recipe, calibration, most)
    ships = ship_samples and calibration is not None
    count = _golden_count(recipe)
    write(out / "golden", islice(read(out / "held_out"), count) if ships else _synthetic(recipe, GOLDEN_SEED, count))
    return Samples(
        calibration=out / "calibration",
        held_out=out / "held_out",
        golden=out / "golden",
        provenance=Calibration(
            synthetic=calibration is None,
            samples=len(paths(out / "calibration")),
            sources=sources,
            algorithm=algorithm,
            digest=_digest(out / "calibration", recipe),
            warnings=() if calibration is None else doubts(out / "calibration", recipe),
        ),
        held_out_note=note,
        golden_synthetic=not ships,
    )


def split(sources: list[media.Source]) -> tuple[list[media.Source], list[media.Source]]:
    """Return calibration and held-out sources: every third is held out, at least one. Raises DeployError below two."""
    if len(sources) < 2:
        raise DeployError(
            "the calibration folder holds one source only, and drift must be measured on another",
            "Give at least two files, or at least two subfolders where there are any: each is one source (patient).",
        )
    held_out = set(range(HELD_OUT_SHARE - 1, len(sources), HELD_OUT_SHARE)) or {len(sources) - 1}
    return (
        [source for place, source in enumerate(sources) if place not in held_out],
        [source for place, source in enumerate(sources) if place in held_out],
    )


def _from_folder(out: Path, recipe: Recipe, folder: Path, most: int) -> tuple[int, str]:
    calibrating, held_out = split(media.sources(folder, images(recipe)))
    write(out / "calibration", spread(calibrating, recipe, most))
    count = write(out / "held_out", spread(held_out, recipe, MOST_HELD_OUT))
    fewer = f", fewer than {HELD_OUT}" if count < HELD_OUT else ""
    plural = "sources" if len(held_out) > 1 else "source"
    samples = "samples" if count > 1 else "sample"
    return len(calibrating), f"{count} {samples}{fewer}, from {len(held_out)} {plural} that gave no calibration sample"


def spread(sources: list[media.Source], recipe: Recipe, most: int) -> Iterator[Sample]:
    """Yield up to `most` samples, as evenly from sources, and in each from its files, as there are enough of them."""
    left = most
    for place, source in enumerate(sources):
        share = math.ceil(left / (len(sources) - place))
        if share == 0:
            return
        files = source.files if len(source.files) <= share else _evenly(source.files, share)
        each = min(MOST_WINDOWS, math.ceil(share / len(files)))
        for sample in islice(_chained(files, recipe, each), share):
            left -= 1
            yield sample


def images(recipe: Recipe) -> tuple[str, ...]:
    """Return the inputs of a network that compares several images, each a file of its own; none of any other."""
    how = recipe.preprocess
    compares = len(recipe.data_inputs) > 1 and how is not None and not how.pathways
    return tuple(tensor.name for tensor in recipe.data_inputs) if compares else ()


def _evenly(files: tuple[Path | Pair, ...], count: int) -> tuple[Path | Pair, ...]:
    return tuple(files[place * len(files) // count] for place in range(count))


def _chained(files: Iterable[Path | Pair], recipe: Recipe, most: int) -> Iterator[Sample]:
    for path in files:
        yield from islice(of_file(path, recipe, most), most)


def of_file(path: Path | Pair, recipe: Recipe, most: int) -> Iterator[Sample]:
    """Yield the samples of one file, or of one pair: up to `most` windows of a video, or all that it holds ready."""
    if isinstance(path, Pair):
        yield _prepared({name: _image(file) for name, file in path.files.items()}, recipe, path)
        return
    if path.suffix.lower() not in media.ARRAYS:
        frames = None if recipe.preprocess is None else recipe.preprocess.frames
        for window in media.windows(path, frames, most):
            yield _prepared(window, recipe, path)
        return
    held = media.arrays(path)
    names = [tensor.name for tensor in recipe.data_inputs]
    if len(held) == 1 and len(names) == 1:
        held = {names[0]: next(iter(held.values()))}
    if set(held) != set(names):
        raise DeployError(
            f"{path} holds the arrays {', '.join(held) or 'none'}, and {recipe.name} takes {', '.join(names)}",
            "Name the arrays of an .npz as the recipe names its inputs (`deploy-compile show`).",
        )
    if len(names) == 1 and held[names[0]].dtype == np.uint8:
        yield _prepared(np.asarray(held[names[0]], np.uint8), recipe, path)
    else:
        yield from _ready(held, recipe, path)


def _image(path: Path) -> media.Frames:
    """Decode one image of a pair. Raises DeployError."""
    if path.suffix.lower() not in media.ARRAYS:
        return next(iter(media.windows(path, None, 1)))
    held = list(media.arrays(path).values())
    if len(held) != 1 or held[0].dtype != np.uint8:
        raise DeployError(
            f"{path} holds no single image of 8 bits", "Give both inputs ready in one .npz, or save a uint8 image."
        )
    return np.asarray(held[0], np.uint8)


def _prepared(frames: media.Frames | dict[str, media.Frames], recipe: Recipe, path: Path | Pair) -> Sample:
    if recipe.preprocess is None:
        raise DeployError(
            f"{recipe.name} does not say how frames become its inputs, and {path} holds frames",
            "State `preprocess` in the recipe, or give ready float32 arrays as .npz.",
        )
    try:
        made = prepare_inputs(frames, recipe.preprocess, recipe.data_inputs)
    except DeployError as error:
        raise DeployError(f"{path}: {error.message}", error.fix) from error
    return at_start({name: array[None] for name, array in made.items()}, recipe)


def _ready(held: dict[str, media.Array], recipe: Recipe, path: Path) -> Iterator[Sample]:
    """Yield samples that are already as the network takes them: one, or several along a batch axis."""
    batched = {}
    for tensor in recipe.data_inputs:
        value, shape = held[tensor.name], tensor.at(1)[1:]
        value = value[None] if value.shape == shape else value
        if value.shape[1:] != shape or len(value) == 0 or value.dtype != np.dtype(tensor.dtype):
            raise DeployError(
                f"{path}: {tensor.name} is {value.dtype} {list(value.shape)}, and {recipe.name} takes "
                f"{tensor.dtype} {list(shape)} ready, or uint8 frames",
                "Save one sample of that shape, or several along a first axis.",
            )
        if not np.isfinite(value).all():
            raise DeployError(f"{path}: {tensor.name} holds NaN or Inf", "Remove or replace the file.")
        batched[tensor.name] = value
    lengths = {len(value) for value in batched.values()}
    if len(lengths) != 1:
        raise DeployError(f"{path}: its arrays hold {sorted(lengths)} samples", "Give each input as many samples.")
    for place in range(lengths.pop()):
        yield at_start(
            {name: np.ascontiguousarray(value[place : place + 1]) for name, value in batched.items()}, recipe
        )


def at_start(sample: Sample, recipe: Recipe) -> Sample:
    """Return a sample with the state that a stream has before its first frame."""
    shapes = {tensor.name: tensor.at(1) for tensor in recipe.inputs}
    return sample | {s.input: np.full(shapes[s.input], s.initial, np.float32) for s in recipe.state}


def _synthetic(recipe: Recipe, seed: int, count: int) -> Iterator[Sample]:
    return (dict(synthetic.sample(recipe, seed, index)) for index in range(count))


def _golden_count(recipe: Recipe) -> int:
    size = sum(math.prod(tensor.at(1)) * np.dtype(tensor.dtype).itemsize for tensor in recipe.inputs)
    return max(1, min(GOLDEN, GOLDEN_BYTES // size))


def _digest(folder: Path, recipe: Recipe) -> str:
    """Return the sha256 over all samples, in order, and the preprocessing that made them."""
    digest = hashlib.sha256(json.dumps(encode(recipe.preprocess), sort_keys=True).encode())
    for sample in read(folder):
        for name, value in sorted(sample.items()):
            digest.update(f"{name}{value.dtype}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).data)
    return digest.hexdigest()
