"""Samples and answers on disk: a folder of numbered `.npz` files, one sample each, arrays by tensor name.

Every array has a batch axis of 1. One sample is in memory at a time, however many there are.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np


def write(folder: Path, samples: Iterable[dict[str, np.ndarray]]) -> int:
    """Write samples as `000.npz`, `001.npz`, …; return how many there were."""
    folder.mkdir(exist_ok=True)
    count = 0
    for count, sample in enumerate(samples, start=1):
        save(folder / f"{count - 1:03d}.npz", sample)
    return count


def save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write one `.npz`, uncompressed."""
    np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy's stub takes every keyword for allow_pickle


def paths(folder: Path) -> list[Path]:
    """The files in the order they were written."""
    return sorted(folder.glob("*.npz"), key=lambda path: int(path.stem))


def load(path: Path) -> dict[str, np.ndarray]:
    """Return one sample."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def read(folder: Path) -> Iterator[dict[str, np.ndarray]]:
    """Return the samples in order, each read when it is asked for."""
    return map(load, paths(folder))


def stacked(folder: Path, count: int | None = None) -> dict[str, np.ndarray]:
    """Return the first `count` samples (None: all) of a folder, stacked on axis 0."""
    samples = list(read(folder))[:count]
    return {name: np.concatenate([sample[name] for sample in samples]) for name in samples[0]}
