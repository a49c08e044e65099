"""Accuracy before and after: PyTorch and one engine on the user's labelled samples, decoded as they are needed.

`predict_torch` and `predict_engine` write scores, `evaluate` counts. They are stages of their own, so that another
engine is judged without running PyTorch again. The engine runs through the runtime that ships, in a process of its own.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from deploy_compile import accuracy, labelled
from deploy_compile.reference import forward
from deploy_compile.results import Built, Evaluated, Loaded, Predicted
from deploy_compile.samples import Sample
from deploy_compile.worker import Crashed, Worker
from deploy_recipes.recipe import Recipe
from deploy_runtime import backends
from deploy_runtime.errors import DeployError
from deploy_runtime.evidence import Evaluation
from deploy_runtime.measure import decided
from deploy_runtime.spec import Batch, Classes, MultiLabel, Tensor

OPEN_S, RUN_S = 300.0, 300.0  # the longest that an engine may take to open, and for one sample
LEAST = 2  # samples: of one there is no interval


def predict_torch(out: Path, loaded: Loaded, recipe: Recipe, folder: Path, table: Path, threads: int) -> Predicted:
    """Write PyTorch's scores for every labelled sample. Raises DeployError where labels and network do not fit."""
    import torch

    from deploy_compile.load import module

    torch.set_num_threads(threads)
    net = module(loaded)

    return _predict(out, recipe, labelled.read(folder, table, recipe), lambda sample: forward(net, recipe, sample))


def predict_engine(
    out: Path, built: Built, recipe: Recipe, folder: Path, table: Path, batch: Batch, threads: int
) -> Predicted:
    """Write an engine's scores for every labelled sample. Raises DeployError where it crashes."""
    opened = (built.file, built.backend, built.precision, recipe.inputs, recipe.outputs, batch, threads, built.target)
    try:
        with Worker(threads) as worker:
            worker.hold("deploy_compile.evaluate:Engine", *opened, timeout_s=OPEN_S)
            found = labelled.read(folder, table, recipe)
            return _predict(out, recipe, found, lambda sample: dict(worker.held("answer", sample, timeout_s=RUN_S)))
    except Crashed as crash:
        raise DeployError(f"{built.name} did not run: {crash.reason}", "Leave its precision out.") from crash


def evaluate(
    out: Path,  # noqa: ARG001 - a stage writes into it; this one has nothing to write
    torch: Predicted,
    engine: Predicted,
    name: str,
    recipe: Recipe,
    max_drop: float | None,
) -> Evaluated:
    """Count both; `max_drop` is the most that accuracy may fall, in percentage points, None for no gate."""
    task = recipe.task
    assert isinstance(task, (Classes, MultiLabel)), "labels are only ever read for tasks that decide"
    with np.load(torch.file) as arrays:
        before, truth = arrays["scores"], arrays["truth"]
    with np.load(engine.file) as arrays:
        after = arrays["scores"]
    difference = accuracy.difference(before, after, truth, task)
    found = Evaluation(
        candidate=name,
        samples=len(truth),
        decisions=int(truth.size),
        digest=torch.digest,
        torch=accuracy.measure(before, truth, task),
        engine=accuracy.measure(after, truth, task),
        difference=difference,
        max_drop=max_drop,
    )
    return Evaluated(found, max_drop is None or -100.0 * difference.change.value <= max_drop)


def refused(evaluation: Evaluation) -> str:
    """Say why the gate on accuracy fails."""
    drop = -100.0 * evaluation.difference.change.value
    return (
        f"accuracy on {evaluation.samples} labelled samples falls by {drop:.2f} percentage points, "
        f"limit {evaluation.max_drop:g}"
    )


class Engine:
    """An engine opened through the runtime that ships; lives in the worker."""

    def __init__(
        self,
        file: Path,
        backend: str,
        precision: str,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        batch: Batch,
        threads: int,
        target: str,
    ) -> None:
        self._session = backends.get(backend).open(file, precision, inputs, outputs, batch, threads, None, target)
        self._size = batch.least

    def answer(self, sample: Sample) -> Sample:
        """Return the outputs for one sample; where the smallest batch is larger it is repeated."""
        given = {name: np.repeat(array, self._size, axis=0) for name, array in sample.items()}
        return {name: array[:1] for name, array in self._session.run(given).items()}


def _predict(
    out: Path, recipe: Recipe, found: Sequence[labelled.Labelled], answer: Callable[[Sample], Sample]
) -> Predicted:
    if len(found) < LEAST:
        raise DeployError("one labelled sample says nothing of accuracy", "Label at least two; some hundred say more.")
    truth, digest, scores = labelled.truth(found), hashlib.sha256(), list[np.ndarray]()
    for sample in _digested(labelled.samples(found, recipe), digest.update):
        outputs = answer(sample)
        name = min(decided(outputs, recipe.task), key=[tensor.name for tensor in recipe.outputs].index)
        scores.append(_fitted(outputs[name], truth.shape[1], recipe))
    digest.update(truth.tobytes())
    np.savez(out / "scores.npz", scores=np.concatenate(scores), truth=truth)
    return Predicted(out / "scores.npz", digest.hexdigest())


def _digested(samples: Iterator[Sample], update: Callable[[bytes], None]) -> Iterator[Sample]:
    for sample in samples:
        for name in sorted(sample):
            update(name.encode() + np.ascontiguousarray(sample[name]).tobytes())
        yield sample


def _fitted(scores: np.ndarray, wanted: int, recipe: Recipe) -> np.ndarray:
    """Return one sample's scores as [1, answers, classes], or [1, labels]; refuse a label too many or too few."""
    if isinstance(recipe.task, MultiLabel):
        return scores.reshape(1, -1)
    flat = scores.reshape(1, -1, scores.shape[-1])
    if flat.shape[1] != wanted:
        raise DeployError(
            f"the labels have {wanted} words a line, and {recipe.name} answers {flat.shape[1]} times a sample",
            "Write as many labels a line, parted by blanks.",
        )
    return flat
