"""A user's folder of images, clips and arrays: which files there are, whose they are, and what is in each.

Everything is decoded to 8-bit frames, RGB or (DICOM) grey, one window of one file at a time. Sources matter: frames of
one patient look alike, so what measures drift must come from other patients than what set the ranges. Where the folder
has subfolders, each is a source (a patient) with all files under it; a file beside them, or in a flat folder, is a
source by itself.
The trap: a file's name may be a patient's. It is said only in an error about that very file, never kept.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from deploy_compile import dicom, pairs
from deploy_compile.pairs import Pair
from deploy_runtime.errors import DeployError

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"})
ARRAYS = frozenset({".npy", ".npz"})
READS = "png, jpg, bmp, tif, webp, mp4, avi, mov, mkv, webm, mpg, wmv, npy, npz, and DICOM with the extra `dicom`"
# Most frames from one taken frame to the next in a window: the sampling rate X3D-S was trained with
# (pytorchvideo's hub: 13 frames, every 6th). A window of a long operation is then seconds, not the whole of it.
STRIDE = 6

Array = NDArray[np.generic]
Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Source:
    """Files, or pairs of them, of one patient: they go to calibration or to the held-out set, all of them."""

    files: tuple[Path | Pair, ...]


def sources(folder: Path, images: Sequence[str] = ()) -> list[Source]:
    """Return the sources of a folder in sorted order. Raises DeployError where there is nothing to read.

    `images` names the inputs of a network that compares several images: the folder may then hold pairs (see `pairs`).
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DeployError(f"the calibration folder {folder} {what}", "Give --calibration a folder of images or clips.")
    groups: dict[str, list[Path]] = {}
    others: set[str] = set()
    files = _files(folder)
    if len(images) > 1 and (found := pairs.find(folder, images, filter(_readable_kind, files))) is not None:
        return [Source(of_one) for of_one in found]
    for path in files:
        if _readable_kind(path):
            groups.setdefault(path.relative_to(folder).parts[0], []).append(path)
        else:
            others.add(path.suffix.lower() or "no ending")
    if not groups:
        seen = f"only files of other kinds ({', '.join(sorted(others))})" if others else "no files"
        raise DeployError(f"the calibration folder {folder} holds {seen}", f"It reads {READS}.")
    return [Source(tuple(groups[name])) for name in sorted(groups)]


def windows(path: Path, frames: int | None, most: int) -> Iterator[Frames]:
    """Yield up to `most` windows of an image, a video or a DICOM file: `[H, W, 3]` for an image network (`frames`
    None), else `[frames, H, W, 3]`, evenly spread over the file, none overlapping. Grey DICOM has one channel.

    Raises DeployError for a file that cannot be decoded, is too short, or is an image where a clip is needed.
    """
    if path.suffix.lower() in VIDEOS:
        yield from _video(path, frames, most)
    elif path.suffix.lower() in IMAGES:
        _takes_one(path, frames)
        yield _image(path)
    else:
        yield from _dicom(path, frames, most)


