"""PyTorch's own answers, which everything else is compared with: fp32 on held-out and golden samples, fp64 on a few.

The fp64 run tells how far PyTorch fp32 itself is from the truth, so that an ill-conditioned network is told from a
wrong export. One sample a pass: batch 1 is what the engines run, and memory stays that of one clip. The trap: the fp64
module is the fp32 weights widened, so what it measures is rounding in the arithmetic, not in the weights.
"""

import math
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deploy_compile.results import Loaded, Reference, Samples
from deploy_compile.sample_files import read, write
from deploy_compile.samples import HELD_OUT
from deploy_recipes.recipe import Recipe
from deploy_runtime.measure import decisions

if TYPE_CHECKING:
    from torch import nn

SLOW_S = 2.0  # a forward pass longer than this has fewer held-out samples
SLOW_SAMPLES = 4
TELLING = 100  # decisions at least, to tell an agreement of 0.99 from less: one of fewer that differs is below it
FP64_SAMPLES, SLOW_FP64_SAMPLES = 2, 1  # fp64 takes many times as long
TRIES = 3


def reference(out: Path, loaded: Loaded, recipe: Recipe, samples: Samples, threads: int) -> Reference:
    """Run PyTorch eager on the held-out and golden samples, in fp32, and on the first two held-out ones in fp64.

    Where one forward pass takes over 2 s only the first few held-out samples are run (`fewest`), and the first one in
    fp64; the folder holds the answers.
    """
    import torch

    from deploy_compile.depthwise import shifted
    from deploy_compile.load import module

    torch.set_num_threads(threads)
    net = module(loaded)
    held_out = list(islice(read(samples.held_out), SLOW_SAMPLES))
    with torch.inference_mode():
        seconds = min(_seconds(net, recipe, held_out[0]) for _ in range(TRIES))  # the first one initialises lazily
        most = fewest(recipe) if seconds > SLOW_S else None
        for folder, source in (("held_out", islice(read(samples.held_out), most)), ("golden", read(samples.golden))):
            write(out / folder, (forward(net, recipe, sample, np.float32) for sample in source))
        narrow = list(islice(read(out / "held_out"), SLOW_FP64_SAMPLES if most else FP64_SAMPLES))
        net = net.double()
        shifted(net)
        wide = [forward(net, recipe, sample, np.float64) for sample in held_out[: len(narrow)]]
    write(out / "fp64", wide)
    return Reference(
        held_out=out / "held_out",
        golden=out / "golden",
        fp64=out / "fp64",
        fp64_samples=len(wide),
        fp64_distance={tensor.name: _distance(tensor.name, narrow, wide) for tensor in recipe.outputs},
        seconds=seconds,
    )


def fewest(recipe: Recipe) -> int:
    """Return on how many held-out samples a slow network is measured: 4, or as many as hold TELLING decisions where
    each holds several (a phase a frame, a finding a label) and there are so many samples."""
    each = decisions({tensor.name: tensor.at(1) for tensor in recipe.outputs}, recipe.task)
    telling = math.ceil(TELLING / max(1, each))
    return telling if SLOW_SAMPLES < telling <= HELD_OUT else SLOW_SAMPLES


def _seconds(net: "nn.Module", recipe: Recipe, sample: dict[str, np.ndarray]) -> float:
    begun = time.perf_counter()
    forward(net, recipe, sample, np.float32)
    return time.perf_counter() - begun


def forward(
    net: "nn.Module", recipe: Recipe, sample: Mapping[str, np.ndarray], dtype: type = np.float32
) -> dict[str, np.ndarray]:
    """Return a network's outputs for one sample, each by its name; nothing is kept for gradients."""
    import torch

    inputs = [torch.from_numpy(np.asarray(sample[tensor.name], dtype)) for tensor in recipe.inputs]
    with torch.inference_mode():
        given = net(*inputs)
    outputs = given if isinstance(given, (tuple, list)) else (given,)
    return {tensor.name: value.numpy() for tensor, value in zip(recipe.outputs, outputs, strict=True)}


def _distance(name: str, narrow: Sequence[dict[str, np.ndarray]], wide: Sequence[dict[str, np.ndarray]]) -> float:
    return max(float(np.abs(one[name] - other[name]).max()) for one, other in zip(narrow, wide, strict=True))
