"""Write 24 short mp4 clips to calibrate on, from the two photographs that scikit-learn ships:

    python examples/clips.py clips && deploy-compile recipe x3d_s --int8 --calibration clips

Each photograph is cut into six regions that do not overlap; a region is a source with a subfolder of its own, as a
patient would have, and gives two clips in which the camera pans and zooms and the light changes. Calibration and
held-out samples then come from different regions.
"""

import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

FRAMES = 48
RATE = 24  # frames a second
SIZE = (240, 208)  # width, height in pixels; the short side is above the 182 that X3D-S resizes to
GRID = (2, 3)  # regions of a photograph, down and across
CLIPS = 2  # of a region
CODECS = ("libx264", "mpeg4")  # the first that this PyAV carries

Array = np.ndarray[Any, Any]


def write(folder: Path) -> int:
    """Write all clips under `folder`, a subfolder a region; return how many."""
    from sklearn.datasets import load_sample_images  # type: ignore[import-untyped]

    photos = load_sample_images()
    count = 0
    for name, photo in zip(photos.filenames, photos.images, strict=True):
        for place, region in enumerate(regions(photo)):
            source = folder / f"{Path(name).stem}-{place}"
            source.mkdir(parents=True, exist_ok=True)
            for number in range(CLIPS):
                encode(source / f"{number}.mp4", moving(region, seed=count))
                count += 1
    return count


def regions(photo: Array) -> list[Array]:
    """Cut a photograph [H, W, 3] into its regions, row by row."""
    return [part for row in np.array_split(photo, GRID[0], axis=0) for part in np.array_split(row, GRID[1], axis=1)]


def moving(region: Array, seed: int) -> list[Array]:
    """Return FRAMES frames, uint8 [208, 240, 3]: a window that pans and zooms over the region in changing light."""
    rng = np.random.default_rng(seed)
    picture = Image.fromarray(region)
    (near, far), (start, end) = rng.uniform(0.55, 0.9, 2), rng.uniform(0.0, 1.0, (2, 2))
    zoom = np.linspace(near, far, FRAMES)  # share of the region that the window shows
    path = np.linspace(start, end, FRAMES)  # from one corner of what is possible to another
    light = 1.0 + 0.25 * np.sin(np.linspace(0.0, rng.uniform(2.0, 7.0), FRAMES) + rng.uniform(0.0, 6.3))
    frames = []
    for share, (x, y), bright in zip(zoom, path, light, strict=True):
        scale = share * min(picture.width / SIZE[0], picture.height / SIZE[1])
        width, height = scale * SIZE[0], scale * SIZE[1]
        left, top = x * (picture.width - width), y * (picture.height - height)
        shown = picture.resize(SIZE, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
        frames.append(np.clip(np.asarray(shown, np.float32) * bright, 0, 255).astype(np.uint8))
    return frames


def encode(path: Path, frames: list[Array]) -> None:
    """Write frames as an mp4 file."""
    codec = next(name for name in CODECS if name in av.codecs_available)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 1_500_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/clips.py FOLDER")
    folder = Path(sys.argv[1])
    print(f"{write(folder)} clips from {len(list(folder.iterdir()))} sources in {folder}")


if __name__ == "__main__":
    main()
