"""How far outputs lie from PyTorch's: numbers only, which `judge` holds against limits.

The trap: a decision that differs is excused by the *reference's* uncertainty only, which is PyTorch fp32's own
distance from fp64. A candidate's noise never excuses its own flips.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from deploy_runtime import maps
from deploy_runtime.drift import Drift
from deploy_runtime.errors import DeployError
from deploy_runtime.spec import Classes, DenseMap, MultiLabel, Task

Array = np.ndarray[Any, Any]
# Of a reference and an answer: which decisions differ, and by what margin the reference made them, one value each.
Decisions = Callable[[Array, Array], tuple[Array, Array]]

FLOAT32_EPS = float(np.finfo(np.float32).eps)  # relative: PyTorch fp32 is never trusted to be closer to fp64 than this
EXCUSE = 2.0  # a flip is excused where the reference's margin is below this many times its own distance from fp64
WILSON_Z = 1.959964  # standard deviations of a 95 % interval


def measure(
    reference: Mapping[str, Array],
    got: Mapping[str, Array],
    task: Task,
    fp64_distance: Mapping[str, float] | None = None,
    fp64: Mapping[str, Array] | None = None,
) -> tuple[Drift, ...]:
    """Measure every output against PyTorch's. Arrays are [samples, ...]: all samples stacked on axis 0.

    `fp64_distance` is, per output, max |fp32 - fp64| of PyTorch itself; `fp64` holds the fp64 answers to the first few
    samples. Raises DeployError where an output is missing or has another shape, or PyTorch's own is not finite.
    An output with NaN or Inf is infinitely far and has `finite` False.
    """
    _check_names(reference, got)
    deciding = decided(reference, task)
    drifts = (
        _measure_output(
            name,
            np.asarray(reference[name]),
            np.asarray(got[name]),
            decide=_decisions(task) if name in deciding else None,
            own=(fp64_distance or {}).get(name, 0.0),
            fp64=None if fp64 is None else np.asarray(fp64[name]),
        )
        for name in reference
    )
    if not isinstance(task, DenseMap):
        return tuple(drifts)
    return tuple(replace(one, map=maps.compare(np.asarray(reference[one.output]), np.asarray(got[one.output])))
                 for one in drifts)  # fmt: skip


def decided(reference: Mapping[str, Array], task: Task) -> frozenset[str]:
    """Return the outputs whose last axis holds the task's classes or labels."""
    if not isinstance(task, (Classes, MultiLabel)):
        return frozenset()
    among = set(task.of or reference)
    names = frozenset(
        n for n, a in reference.items() if n in among and np.ndim(a) >= 2 and np.shape(a)[-1] == task.count
    )
    if not names:
        shapes = ", ".join(f"{name} {list(np.shape(array))}" for name, array in reference.items())
        raise DeployError(
            f"no output has {task.count} classes on its last axis: {shapes}",
            f"Correct the recipe's task: {type(task).__name__}({task.count}) is what it says now.",
        )
    return names


