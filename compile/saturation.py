"""Whether a calibration set is one to trust: looked at as samples, then by what it does to samples it never saw.

Refused is what makes ranges meaningless: blank samples only, values of another scale than the network's. All else is
told with the symptom measured: how many layers get no range, and how much of the held-out samples saturates.
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from deploy_compile import onnx_graph, sample_files
from deploy_compile.probes import Probes
from deploy_compile.results import Graph
from deploy_compile.results_int8 import Ranges, Saturation
from deploy_compile.synthetic import value_range
from deploy_recipes.recipe import Preprocess, Recipe
from deploy_runtime.errors import DeployError
from deploy_runtime.spec import Tensor

FEW = 4  # samples; below, one patient or one scene gives the ranges
ROUNDING = 0.02  # of the range that preprocessing can give: resizing overshoots a little
FOREIGN = 0.5  # the share of values outside of it from which they are taken to be of another scale
PROBED = 8  # held-out samples
NOTICED = 0.01  # the share of a tensor's values that saturates from which the tensor counts


def doubts(folder: Path, recipe: Recipe) -> tuple[str, ...]:
    """Say what is wrong with a set of one-sample `.npz` files, a sentence each.

    Raises DeployError where every sample is blank, or most values lie outside what preprocessing can give.
    """
    count, blank, digests = 0, 0, set()
    pictures = [tensor.name for tensor in recipe.inputs if {"H", "W"} <= set(tensor.layout)]
    seen = {tensor.name: _Outside(tensor, recipe.preprocess) for tensor in recipe.inputs}
    for sample in sample_files.read(folder):
        count += 1
        blank += any(float(np.ptp(sample[name])) == 0.0 for name in pictures)
        digests.add(tuple(hashlib.sha256(np.ascontiguousarray(array).data).digest() for array in sample.values()))
        for name, array in sample.items():
            seen[name].add(array)
    if blank == count:
        raise DeployError(
            f"{'the calibration sample is' if count == 1 else f'all {count} calibration samples are'} blank: one value "
            "throughout, whose ranges fit nothing else",
            "Calibrate on images or clips as the model will see them.",
        )
    told = [sentence for outside in seen.values() if (sentence := outside.told())]
    if blank:
        told.append(
            f"{blank} of {count} calibration samples {'is' if blank == 1 else 'are'} blank, one value throughout"
        )
    if len(digests) < count:
        told.append(f"of {count} calibration samples only {len(digests)} differ{'s' if len(digests) == 1 else ''}")
    elif count < FEW:
        told.append(f"{count} calibration sample{'s' if count > 1 else ''} only: one scene sets the INT8 ranges")
    return tuple(told)


class _Outside:
    """Counts the values of one input that preprocessing cannot give."""

    def __init__(self, tensor: Tensor, preprocess: Preprocess | None) -> None:
        self.tensor, self.count, self.outside = tensor, 0, 0
        self.least, self.largest = np.inf, -np.inf
        self.ends = None if preprocess is None else _ends(preprocess)

    def add(self, array: np.ndarray) -> None:
        if self.ends is None:
            return
        low, high = self.ends
        self.count += array.size
        self.outside += int(((array < low) | (array > high)).sum())
        self.least, self.largest = min(self.least, float(array.min())), max(self.largest, float(array.max()))

    def told(self) -> str:
        """Say it, or nothing. Raises DeployError where most of the values are outside."""
        if not self.outside or self.ends is None:
            return ""
        what = (
            f"{100 * self.outside / self.count:.2g} % of the calibration samples' values of {self.tensor.name} lie "
            f"outside of what its preprocessing gives: they run from {self.least:.3g} to {self.largest:.3g}, it gives "
            f"{self.ends[0]:.3g} to {self.ends[1]:.3g}"
        )
        if self.outside > FOREIGN * self.count:
            raise DeployError(
                what, "Give images or uint8 arrays, which are preprocessed here, or arrays that are normalised already."
            )
        return what


def _ends(preprocess: Preprocess) -> tuple[float, float]:
    """Return the least and the largest value that preprocessing gives 8-bit values, with room for rounding."""
    low, high = value_range(preprocess)
    room = ROUNDING * (high - low)
    return low - room, high + room


def saturation(
    out: Path,  # noqa: ARG001 - a stage writes into it; this one has nothing to write
    fp32: Graph,
    ranges: Ranges,
    held_out: Path,
    threads: int,
) -> Saturation:
    """Measure how much of the held-out samples lies beyond the calibrated ranges of what becomes INT8. A stage."""
    model = onnx_graph.load(fp32.path)
    tensors = [name for name in onnx_graph.quantizable(model) if name in ranges.tensors]
    dead = [name for name in tensors if ranges.tensors[name].threshold == 0.0]
    probes = Probes(model)
    shares = {name: probes.share_beyond(name, ranges.tensors[name].threshold) for name in tensors if name not in dead}
    samples = list(islice(sample_files.read(held_out), PROBED))
    found = probes.run(samples, threads) if shares else {}
    beyond: Mapping[str, float] = {name: found[probe] / len(samples) for name, probe in shares.items()}
    return Saturation(
        tensors=len(tensors),
        dead=len(dead),
        saturated=sum(share > NOTICED for share in beyond.values()),
        worst=max(beyond.values(), default=0.0),
        samples=len(samples),
    )


def symptoms(found: Saturation) -> Sequence[str]:
    """Say what a set of ranges does to samples it was not made from, where that is worth a person's while."""
    told = []
    if found.dead:
        told.append(
            f"{found.dead} of {found.tensors} tensors were zero in every calibration sample: their layers stay float"
        )
    if found.saturated:
        told.append(
            f"{found.saturated} of {found.tensors} quantized tensors have more than {100 * NOTICED:g} % of their "
            f"values beyond the calibrated range on held-out samples, the worst {100 * found.worst:.2g} %: "
            "calibrate on more, or more varied, samples"
        )
    return told
