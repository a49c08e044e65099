"""A recipe compiled into a bundle to measure: what it ships, one of its engines opened, PyTorch stepped beside it."""

import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deploy_compile.samples import at_start
from deploy_recipes import Recipe
from deploy_runtime import manifest
from deploy_runtime.model import Model, open_session

COMPILE_S = 4 * 3600  # one that hangs ends then; the largest network beside other work took more than one hour

if TYPE_CHECKING:
    from torch import nn


def compiled(name: str, bundle: Path, params: Mapping[str, str], *options: str) -> str:
    """Compile a recipe for the CPU with --int8; return why that failed, nothing where it did not."""
    words = [word for key, value in params.items() for word in ("--param", f"{key}={value}")]
    command = [sys.executable, "-m", "deploy_compile", "recipe", name, "--int8", "--target", "cpu", *words, *options]
    made = subprocess.run(
        [*command, "--out", str(bundle)], capture_output=True, text=True, check=False, timeout=COMPILE_S
    )
    said = made.stderr.strip().splitlines() or [f"it ended with {made.returncode}"]
    return said[-1] if made.returncode else ""


def shipped(bundle: Path) -> list[str]:
    """Return the names of the candidates that passed on this processor."""
    rows = manifest.read(bundle).candidates
    return [row.name for row in rows if row.status == "passed" and row.file is not None and row.target == "cpu"]


def opened(bundle: Path, candidate: str, threads: int) -> Model:
    """Open one candidate of a bundle through the runtime that ships."""
    found = manifest.read(bundle)
    row = next(row for row in found.candidates if row.name == candidate)
    fresh = partial(open_session, bundle, found, row, threads)
    return Model(found, row, fresh(), "", fresh)


def by_torch(net: "nn.Module", recipe: Recipe, frames: Iterable[Mapping[str, np.ndarray]]) -> np.ndarray:
    """Return PyTorch's logits [1, frames, classes] for each frame of a film, its own state carried on, on one thread.

    More threads wait for each other at every layer of a small net: slower, and much slower beside other work.
    """
    import torch  # not above: what is timed runs without it

    torch.set_num_threads(1)
    state = [torch.from_numpy(array) for array in at_start({}, recipe).values()]
    said = []
    with torch.inference_mode():
        for frame in frames:
            logits, *others = net(*(torch.from_numpy(array) for array in frame.values()), *state)
            state = others[-len(state) :]
            said.append(logits.numpy())
    return np.concatenate(said, axis=1)
