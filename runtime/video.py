"""Frames of a video or an image file, decoded one at a time: 8 bits, RGB, with the time at which each is shown.

Needs PyAV, and nothing else of the runtime does. Times are the file's own, so that a variable frame rate is no trap:
frames are counted as they come, and told with their time. The trap is a picture that changes its size in the middle
(a recorder that was switched): it is an error that says where, since everything learned so far was of another picture.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deploy_runtime.errors import DeployError, UsageError
from deploy_runtime.session import Array, NotHereError, first_line

INSTALL = "pip install 'av>=14'"


class Frame(NamedTuple):
    """One frame: its number from 0, its time in seconds, and its pixels [height, width, 3]."""

    number: int
    seconds: float
    pixels: Array


def frames(path: Path, every: int = 1) -> Iterator[Frame]:
    """Yield every so manieth frame of a file. Raises DeployError where it cannot be decoded or changes its size."""
    if every < 1:
        raise UsageError(f"every {every}th frame is asked for", "Give 1 or more.")
    library = _library()
    failures = (library.error.FFmpegError, OSError)
    try:
        with path.open("rb") as file, library.open(file, "r") as container:
            if not container.streams.video:
                raise DeployError(f"{path} has no pictures in it", "Give a video or an image file.")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield from _decoded(container.decode(stream), path, every)
    except failures as error:
        raise DeployError(
            f"{path} cannot be decoded: {first_line(error)}", "Look whether a player shows it to its end."
        ) from error


def _decoded(decoded: Iterator[Any], path: Path, every: int) -> Iterator[Frame]:
    size, count = None, 0
    for count, shown in enumerate(decoded, start=1):
        if size is not None and (shown.height, shown.width) != size:
            raise DeployError(
                f"frame {count - 1} of {path} is {shown.width} x {shown.height}, and those before it are "
                f"{size[1]} x {size[0]}",
                "Cut the file where the recording changes, and run the parts one by one.",
            )
        size = shown.height, shown.width
        if (count - 1) % every == 0:
            yield Frame(count - 1, float(shown.time or 0.0), shown.to_ndarray(format="rgb24"))
    if count == 0:
        raise DeployError(f"{path} has no frames", "Look whether a player shows it.")


def image(path: Path) -> Array:
    """Return the one picture of a file [height, width, 3]; the first of a video."""
    return next(frames(path)).pixels


def png(path: Path, pixels: Array) -> None:
    """Write a grey picture [height, width] of 8 bits."""
    library = _library()
    with library.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.height, stream.width = pixels.shape
        stream.pix_fmt = "gray"
        container.mux(stream.encode(library.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="gray")))
        container.mux(stream.encode())


def _library() -> Any:
    if find_spec("av") is None:
        raise NotHereError("decoding needs PyAV, which is not installed", f"Install it: {INSTALL}")
    import av
    import av.error

    return av