def decisions(shapes: Mapping[str, Sequence[int]], task: Task) -> int:
    """Return how many decisions outputs of these shapes hold: of the one that holds fewest, 0 where none decides."""
    outputs = {name: np.empty(shape, np.bool_) for name, shape in shapes.items()}
    each = task.count if isinstance(task, Classes) else 1
    return min((outputs[name].size // each for name in decided(outputs, task)), default=0)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Return the Wilson score 95 % interval of a share (Wilson 1927), (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    share, z2 = successes / trials, WILSON_Z**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = WILSON_Z / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))


def decibel(signal2: float, error2: float) -> float:
    """Return the ratio of two powers in dB, infinite without an error and minus that without a signal."""
    if error2 == 0:
        return math.inf
    return 10 * math.log10(signal2 / error2) if signal2 / error2 > 0 else -math.inf


def _check_names(reference: Mapping[str, Array], got: Mapping[str, Array]) -> None:
    if set(reference) != set(got):
        raise DeployError(
            f"the outputs are {', '.join(sorted(got)) or 'none'} instead of {', '.join(sorted(reference)) or 'none'}",
            "The engine was not built from this network: build the bundle again.",
        )
    for name, wanted in reference.items():
        if np.shape(wanted) != np.shape(got[name]):
            raise DeployError(
                f"output {name} has shape {list(np.shape(got[name]))} instead of {list(np.shape(wanted))}",
                "The engine was not built from this network: build the bundle again.",
            )
        if np.ndim(wanted) == 0 or np.size(wanted) == 0:
            raise DeployError(f"output {name} has no samples", "Measure at least one sample.")
        if not np.all(np.isfinite(wanted)):
            raise DeployError(
                f"PyTorch's own output {name} has NaN or Inf",
                "Nothing can be compared with it: check the weights and the samples in PyTorch first.",
            )


def _measure_output(
    name: str, reference: Array, got: Array, *, decide: Decisions | None, own: float, fp64: Array | None
) -> Drift:
    scale = float(np.max(np.abs(reference)))
    if not np.all(np.isfinite(got)):
        return _infinitely_far(name, reference, scale, decide, fp64 is not None)
    max_abs, total, error2, reference2, got2, dot, worst = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0
    for wanted_sample, got_sample in zip(reference, got, strict=True):  # one at a time: dense maps are large in fp64
        wanted, found = wanted_sample.astype(np.float64).ravel(), got_sample.astype(np.float64).ravel()
        error = np.abs(found - wanted)
        max_abs, total = max(max_abs, float(error.max())), total + float(error.sum())
        sums = float(wanted @ wanted), float(found @ found), float(wanted @ found)
        worst = min(worst, _cosine(*sums))
        error2 += float(error @ error)
        reference2, got2, dot = reference2 + sums[0], got2 + sums[1], dot + sums[2]
    mean_abs = total / reference.size
    agreement = _agreement(*decide(reference, got), own) if decide else {}
    return Drift(
        output=name,
        samples=len(reference),
        max_abs=max_abs,
        mean_abs=mean_abs,
        scale=scale,
        max_relative=_over(max_abs, scale),
        mean_relative=_over(mean_abs, scale),
        cosine=_cosine(reference2, got2, dot),
        worst_cosine=worst,
        sqnr_db=decibel(reference2, error2),
        fp64_ratio=None if fp64 is None else _fp64_ratio(reference, got, fp64, scale),
        **agreement,
    )


def _infinitely_far(name: str, reference: Array, scale: float, decide: Decisions | None, against_fp64: bool) -> Drift:
    far = math.inf
    decisions = len(decide(reference, reference)[0]) if decide else 0
    low, high = wilson(0, decisions)
    return Drift(
        name, len(reference), far, far, scale, far, far, cosine=0.0, worst_cosine=0.0, sqnr_db=-far,
        fp64_ratio=far if against_fp64 else None,
        agreement=0.0 if decide else None,
        agreement_low=low if decide else None,
        agreement_high=high if decide else None,
        decisions=decisions,
        finite=False,
    )  # fmt: skip


def _fp64_ratio(reference: Array, got: Array, fp64: Array, scale: float) -> float:
    """Return max |got - fp64| / max |reference - fp64| over the samples that fp64 has."""
    count = len(fp64)
    if fp64.shape[1:] != reference.shape[1:] or not 0 < count <= len(reference):
        raise ValueError(f"fp64 answers {fp64.shape} do not fit the reference's {reference.shape}")
    own = float(np.max(np.abs(reference[:count].astype(np.float64) - fp64)))
    theirs = float(np.max(np.abs(got[:count].astype(np.float64) - fp64)))
    return _over(theirs, max(own, FLOAT32_EPS * scale))


def _agreement(flipped: Array, margin: Array, own: float) -> dict[str, Any]:
    excused = int(np.count_nonzero(flipped & (margin < EXCUSE * own)))
    agreeing = len(flipped) - int(np.count_nonzero(flipped)) + excused
    low, high = wilson(agreeing, len(flipped))
    return {
        "agreement": agreeing / len(flipped),
        "agreement_low": low,
        "agreement_high": high,
        "decisions": len(flipped),
        "excused": excused,
    }


def _decisions(task: Task) -> Decisions:
    if isinstance(task, MultiLabel):
        return lambda reference, got: _label_flips(reference, got, task.threshold)
    return _class_flips


def _class_flips(reference: Array, got: Array) -> tuple[Array, Array]:
    """The largest decides; the margin is how far the reference puts its own choice above the other."""
    wanted = reference.reshape(-1, reference.shape[-1]).astype(np.float64)
    first, theirs = wanted.argmax(axis=1), got.reshape(wanted.shape).argmax(axis=1)
    rows = np.arange(len(wanted))
    return first != theirs, wanted[rows, first] - wanted[rows, theirs]


def _label_flips(reference: Array, got: Array, threshold: float) -> tuple[Array, Array]:
    """Each label decides by itself. Its distance from the threshold counts twice: one score, not two, may be off."""
    wanted, found = reference.ravel().astype(np.float64), got.ravel()
    return (wanted >= threshold) != (found >= threshold), 2 * np.abs(wanted - threshold)


def _over(error: float, scale: float) -> float:
    return error / scale if scale > 0 else (0.0 if error == 0 else math.inf)


def _cosine(one2: float, other2: float, dot: float) -> float:
    """Return the cosine from two squared norms and the product; equal zeros point the same way."""
    if one2 == 0 or other2 == 0:
        return 1.0 if one2 == other2 else 0.0
    return max(-1.0, min(1.0, dot / math.sqrt(one2) / math.sqrt(other2)))
