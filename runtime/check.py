"""Is this bundle whole, and does it still say here what PyTorch said? The gates of CI and of the device.

`verify` compares every file with its digest, runs the golden samples through each shipped engine whose library is
here and judges the answers with `judge`. `check` also looks at what the manifest records (what was chosen passed, its
drift still passes the limits it states, the audit found no breach) and, where asked, at what became worse since a
base bundle. The trap: an engine that did not run is reported as "not run" and is never a pass; where nothing ran at
all, that is a failure.
"""

import time
from collections.abc import Mapping
from pathlib import Path

from deploy_runtime import device_audit, golden, manifest, proof, regress, selection, slowdown
from deploy_runtime.errors import UsageError
from deploy_runtime.evidence import Candidate, Manifest
from deploy_runtime.golden import said
from deploy_runtime.judge import judge, passed
from deploy_runtime.machine import physical_cores
from deploy_runtime.result import Outcome, Result, Row
from deploy_runtime.strict import strictly

SECONDS = slowdown.SECONDS
TARGET = "cpu"  # whose every engine `strict` wants run where nobody says


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
    samples = golden.read(folder, "inputs", found.inputs, found.golden.samples)
    answers = golden.read(folder, "outputs", found.outputs, found.golden.samples)
    for row in selection.runnable(found, backend):
        rows.append(golden.run(folder, found, row, samples, answers, threads or physical_cores()))
        if row.unrun and rows[-1].outcome == "passed":
            proof.keep(digest, row)
    if all(row.outcome == "not run" for row in rows[1:]):
        rows.append(Row("golden samples", "failed", "no engine of the bundle could run on this machine"))
    return Result(str(bundle), digest, tuple(rows))


def check(
    bundle: str | Path,
    strict: bool = False,
    backend: str | None = None,
    target: str = TARGET,
    against: str | Path | None = None,
    seconds: float | None = SECONDS,
) -> Result:
    """Verify, and judge what the manifest records; `against` a base bundle, also what became worse since.

    `strict` is what a release asks: see `strict.strictly`; it runs every engine of `target`. `seconds` is the most
    time to spend on timing beside the base; None: nothing is timed. Raises DeployError as `verify` and
    `regress.against` do.
    """
    if strict and backend is not None:
        raise UsageError(
            f"--strict runs every engine, and --backend {backend} leaves some out", "Leave one of them out."
        )
    verified = verify(bundle, backend)
    found = manifest.read(Path(bundle))
    rows = [*verified.rows, *_recorded(Path(bundle), found, {row.candidate: row for row in verified.rows})]
    if against is not None:
        rows += regress.against(Path(bundle), Path(against), rows, backend, seconds)
    return Result(verified.bundle, verified.digest, strictly(found, rows, target) if strict else tuple(rows))


def _recorded(folder: Path, found: Manifest, ran: Mapping[str, Row]) -> list[Row]:
    """Judge what the manifest records of what it ships. `ran` holds what was run here, by candidate."""
    shipped = [row for row in found.candidates if row.file is not None]
    rows = [_gate_chosen(found)]
    for row in shipped:
        here = ran.get(row.name)
        rows += [_said_of_build(row, here) if row.unrun else _gate_parity(found, row)]
        rows += [device_audit.audit(folder, found, row) if row.status == "to_build" else _gate_audit(row)]
    return [*rows, _gate_calibration(found, shipped), _said_of_weights(found)]


def _said_of_build(row: Candidate, here: Row | None) -> Row:
    text = f"built, never run by its builder; {row.reason}".rstrip("; ")
    passes = here is not None and here.outcome == "passed"
    outcome: Outcome = "passed" if passes else "not run"
    text = f"{text}; the golden samples pass here" if passes else text
    return Row(f"recorded: {row.name}", outcome, text, candidate=row.name)


def _gate_chosen(found: Manifest) -> Row:
    row = found.candidates[found.chosen]
    good = row.status == "passed"
    return Row("chosen", "passed" if good else "failed", f"{row.name}: {row.status}. {found.verdict}")


def _gate_parity(found: Manifest, row: Candidate) -> Row:
    verdicts = judge(row.drift, found.limits[row.precision], found.golden.fp64_distance)
    text = said(verdicts) or "no drift is recorded"
    if not passed(row.verdicts):  # what its builder judged stands, whatever the limits say now
        verdicts, text = row.verdicts, said(row.verdicts) or "no verdict is recorded"
    outcome: Outcome = "passed" if passed(verdicts) else "failed"
    return Row(f"recorded parity: {row.name}", outcome, text, verdicts, candidate=row.name)


def _gate_audit(row: Candidate) -> Row:
    outcome: Outcome = "failed"
    if row.coverage is None:
        text = "no audit is recorded"
    elif row.coverage.breaches:
        text = f"in another precision than asked: {', '.join(row.coverage.breaches[:10])}"
    else:
        layers = ", ".join(f"{count} in {precision}" for precision, count in sorted(row.coverage.layers.items()))
        outcome, text = "passed", f"heavy layers: {layers or 'none'}"
    return Row(f"audit: {row.name}", outcome, text, candidate=row.name)


def _gate_calibration(found: Manifest, shipped: list[Candidate]) -> Row:
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
    return Row("calibration", "passed", text, notice=calibration.synthetic or bool(calibration.warnings))


def _said_of_weights(found: Manifest) -> Row:
    weights = found.provenance.weights
    text = "seeded: an architecture check, not a model to ship" if weights == "seeded" else weights
    return Row(
        "weights", "passed", f"{text} (sha256 {found.provenance.weights_sha256[:12]})", notice=weights == "seeded"
    )
