"""What a release asks of a bundle beyond its gates: the one place that says what `--strict` means.

1. The weights are real: `seeded` ones are an architecture check.
2. What is quantized was calibrated on real samples.
3. Something is shipped for the target, and every engine of it was audited and run here, now.
4. No gate is left open: what says "not run" of the bundle as a whole or of the target's engines has failed.

The trap: engines of other targets stay "not run", and a strict pass says nothing about them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from deploy_runtime.evidence import Candidate, Manifest
from deploy_runtime.result import Row


def strictly(found: Manifest, rows: Sequence[Row], target: str) -> tuple[Row, ...]:
    """Return the rows of a check, those failed that a release may not rest on, with the reason."""
    shipped = [row for row in found.candidates if row.file is not None]
    wanted = [row for row in shipped if row.target == target]
    judged = [_judged(row, found, {one.name for one in wanted}, target) for row in rows]
    return (*judged, *_never_run(wanted, rows), _gate_target(shipped, wanted, target))


def _judged(row: Row, found: Manifest, wanted: set[str], target: str) -> Row:
    calibration = found.provenance.calibration
    if row.outcome == "not run" and (not row.candidate or row.candidate in wanted):
        return replace(
            row, outcome="failed", detail=f"not run, and --strict leaves nothing of {target} open: {row.detail}"
        )
    if row.name == "weights" and found.provenance.weights == "seeded":
        return replace(row, outcome="failed")
    if row.name == "calibration" and calibration is not None and calibration.synthetic and _quantized(found):
        return replace(row, outcome="failed")
    return row


def _quantized(found: Manifest) -> bool:
    return any(row.file is not None and row.precision.startswith("int8") for row in found.candidates)


def _never_run(wanted: Iterable[Candidate], rows: Sequence[Row]) -> list[Row]:
    """Return a failed row for what ships and that nobody even tried to run: its status alone forbids it."""
    tried = {row.name for row in rows}
    return [
        Row(row.name, "failed", f"it ships and was not run: its status is {row.status}", candidate=row.name)
        for row in wanted
        if row.name not in tried
    ]


def _gate_target(shipped: Sequence[Candidate], wanted: Sequence[Candidate], target: str) -> Row:
    if wanted:
        return Row("target", "passed", f"{target}: {', '.join(row.name for row in wanted)}")
    others = ", ".join(sorted({row.target for row in shipped}))
    return Row("target", "failed", f"nothing is shipped for {target}; there is something for {others}")
