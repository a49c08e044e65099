"""Small clips and images on disk, written in milliseconds."""

from pathlib import Path

import av
import numpy as np
from PIL import Image


def clip(path: Path, frames: int = 30, size: int = 64) -> Path:
    """Write a video whose frame i is grey level 8i all over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 8_000_000  # so that grey levels survive
        container.start_encoding()  # a video of no frames is a file too
        for number in range(frames):
            picture = np.full((size, size, 3), min(255, 8 * number), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def image(path: Path, level: int = 100) -> Path:
    """Write a picture of one grey level, of the next one in its right half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.full((40, 50, 3), level, np.uint8)
    grey[:, 25:] += 1  # not blank
    Image.fromarray(grey).save(path)
    return path