def arrays(path: Path) -> dict[str, Array]:
    """Return the arrays of a `.npy` (under the name "") or `.npz` file. Raises DeployError."""
    with _readable(path), path.open("rb") as file:
        try:
            loaded = np.load(file, allow_pickle=False)
            return {"": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
        except (ValueError, EOFError, KeyError, OSError, BadZipFile) as error:
            if isinstance(error, PermissionError):
                raise
            raise DeployError(
                f"{path} cannot be read as numpy arrays: {_first(error)}", "Save it again with numpy."
            ) from error


def _files(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise DeployError(
            f"{error.filename} cannot be listed: {error.strerror}", "Give yourself the right to read it."
        ) from error

    places = os.walk(folder, onerror=refuse)
    found = [Path(place) / name for place, _, names in places for name in names if not name.startswith(".")]
    return sorted(found)


def _readable_kind(path: Path) -> bool:
    """Whether a file is of a kind that can be read; DICOM is known by its mark too: its files often have no ending."""
    suffix = path.suffix.lower()
    if suffix in IMAGES | VIDEOS | ARRAYS | dicom.SUFFIXES:
        return True
    with _readable(path):
        return dicom.marked(path)


def _takes_one(path: Path, frames: int | None) -> None:
    if frames is not None:
        raise DeployError(f"{path} is one image, and the network takes clips of {frames} frames", "Give videos.")


def _dicom(path: Path, frames: int | None, most: int) -> Iterator[Frames]:
    def choose(total: int) -> list[list[int]]:
        if total == 1:
            _takes_one(path, frames)
        return _spread(total, frames, most, path)

    with _readable(path):
        for shown in dicom.read(path, choose):
            yield shown[0] if frames is None else shown


def _image(path: Path) -> Frames:
    from PIL import Image, UnidentifiedImageError

    with _readable(path), path.open("rb") as file:
        try:
            with Image.open(file) as image:
                if image.mode.startswith(("I", "F")):
                    raise DeployError(
                        f"{path} has more than 8 bits a pixel, and how to scale them is yours to decide",
                        "Window it to 8 bits as in training, or give ready float32 arrays as .npy.",
                    )
                return np.asarray(image.convert("RGB"))
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
            if isinstance(error, PermissionError):
                raise
            raise DeployError(
                f"{path} cannot be decoded as an image: {_first(error)}", "Remove or replace the file."
            ) from error


def _video(path: Path, frames: int | None, most: int) -> Iterator[Frames]:
    import av
    from av.error import FFmpegError

    with _readable(path):
        try:
            with path.open("rb") as file, av.open(file, "r") as container:
                if not container.streams.video:
                    raise _broken(path, "it has no video stream")
                stream = container.streams.video[0]
                stream.thread_type = "AUTO"
                stamps = sorted(
                    packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None
                )
                for wanted in _spread(len(stamps), frames, most, path):
                    yield _decode(container, stream, [stamps[index] for index in wanted], path, still=frames is None)
        except (FFmpegError, OSError) as error:  # an empty file is a plain OSError
            if isinstance(error, PermissionError):
                raise
            raise _broken(path, _first(error)) from error


def _spread(total: int, frames: int | None, most: int, path: Path) -> list[list[int]]:
    """Return the frame numbers of each window: the middle of each of equal parts, at most STRIDE frames apart."""
    from deploy_runtime.preprocess import sample_uniformly

    length = frames or 1
    if total < length:
        found = "no frames" if total == 0 else f"{total} frames"
        raise DeployError(f"{path} has {found}, and a window needs {length}", "Remove it, or give longer videos.")
    parts = min(most, total // length)
    size = total // parts
    span = min(size, (length - 1) * STRIDE + 1)
    starts = [part * size + (size - span) // 2 for part in range(parts)]
    return [[start + int(place) for place in sample_uniformly(span, length)] for start in starts]


def _decode(container: object, stream: object, stamps: list[int], path: Path, *, still: bool) -> Frames:
    """Decode the frames of these presentation times, from the key frame before the first of them."""
    container.seek(stamps[0], stream=stream, backward=True)  # type: ignore[attr-defined]
    wanted, found = set(stamps), {}
    for frame in container.decode(stream):  # type: ignore[attr-defined]
        if frame.pts in wanted:
            found[frame.pts] = frame.to_ndarray(format="rgb24")
        if len(found) == len(wanted):
            break
    if len(found) < len(wanted):
        raise _broken(path, f"{len(wanted) - len(found)} of {len(wanted)} frames of a window are missing")
    shown = np.stack([found[stamp] for stamp in stamps])
    return shown[0] if still else shown


def _broken(path: Path, why: str) -> DeployError:
    return DeployError(f"{path} cannot be decoded as a video: {why}", "Remove or replace the file.")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise DeployError(
            f"{path} cannot be opened: permission denied", "Give yourself the right to read it."
        ) from error


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].replace("\n", " ")[:120]
