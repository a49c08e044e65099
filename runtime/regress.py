"""What became worse since a base bundle of the same recipe: drift and latency measured here, and what both state.

Every comparison is a row with the values of both and what is allowed; `changes` compares what the two state, `slowdown`
their latency. The trap: drift means something on the same samples only. Where the golden samples differ, the new
engines answer the base's, if the weights are the same; recorded drift counts where the held-out samples are the same.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from deploy_runtime import changes, golden, manifest, selection, slowdown
from deploy_runtime.changes import Side
from deploy_runtime.drift import Drift, Verdict
from deploy_runtime.errors import DeployError
from deploy_runtime.evidence import Manifest
from deploy_runtime.machine import physical_cores
from deploy_runtime.result import Outcome, Row
from deploy_runtime.session import Array

LESS_DB = 1.0  # SQNR may fall by this many dB
MORE_RELATIVE = 1.25  # the largest relative error may grow by this factor
FLOAT_NOISE = 1e-5  # relative: threads and library versions move fp32 answers by less, and nothing below it is judged
OWN_NOISE = 10.0  # nor what lies within this many times PyTorch fp32's own distance from fp64


def against(
    folder: Path,
    base_folder: Path,
    ran: Sequence[Row],
    backend: str | None = None,
    seconds: float | None = slowdown.SECONDS,
) -> list[Row]:
    """Compare a verified bundle with a base. `ran` holds the rows of what was run of the bundle here.

    Raises DeployError where the base is damaged or of another recipe.
    """
    new, base = Side(folder, manifest.read(folder)), Side(base_folder, manifest.read(base_folder))
    if new.found.recipe != base.found.recipe:
        raise DeployError(
            f"{folder} is of the recipe {new.found.recipe} and the base {base_folder} of {base.found.recipe}",
            f"Give --against a bundle of {new.found.recipe}: what differs by recipe cannot have become worse.",
        )
    manifest.verify_files(base_folder, base.found)
    here = {row.candidate: row for row in ran if row.candidate == row.name}
    rows = [_said_of_base(new, base), *changes.rows(new, base), *_drifts(new, base, here, backend)]
    return [*rows, slowdown.latency(new, base, here, backend, seconds)]


def _said_of_base(new: Side, base: Side) -> Row:
    made, was = new.found.provenance, base.found.provenance
    weights = "the same weights" if made.weights_sha256 == was.weights_sha256 else "other weights"
    samples = "the same calibration" if made.calibration == was.calibration else "another calibration"
    digest = manifest.digest(base.folder)[:16]
    return Row("base", "passed", f"{base.found.name} (manifest sha256 {digest}): {weights}, {samples}")


def _drifts(new: Side, base: Side, here: Mapping[str, Row], backend: str | None) -> list[Row]:
    """Compare what each candidate that both ship drifts: on the golden samples here, and held out as recorded."""
    samples, same_held_out, rows = _common_samples(new, base), _same_held_out(new.found, base.found), list[Row]()
    for row in selection.runnable(new.found, backend):
        was, now = base.shipped.get(row.name), here.get(row.name)
        if was is None or now is None:
            continue
        open_, verdicts = list[str](), list[Verdict]()
        if isinstance(samples, str):
            open_.append(f"golden samples not compared: {samples}")
        elif now.outcome == "not run":
            open_.append(f"golden samples not run: {now.detail}")
        else:
            if samples is not None:  # the bundle's own are others than the base's
                now = golden.run(new.folder, new.found, row, *samples, physical_cores())
            then = golden.run(base.folder, base.found, was, *_golden(base), physical_cores())
            if not (now.drift and then.drift):
                open_.append(f"golden samples not compared: {then.detail if now.drift else now.detail}")
            verdicts += _compare("golden", now.drift, then.drift, new.found)
        if same_held_out:
            verdicts += _compare("held-out", row.drift, was.drift, new.found)
        else:
            open_.append("held-out drift not compared: it was measured on other samples")
        rows.append(_drift_row(row.name, verdicts, open_, crashed=now.outcome == "failed" and not now.drift))
    return rows


def _drift_row(name: str, verdicts: Sequence[Verdict], open_: Sequence[str], crashed: bool) -> Row:
    worse = [verdict for verdict in verdicts if not verdict.passed]
    outcome: Outcome = "failed" if worse or crashed else "passed" if verdicts else "not run"
    said = [f"WORSE {_said(one)}" for one in worse] + [_said(one) for one in verdicts if one.passed]
    return Row(f"drift against base: {name}", outcome, "; ".join([*said, *open_]), tuple(verdicts), candidate=name)


def _said(verdict: Verdict) -> str:
    return f"{verdict.output} {verdict.metric} {verdict.value:.4g} ({verdict.note})"


def _golden(side: Side) -> tuple[dict[str, Array], dict[str, Array]]:
    count = side.found.golden.samples
    return (
        golden.read(side.folder, "inputs", side.found.inputs, count),
        golden.read(side.folder, "outputs", side.found.outputs, count),
    )


def _common_samples(new: Side, base: Side) -> tuple[dict[str, Array], dict[str, Array]] | str | None:
    """Return the samples and answers to run the new engines on: None for their own; text says why there are none."""
    if _met(new.found) != _met(base.found):
        return "the tensors are others"
    ours, theirs = _golden(new)[0], _golden(base)
    if all(np.array_equal(ours[name], theirs[0][name]) for name in ours):
        return None
    if new.found.provenance.weights_sha256 == base.found.provenance.weights_sha256:
        return theirs
    return "both the golden samples and the weights are others"


def _met(found: Manifest) -> tuple[object, ...]:
    """Return what has to be equal for one bundle's samples to mean the same in another."""
    return found.inputs, found.outputs, found.task


def _same_held_out(new: Manifest, base: Manifest) -> bool:
    """Whether both were measured on the same held-out samples, as far as the manifests tell."""
    one, other = new.provenance, base.provenance
    digests = {calibration.digest for calibration in (one.calibration, other.calibration) if calibration is not None}
    return len(digests) <= 1 and one.held_out == other.held_out


def _compare(words: str, drifts: Sequence[Drift], bases: Sequence[Drift], found: Manifest) -> list[Verdict]:
    """Judge each output's drift by the base's with its allowance; counts of samples that differ are other samples."""
    verdicts = list[Verdict]()
    base = {drift.output: drift for drift in bases}
    for now in drifts:
        was = base.get(now.output)
        if was is None or was.samples != now.samples:
            continue
        own = found.golden.fp64_distance.get(now.output, 0.0) / now.scale if now.scale else 0.0
        floor = max(FLOAT_NOISE, OWN_NOISE * own)
        noise = now.finite and now.max_relative <= floor
        least, most = was.sqnr_db - LESS_DB, max(was.max_relative * MORE_RELATIVE, floor)
        metrics = [
            ("sqnr_db", now.sqnr_db, was.sqnr_db, least, noise or now.sqnr_db >= least),
            ("max_relative", now.max_relative, was.max_relative, most, now.max_relative <= most),
        ]
        if now.agreement is not None and was.agreement is not None:
            share = was.agreement - 1 / max(1, now.decisions)  # one flip more is luck
            metrics.append(("agreement", now.agreement, was.agreement, share, now.agreement >= share - 1e-9))
        for metric, value, base_value, limit, good in metrics:
            sign = "<=" if metric in golden.AT_MOST else ">="
            rounding = ": float rounding" if noise and value < limit and sign == ">=" else ""
            note = f"base {base_value:.4g}, {sign} {limit:.4g}{rounding}"
            verdicts.append(Verdict(f"{words} {now.output}", metric, value, limit, good, note))
    return verdicts
