"""Metamorphic gates for networks that compare two studies: what has to hold of a pair whatever is on it.

Run on the engine and on PyTorch alike, which is the oracle: the same study twice (what does "no change" look like?),
the two exchanged (an engine whose inputs were merged or mixed up by a compiler answers as before), and both a little
brighter, as another exposure would be, which may move the answer no more than it does in PyTorch. The trap: INT8 adds
its own noise to any difference of two answers, which is not a reaction to the light: it is taken off first.
"""

from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path

import numpy as np

from deploy_compile import parity_run
from deploy_compile.reference import SLOW_S, forward
from deploy_compile.results import Built, Loaded, Paired, PairParity, Samples
from deploy_compile.sample_files import load, paths, read, save, write
from deploy_compile.stream_parity import FAITHFUL_DB, sqnr
from deploy_compile.synthetic import value_range
from deploy_recipes.recipe import Recipe
from deploy_runtime.drift import PairDrift, Verdict
from deploy_runtime.errors import DeployError
from deploy_runtime.spec import Batch, Limit

PAIRS, SLOW_PAIRS = 4, 2  # of the held-out ones; of a network that is slow (see reference)
BRIGHTER = 0.05  # of the range that preprocessing can give
MOST_SHIFT = 1.1  # times PyTorch's own reaction to the light

Sample = dict[str, np.ndarray]
Changed = Callable[[Sample], Sample]


def pair_reference(out: Path, loaded: Loaded, recipe: Recipe, samples: Samples, seconds: float, threads: int) -> Paired:
    """Write held-out pairs as they are, twice the same, exchanged and brighter, with PyTorch's answers. A stage.

    `seconds`: how long PyTorch takes for one pair.
    """
    import torch

    from deploy_compile.load import module

    torch.set_num_threads(threads)
    net = module(loaded)
    pairs = list(islice(read(samples.held_out), SLOW_PAIRS if seconds > SLOW_S else PAIRS))
    for name, changed in forms(recipe).items():
        write(out / name, map(changed, pairs))
    answers = [forward(net, recipe, sample) for name in forms(recipe) for sample in read(out / name)]
    save(out / "answers.npz", {name: np.concatenate([one[name] for one in answers]) for name in answers[0]})
    return Paired(out / "plain", out / "same", out / "exchanged", out / "brighter", out / "answers.npz")


def forms(recipe: Recipe) -> Mapping[str, Changed]:
    """Return what is done to a pair, by name, in the order of the answers. Raises ValueError for no pair."""
    if recipe.pair is None:
        raise ValueError(f"{recipe.name} compares no pair")
    before, after = recipe.pair
    low, high = (-1.0, 1.0) if recipe.preprocess is None else value_range(recipe.preprocess)
    step = np.float32(BRIGHTER * (high - low))
    return {
        "plain": lambda pair: pair,
        "same": lambda pair: {**pair, after: pair[before]},
        "exchanged": lambda pair: {**pair, before: pair[after], after: pair[before]},
        "brighter": lambda pair: {
            name: np.clip(array + step, low, high).astype(np.float32) if name in (before, after) else array
            for name, array in pair.items()
        },
    }


def pair_parity(
    out: Path,  # noqa: ARG001 - a stage writes into it; this one has nothing to write
    built: Built,
    recipe: Recipe,
    paired: Paired,
    batch: Batch,
    threads: int,
) -> PairParity:
    """Ask one engine about the same pairs. A crash is its reason. A stage."""
    assert built.file is not None, "only engines that passed are asked"
    files = [file for folder in paired.folders for file in paths(folder)]
    engine = (built.file, built.backend, built.precision, recipe.inputs, recipe.outputs, batch)
    try:
        got = parity_run.outputs(*engine, files, threads, built.target)
    except DeployError as error:
        return PairParity((), "crashed", error.message)
    wanted, count = load(paired.answers), len(paths(paired.plain))
    return PairParity(tuple(_drift(name, wanted[name], got[name], count) for name in wanted), "passed", "")


def _drift(name: str, wanted: np.ndarray, got: np.ndarray, count: int) -> PairDrift:
    truth, found = ([array[start : start + count] for start in range(0, 4 * count, count)] for array in (wanted, got))
    noise2 = _power(found[0] - truth[0]) + _power(found[3] - truth[3])
    moved2 = max(0.0, _power(found[3] - found[0]) - noise2)
    own2 = _power(truth[3] - truth[0])
    return PairDrift(
        output=name,
        pairs=count,
        same_db=sqnr(truth[1], found[1]),
        exchanged_db=sqnr(truth[2], found[2]),
        light_ratio=float(np.sqrt(moved2 / own2)) if own2 else (0.0 if moved2 == 0.0 else float("inf")),
    )


def _power(values: np.ndarray) -> float:
    return float(np.square(values, dtype=np.float64).mean())


def verdicts(drifts: tuple[PairDrift, ...], limit: Limit) -> tuple[Verdict, ...]:
    """Judge: both answers as close as any other, and no stronger a reaction to light."""
    found = []
    for drift in drifts:
        least = limit.of(drift.output).sqnr_db or FAITHFUL_DB
        found += [
            Verdict(drift.output, "pair_same_db", drift.same_db, least, drift.same_db >= least),
            Verdict(drift.output, "pair_exchanged_db", drift.exchanged_db, least, drift.exchanged_db >= least),
            Verdict(drift.output, "pair_light_ratio", drift.light_ratio, MOST_SHIFT, drift.light_ratio <= MOST_SHIFT),
        ]
    return tuple(found)
