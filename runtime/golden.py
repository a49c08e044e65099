"""The golden samples of a bundle: read them, run them through a candidate here, and judge its answers."""

import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from deploy_runtime import backends
from deploy_runtime.drift import Verdict
from deploy_runtime.errors import DeployError
from deploy_runtime.evidence import Candidate, Manifest
from deploy_runtime.judge import as_built, judge, passed
from deploy_runtime.measure import measure
from deploy_runtime.model import open_session
from deploy_runtime.result import Outcome, Row
from deploy_runtime.session import Array, NotHereError, Session
from deploy_runtime.spec import Batch, Tensor

# Metrics whose limit is the most allowed; of the others it is the least.
AT_MOST = ("max_relative", "fp64_ratio", "pair_light_ratio")


def read(folder: Path, word: str, tensors: tuple[Tensor, ...], count: int) -> dict[str, Array]:
    """Read the golden `inputs` or `outputs`, stacked on axis 0. Raises DeployError where they are not as stated."""
    path = folder / "golden" / f"{word}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {tensor.name: np.asarray(stored[tensor.name]) for tensor in tensors}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DeployError(f"{path} does not hold the golden {word}: {error}", "Build the bundle again.") from error
    for tensor in tensors:
        if count < 1 or arrays[tensor.name].shape != (count, *tensor.at(1)[1:]):
            shape = list(arrays[tensor.name].shape)
            raise DeployError(f"{path} holds {tensor.name} of {count} samples as {shape}", "Build the bundle again.")
    return arrays


def run(
    folder: Path, found: Manifest, row: Candidate, samples: dict[str, Array], answers: dict[str, Array], threads: int
) -> Row:
    """Run the golden samples through one candidate and judge its answers."""
    if reason := backends.get(row.backend).missing():
        return Row(row.name, "not run", reason, candidate=row.name)
    start = time.perf_counter()
    try:
        with open_session(folder, found, row, threads) as session:
            got = outputs(session, samples, found.batch)
        drift = measure(answers, got, found.task, found.golden.fp64_distance)
    except NotHereError as error:
        return Row(row.name, "not run", error.message, candidate=row.name)
    except DeployError as error:
        return Row(row.name, "failed", error.message, seconds=time.perf_counter() - start, candidate=row.name)
    limit = as_built(found.limits[row.precision], row.golden)
    verdicts = judge(drift, limit, found.golden.fp64_distance)
    outcome: Outcome = "passed" if passed(verdicts) else "failed"
    return Row(row.name, outcome, said(verdicts), verdicts, time.perf_counter() - start, row.name, drift)


def outputs(session: Session, samples: Mapping[str, Array], batch: Batch) -> dict[str, Array]:
    """Run stacked samples [n, ...] in batches that the engine serves; the last one is filled up with its own end."""
    count, parts = len(next(iter(samples.values()))), list[dict[str, Array]]()
    for start in range(0, count, batch.best):
        part = {name: array[start : start + batch.best] for name, array in samples.items()}
        size = len(next(iter(part.values())))
        if size < batch.least:
            part = {name: np.concatenate([a, np.repeat(a[-1:], batch.least - size, 0)]) for name, a in part.items()}
        parts.append({name: array[:size] for name, array in session.run(part).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def said(verdicts: tuple[Verdict, ...]) -> str:
    """Write each measured value beside its limit, the failed ones first."""
    texts = []
    for verdict in sorted(verdicts, key=lambda one: one.passed):
        sign = "<=" if verdict.metric in AT_MOST else ">="
        text = f"{verdict.output} {verdict.metric} {verdict.value:.4g} ({sign} {verdict.limit:.4g})"
        texts.append(text if verdict.passed else f"FAILED {text}{f': {verdict.note}' if verdict.note else ''}")
    return ", ".join(texts)
