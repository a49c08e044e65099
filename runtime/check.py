"""Is this bundle whole, and does it still say here what PyTorch said? The gates of CI and of the device.

`verify` compares every file with its digest, runs the golden samples through each shipped engine whose library is
here and judges the answers with `judge`. `check` also looks at what the manifest records: what was chosen passed, its
drift still passes the limits it states, the audit found no breach. The trap: an engine that did not run is reported as
"not run" and is never a pass; where nothing ran at all, that is a failure.
"""

import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from deploy_runtime import backends, manifest, proof, selection
from deploy_runtime.errors import DeployError
from deploy_runtime.evidence import Candidate, Manifest, Verdict
from deploy_runtime.judge import as_built, judge, measure, passed
from deploy_runtime.machine import physical_cores
from deploy_runtime.model import open_session
from deploy_runtime.session import Array, NotHereError, Session
from deploy_runtime.spec import Batch, Tensor

Outcome = Literal["passed", "failed", "not run"]


@dataclass(frozen=True)
class Row:
    """One thing that was looked at. `detail` says what was found, with its numbers."""

    name: str
    outcome: Outcome
    detail: str
    verdicts: tuple[Verdict, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Result:
    """All that was looked at in one bundle; `digest` is the sha256 of its manifest."""

    bundle: str
    digest: str
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(row.outcome != "failed" for row in self.rows)


def verify(bundle: str | Path, backend: str | None = None, threads: int | None = None) -> Result:
    """Compare the files with their digests and run the golden samples through each engine that can run here.

    Raises DeployError for a bundle that is damaged, and for an asked `backend` that cannot be used here. An engine
    that nobody had run before and that passes is remembered, so that `load` may take it on this machine.
    """
    folder = Path(bundle)
    found = manifest.read(folder)
    start = time.perf_counter()
    manifest.verify_files(folder, found)
    size = sum(file.bytes for file in found.files) / 2**20
    detail = f"{len(found.files)} files, {size:.1f} MiB, every sha256 as in the manifest"
    rows = [Row("files", "passed", detail, seconds=time.perf_counter() - start)]
    digest = manifest.digest(folder)
    samples = golden(folder, "inputs", found.inputs, found.golden.samples)
    answers = golden(folder, "outputs", found.outputs, found.golden.samples)
    for row in selection.runnable(found, backend):
        rows.append(run_golden(folder, found, row, samples, answers, threads or physical_cores()))
        if row.status == "built_not_run" and rows[-1].outcome == "passed":
            proof.keep(digest, row)
    if all(row.outcome == "not run" for row in rows[1:]):
        rows.append(Row("golden samples", "failed", "no engine of the bundle could run on this machine"))
    return Result(str(bundle), digest, tuple(rows))


def check(bundle: str | Path, strict: bool = False, backend: str | None = None) -> Result:
    """Verify, and judge what the manifest records. `strict` also refuses INT8 calibrated on synthetic samples."""
    verified = verify(bundle, backend)
    found = manifest.read(Path(bundle))
    shipped = [row for row in found.candidates if row.file is not None]
    rows = [_gate_chosen(found)]
    for row in shipped:
        if row.status == "built_not_run":
            rows.append(
                Row(f"recorded: {row.name}", "not run", f"built, never run by its builder; {row.reason}".rstrip("; "))
            )
        else:
            rows += [_gate_parity(found, row), _gate_audit(row)]
    rows += [_gate_calibration(found, shipped, strict), _said_of_weights(found)]
    return Result(verified.bundle, verified.digest, (*verified.rows, *rows))


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


def run_golden(
    folder: Path, found: Manifest, row: Candidate, samples: dict[str, Array], answers: dict[str, Array], threads: int
) -> Row:
    """Run the golden samples through one candidate and judge its answers."""
    if reason := backends.get(row.backend).missing():
        return Row(row.name, "not run", reason)
    start = time.perf_counter()
    try:
        with open_session(folder, found, row, threads) as session:
            got = outputs(session, samples, found.batch)
        drift = measure(answers, got, found.task, found.golden.fp64_distance)
    except NotHereError as error:
        return Row(row.name, "not run", error.message)
    except DeployError as error:
        return Row(row.name, "failed", error.message, seconds=time.perf_counter() - start)
    limit = as_built(found.limits[row.precision], row.golden)
    verdicts = judge(drift, limit, found.golden.fp64_distance)
    outcome: Outcome = "passed" if passed(verdicts) else "failed"
    return Row(row.name, outcome, said(verdicts), verdicts, time.perf_counter() - start)


def said(verdicts: tuple[Verdict, ...]) -> str:
    """Write each measured value beside its limit, the failed ones first."""
    texts = []
    for verdict in sorted(verdicts, key=lambda one: one.passed):
        sign = "<=" if verdict.metric in ("max_relative", "fp64_ratio") else ">="
        text = f"{verdict.output} {verdict.metric} {verdict.value:.4g} ({sign} {verdict.limit:.4g})"
        texts.append(text if verdict.passed else f"FAILED {text}{f': {verdict.note}' if verdict.note else ''}")
    return ", ".join(texts)


def golden(folder: Path, word: str, tensors: tuple[Tensor, ...], count: int) -> dict[str, Array]:
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


def _gate_chosen(found: Manifest) -> Row:
    row = found.candidates[found.chosen]
    good = row.status == "passed"
    return Row("chosen", "passed" if good else "failed", f"{row.name}: {row.status}. {found.verdict}")


def _gate_parity(found: Manifest, row: Candidate) -> Row:
    verdicts = judge(row.drift, found.limits[row.precision], found.golden.fp64_distance)
    name = f"recorded parity: {row.name}"
    if not passed(row.verdicts):
        return Row(name, "failed", said(row.verdicts) or "no verdict is recorded", row.verdicts)
    return Row(name, "passed" if passed(verdicts) else "failed", said(verdicts) or "no drift is recorded", verdicts)


def _gate_audit(row: Candidate) -> Row:
    name = f"audit: {row.name}"
    if row.coverage is None:
        return Row(name, "failed", "no audit is recorded")
    if row.coverage.breaches:
        return Row(name, "failed", f"in another precision than asked: {', '.join(row.coverage.breaches[:10])}")
    layers = ", ".join(f"{count} in {precision}" for precision, count in sorted(row.coverage.layers.items()))
    return Row(name, "passed", f"heavy layers: {layers or 'none'}")


def _gate_calibration(found: Manifest, shipped: list[Candidate], strict: bool) -> Row:
    calibration = found.provenance.calibration
    quantized = [row.name for row in shipped if row.precision.startswith("int8")]
    if not quantized:
        return Row("calibration", "passed", "nothing shipped is quantized")
    if calibration is None:
        return Row("calibration", "failed", f"{', '.join(quantized)} without a record of the calibration")
    text = f"{calibration.samples} samples from {calibration.sources} sources, {calibration.algorithm}"
    if calibration.synthetic:
        text = f"synthetic: {text}; says nothing about real data"
    text = "; ".join((text, *calibration.warnings))
    return Row("calibration", "failed" if strict and calibration.synthetic else "passed", text)


def _said_of_weights(found: Manifest) -> Row:
    weights = found.provenance.weights
    text = "seeded: an architecture check, not a model to ship" if weights == "seeded" else weights
    return Row("weights", "passed", f"{text} (sha256 {found.provenance.weights_sha256[:12]})")
