"""Run a bundle on a file: a line for every frame or clip of a video, or the map of a pair of images.

A network that streams takes the frames one by one, its state carried on; one of clips takes windows one after the
other that do not overlap; one of images takes frames by themselves. Lines are CSV or JSON, and come as soon as they
are known.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from deploy_runtime import video
from deploy_runtime.errors import DeployError, UsageError
from deploy_runtime.measure import decided
from deploy_runtime.model import Model
from deploy_runtime.session import Array
from deploy_runtime.spec import Classes, MultiLabel

CLIP_EVERY = 6  # of a video, how many frames lie between those of a clip: as calibration takes them
WHITE = 255


def lines(model: Model, path: Path, every: int | None = None, hop: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield what the network says of a video: `frame` and `seconds` of the (first) frame, and its outputs by name.

    With `hop` a network that reads later frames too slides its window by so many of the frames that `every` takes, and
    the frame is the window's last. Where it decides, `class` and `score` and, with labels, `label`; of several labels
    those that are present.
    """
    how = model.manifest.preprocess
    if how is None:
        raise DeployError(
            f"{model.manifest.name} ships no preprocessing, so that frames cannot become its inputs",
            "State `preprocess` in the recipe, or prepare arrays yourself and call model.run.",
        )
    if len(model.inputs) > 1 and not how.pathways:
        names = ", ".join(tensor.name for tensor in model.inputs)
        raise UsageError(f"{model.manifest.name} compares {names}", "Give both as images: --pair BEFORE AFTER.")
    if hop is not None and not model.manifest.window:
        raise UsageError(
            f"{model.manifest.name} slides no window over the frames",
            "Leave --hop out: it answers for every frame."
            if model.manifest.state
            else "Leave --hop out, or compile it with --param streams=true where its recipe has that.",
        )
    if hop is not None or (model.manifest.state and not model.manifest.window):
        yield from _streamed(model, path, every, hop or 1)
        return
    size = how.frames
    step = every or (1 if size is None else CLIP_EVERY)
    shown, given = video.frames(path, step), 0
    while window := list(islice(shown, size or 1)):
        if size is not None and len(window) < size:
            break  # the end of the video, shorter than a clip
        pixels = window[0].pixels if size is None else np.stack([frame.pixels for frame in window])
        yield {**_at(window[0]), **said(model, model.run(model.prepare(pixels)))}
        given += 1
    if not given:
        raise DeployError(
            f"{path} has fewer than {(size or 1) * step} frames, and a clip takes {size} of them, {step} apart",
            "Give a longer video, or take frames closer together: --every 1.",
        )


def _streamed(model: Model, path: Path, every: int | None, hop: int) -> Iterator[dict[str, Any]]:
    timed = {tensor.name: tensor.layout.index("T") for tensor in model.outputs if "T" in tensor.layout}
    with model.stream(hop, window=model.manifest.window or None) as stream:
        shown, last = video.frames(path, every or (CLIP_EVERY if model.manifest.window else 1)), None
        while len(chunk := list(islice(shown, hop))) == hop:
            answers = stream.step(stream.prepare(np.stack([frame.pixels for frame in chunk])))
            last = {name: array.take(-1, timed[name]) if name in timed else array for name, array in answers.items()}
            if last:
                yield {**_at(chunk[-1]), **said(model, last)}
    if not last:
        raise DeployError(
            f"{path} ends before the first window of frames is full", "Give a longer video, or --every 1."
        )


def _at(frame: video.Frame) -> dict[str, Any]:
    return {"frame": frame.number, "seconds": round(frame.seconds, 3)}


def said(model: Model, answers: Mapping[str, Array]) -> dict[str, Any]:
    """Return the outputs of one sample as plain values, with the decision where there is one."""
    told: dict[str, Any] = {}
    task, labels = model.manifest.task, model.labels
    if isinstance(task, (Classes, MultiLabel)):
        scores = answers[min(decided(answers, task), key=list(answers).index)][0].reshape(-1, task.count)[-1]
        if isinstance(task, Classes):
            best = int(scores.argmax())
            told |= {"class": best, "score": float(scores[best])} | ({"label": labels[best]} if labels else {})
        else:
            there = [int(place) for place in np.flatnonzero(scores >= task.threshold)]
            told |= {"present": [labels[place] if labels else place for place in there]}
    return {**told, "outputs": {name: np.asarray(array[0], np.float64).tolist() for name, array in answers.items()}}


def as_json(found: Mapping[str, Any]) -> str:
    """Return one line of JSON."""
    return json.dumps(found, allow_nan=False)


def as_csv(found: Mapping[str, Any], header: bool) -> str:
    """Return one line of CSV, below its header where it is the first: what is decided, and the scores."""
    flat: dict[str, Any] = {
        key: " ".join(map(str, value)) if isinstance(value, list) else f"{value:.6g}" if key == "score" else value
        for key, value in found.items()
        if key != "outputs"
    }
    for name, values in found["outputs"].items():
        numbers: Sequence[Any] = np.ravel(values).tolist()
        flat |= {f"{name}_{place}": f"{number:.6g}" for place, number in enumerate(numbers)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(flat)
    writer.writerow(flat.values())
    return text.getvalue().rstrip("\n")


def pair(model: Model, files: Sequence[Path], out: Path) -> dict[str, float]:
    """Write the map that the network makes of two images as a grey PNG; return what black and white stand for."""
    names = [tensor.name for tensor in model.inputs]
    if len(names) != len(files) or model.manifest.preprocess is None or model.manifest.preprocess.pathways:
        raise UsageError(
            f"{model.manifest.name} takes {', '.join(names)}, and compares no {len(files)} images", "Give --video."
        )
    images = {name: video.image(path) for name, path in zip(names, files)}  # noqa: B905 - as long as each other
    answers = model.run(model.prepare(images))
    shown = next((array for array in answers.values() if array.ndim == 4), None)
    if shown is None:
        raise UsageError(f"{model.manifest.name} gives no map", "Call model.run and look at its outputs.")
    values = shown[0, 0]
    low, high = float(values.min()), float(values.max())
    grey = np.zeros(values.shape) if high == low else (values - low) / (high - low)
    try:
        video.png(out, np.rint(grey * WHITE).astype(np.uint8))
    except OSError as error:
        raise DeployError(f"{out} cannot be written: {error.strerror}", "Give --out a path that can.") from error
    return {"black": low, "white": high}
