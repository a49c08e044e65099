"""Latency of every candidate beside PyTorch eager: measured here, side by side, never assumed.

Each runs in a worker of its own with the same number of threads, and all of them take turns in one run
(`deploy_runtime.timing`), so that a drifting clock or a busy neighbour falls on all alike. Workers sleep between their
turns. What is timed is a warm engine, as in a program that does little else (`timing.warm`). Where memory does not hold
all of them (`TOGETHER`) they are timed in parts, PyTorch and the fastest so far in each.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deploy_compile import onnx_graph
from deploy_compile.parity_run import sample
from deploy_compile.results import Built, Loaded, Samples, Speeds
from deploy_compile.worker import Crashed, Worker
from deploy_recipes import Recipe
from deploy_runtime import backends, timing
from deploy_runtime.errors import DeployError
from deploy_runtime.evidence import Speed
from deploy_runtime.spec import Batch, Tensor

BUDGET_S = 25.0  # for all candidates together, once they are open
LEAST_ROUNDS = timing.LEAST_ROUNDS  # taken even where the budget is spent by then: fewer say nothing of the spread
OPENED_AT_ONCE = 2  # candidates; nothing is timed meanwhile
TOGETHER = 5 * 2**30  # bytes of engines held at once, each in memory up to twice: a ViT-H (2.5 GB) takes two parts
OPEN_S = 300.0  # the longest that a candidate may take to open
TURN_S = 300.0  # the longest that two runs may take
TORCH = "PyTorch eager"


def measure(
    out: Path,  # noqa: ARG001 - a stage writes into it; this one has nothing to write
    engines: Sequence[Built],
    loaded: Loaded,
    recipe: Recipe,
    samples: Samples,
    batch: Batch,
    threads: int,
) -> Speeds:
    """Time the engines that run on this machine beside PyTorch eager, on a held-out sample. A stage."""
    here = [engine for engine in engines if engine.file is not None and engine.status == "passed"]
    return time_engines(here, loaded, recipe.inputs, recipe.outputs, batch, samples.held_out, threads)


def time_engines(
    engines: Sequence[Built],
    loaded: Loaded,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    batch: Batch,
    samples: Path,
    threads: int,
    budget_s: float = BUDGET_S,
) -> Speeds:
    """Time engines beside PyTorch on the first sample of a folder, repeated to the batch size served best.

    Until each ratio is known within 5 %, or `budget_s` seconds are spent on at least LEAST_ROUNDS rounds; longer where
    one candidate leads by more than 5 % and the intervals say that this may be noise. A candidate that cannot be opened
    or dies is told in `failed`. Raises DeployError where PyTorch itself cannot be timed.
    """
    if not engines:
        return Speeds({}, {}, threads)
    path, tensors = min(samples.glob("*.npz")), tuple(inputs)
    setting = (tensors, batch, path, threads)
    openers: dict[str, tuple[Any, ...]] = {TORCH: ("deploy_compile.speed:Eager", loaded, *setting)}
    for engine in engines:
        opened = (engine.file, engine.backend, engine.precision, engine.target, tuple(outputs))
        openers[engine.name] = ("deploy_compile.speed:Engine", *opened, *setting)
    found, failed = dict[str, Speed](), dict[str, str]()
    for names in _together(engines):
        turn = {name: openers[name] for name in (TORCH, *names, *_leader(found))}
        times, lost = side_by_side(turn, threads, budget_s, TORCH)
        if TORCH in lost:
            raise DeployError(
                f"PyTorch itself could not be timed: {lost[TORCH]}", "Give it more memory, or fewer candidates at once."
            )
        found, failed = _joined(found, _speeds(times, threads), lost), {**failed, **lost}
    return Speeds({name: found[name] for name in openers if name in found}, failed, threads)


def _together(engines: Sequence[Built]) -> list[list[str]]:
    """Return the names of candidates in the parts that are timed together: all of them, where memory holds that."""
    parts, room = [list[str]()], TOGETHER
    for engine in sorted(engines, key=_bytes):
        room -= _bytes(engine)
        if room < 0 and parts[-1]:
            parts.append([])
            room = TOGETHER - _bytes(engine)
        parts[-1].append(engine.name)
    return parts


def _bytes(engine: Built) -> int:
    return onnx_graph.stored(engine.file) if engine.file is not None and engine.file.exists() else 0


def _leader(found: Mapping[str, Speed]) -> list[str]:
    """Return the fastest so far, which the next part is compared with too."""
    return [min(found, key=lambda name: found[name].lag)] if found else []


def _joined(before: Mapping[str, Speed], now: Mapping[str, Speed], lost: Mapping[str, str]) -> dict[str, Speed]:
    """Join the speeds of two parts, the leader of the first in both: by how much it lags, all of the first lag more."""
    for name in _leader(before):
        if name in now:
            own = now[name]
            behind = {
                other: replace(
                    speed,
                    lag=speed.lag * own.lag,
                    lag_low=speed.lag_low * own.lag_low,
                    lag_high=speed.lag_high * own.lag_high,
                )
                for other, speed in before.items()
            }
            return {**now, **behind}
    return {**{name: speed for name, speed in before.items() if name not in lost}, **now}


def side_by_side(
    openers: Mapping[str, tuple[Any, ...]], threads: int, budget_s: float, baseline: str
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, str]]:
    """Return the seconds of each runner, round by round, and why others failed. An opener is the name of what a worker
    makes, with its arguments; that has a method `turn`."""
    with ExitStack() as stack:
        workers, failed = _open(stack, openers, threads)
        turns = {name: partial(_turn, name, worker) for name, worker in workers.items()}
        times = timing.interleave_survivors(turns, failed, budget_s, baseline, LEAST_ROUNDS, timing.PATIENCE)
    return times, failed


def _speeds(times: Mapping[str, np.ndarray[Any, Any]], threads: int) -> dict[str, Speed]:
    """Compare every candidate with PyTorch and with the fastest of them, over the same rounds."""
    own = {name: seconds for name, seconds in times.items() if name != TORCH}
    rounds, measured = len(times.get(TORCH, ())), {}
    for name, seconds in own.items():
        lag, low, high = timing.lead(seconds, own[timing.fastest(own)])
        speed = timing.speed(times[TORCH], seconds[:rounds], threads)
        measured[name] = replace(speed, lag=lag, lag_low=low, lag_high=high)
    return measured


def _open(
    stack: ExitStack, openers: Mapping[str, tuple[Any, ...]], threads: int
) -> tuple[dict[str, Worker], dict[str, str]]:
    """Open every candidate in a worker of its own; return those that stand, and why the others do not."""
    workers = {name: stack.enter_context(Worker(threads)) for name in openers}
    with ThreadPoolExecutor(OPENED_AT_ONCE) as pool:
        reasons = dict(zip(openers, pool.map(_hold, workers.values(), openers.values()), strict=True))
    failed = {name: reason for name, reason in reasons.items() if reason}
    return {name: worker for name, worker in workers.items() if name not in failed}, failed


def _hold(worker: Worker, opener: tuple[Any, ...]) -> str:
    """Open one candidate in its worker; say why that failed, nothing where it did not."""
    kind, *args = opener
    try:
        worker.hold(kind, *args, timeout_s=OPEN_S)
    except Crashed as crash:
        return crash.reason
    except DeployError as error:
        return error.message
    return ""


def _turn(name: str, worker: Worker) -> float:
    try:
        return float(worker.held("turn", timeout_s=TURN_S))
    except Crashed as crash:
        raise timing.Died(name, crash.reason) from crash


# What follows runs in the workers.


class Engine:
    """An engine opened through the runtime that ships, with its input."""

    def __init__(
        self,
        file: Path,
        backend: str,
        precision: str,
        target: str,
        outputs: Sequence[Tensor],
        inputs: Sequence[Tensor],
        batch: Batch,
        path: Path,
        threads: int,
    ) -> None:
        opened = backends.get(backend).open(file, precision, inputs, outputs, batch, threads, None, target)
        given = sample(path, inputs, batch.best)
        self._run: Callable[[], object] = lambda: opened.run(given)

    def turn(self) -> float:
        """Return the seconds of a warm run."""
        return timing.warm(self._run)


class Eager:
    """The network in PyTorch eager mode, as its owner runs it, with its input."""

    def __init__(self, loaded: Loaded, inputs: Sequence[Tensor], batch: Batch, path: Path, threads: int) -> None:
        import torch

        from deploy_compile.load import module

        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)
        network = module(loaded)
        arrays = sample(path, inputs, batch.best)
        given = [torch.from_numpy(arrays[tensor.name]) for tensor in inputs]

        def run() -> object:
            with torch.inference_mode():
                return network(*given)

        self._run: Callable[[], object] = run

    def turn(self) -> float:
        """Return the seconds of a warm run."""
        return timing.warm(self._run)
