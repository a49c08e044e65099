"""A candidate's row: what became of it, stage by stage. The first that fails gives its status and the reason."""

from collections.abc import Sequence
from dataclasses import replace

from deploy_compile.results import Audited, Built, PairParity, Parity, Reference, Speeds, StreamParity
from deploy_recipes.recipe import Recipe
from deploy_runtime.drift import Verdict
from deploy_runtime.evidence import Candidate
from deploy_runtime.judge import judge


def judged(recipe: Recipe, torch: Reference, engine: Built, audited: Audited | None, drifts: Parity) -> Candidate:
    """One candidate's row: built, then audited, then measured; the first of them that fails gives its status.

    The audit is None where the device builds the engine, and audits it.
    """
    row = Candidate(engine.backend, engine.precision, engine.target, engine.status, engine.reason)
    if engine.file is None:
        return row
    limit = recipe.limit(engine.precision)
    found = judge(drifts.drift, limit, torch.fp64_distance)
    row = replace(
        row,
        coverage=None if audited is None else audited.coverage,
        drift=drifts.drift,
        verdicts=found,
        emulated=drifts.emulated,
        golden=drifts.golden,
    )
    if audited is not None and audited.coverage.breaches:
        shown = ", ".join(audited.coverage.breaches[:3])
        more = f" and {len(audited.coverage.breaches) - 3} more" if len(audited.coverage.breaches) > 3 else ""
        return replace(row, status="rejected", reason=f"not in {engine.precision}: {shown}{more}")
    if drifts.status not in ("passed", "built_not_run", "to_build"):
        return replace(row, status=drifts.status, reason=drifts.reason)
    return failing(row)


def behaved(row: Candidate, found: StreamParity | PairParity, verdicts: Sequence[Verdict]) -> Candidate:
    """The row of a candidate that passed, with how it behaves beyond single samples and the verdicts on that."""
    if found.status != "passed":
        return replace(row, status=found.status, reason=found.reason)
    return failing(replace(row, verdicts=(*row.verdicts, *verdicts)))


def failing(row: Candidate) -> Candidate:
    """The row, failed where one of its verdicts is not passed."""
    failed = [f"{v.metric} {v.value:.4g}, limit {v.limit:.4g}" for v in row.verdicts if not v.passed]
    return replace(row, status="failed", reason="; ".join(failed)) if failed else row


def timed(row: Candidate, speeds: Speeds) -> Candidate:
    """The row with its speed, or with the reason why it could not be timed."""
    if row.name in speeds.failed:
        return replace(row, status="crashed", reason=speeds.failed[row.name])
    return replace(row, speed=speeds.measured.get(row.name))
