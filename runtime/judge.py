"""Whether a measured drift is allowed: the only judge.

The compiler, `check` and the device all come here, so that one bundle cannot pass in one place and fail in another.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from deploy_runtime.drift import Drift, Verdict
from deploy_runtime.spec import Limit

AS_BUILT_NOISE = 2.0  # golden samples: a device may show this many times its builder's noise, and one flip more


def judge(
    drifts: Sequence[Drift], limit: Limit, fp64_distance: Mapping[str, float] | None = None
) -> tuple[Verdict, ...]:
    """Judge measured drift against the limit of its precision: one verdict per output and limited metric.

    `fp64_distance` (per output, max |fp32 - fp64| of PyTorch itself) lets `max_relative` give way where the network
    is so ill-conditioned that PyTorch's own rounding exceeds it; the verdict's note says so. A metric that was not
    measured is not judged, an output for which nothing can be judged fails, and so does all of one with NaN or Inf.
    """
    verdicts: list[Verdict] = []
    for drift in drifts:
        own = (fp64_distance or {}).get(drift.output, 0.0) / drift.scale if drift.scale else 0.0
        verdicts.extend(_judge_output(drift, limit.of(drift.output), own))
    return tuple(verdicts)


def as_built(limit: Limit, recorded: Sequence[Drift]) -> Limit:
    """Return the limit for the golden samples: the recipe's, or what the builder measured there with some noise more.

    Held-out samples decide whether a candidate is good; golden ones, whether it still answers as where that was
    decided. Synthetic ones lie outside ranges calibrated on real samples, so that INT8 may drift further on them.
    Where every decision must agree (fp32), it must here too.
    """
    special = {name: as_built(own, [d for d in recorded if d.output == name]) for name, own in limit.outputs.items()}
    recorded = [drift for drift in recorded if drift.output not in special]
    if not recorded or not all(drift.finite for drift in recorded):
        return replace(limit, outputs=special)
    decisions = min((drift.decisions for drift in recorded if drift.decisions), default=1)
    agreement = min((drift.agreement for drift in recorded if drift.agreement is not None), default=1.0)
    return replace(
        limit,
        outputs=special,
        cosine=_looser(min, limit.cosine, 1.0 - (1.0 - min(drift.cosine for drift in recorded)) * AS_BUILT_NOISE),
        sqnr_db=_looser(min, limit.sqnr_db, min(drift.sqnr_db for drift in recorded) - 10 * math.log10(AS_BUILT_NOISE)),
        max_relative=_looser(max, limit.max_relative, max(d.max_relative for d in recorded) * AS_BUILT_NOISE),
        agreement=limit.agreement
        if limit.agreement == 1.0
        else _looser(min, limit.agreement, agreement - 1 / decisions),
    )


def passed(verdicts: Sequence[Verdict]) -> bool:
    """Whether something was judged and all of it passed."""
    return bool(verdicts) and all(verdict.passed for verdict in verdicts)


def _judge_output(drift: Drift, limit: Limit, own_relative: float) -> list[Verdict]:
    most_relative, note = limit.max_relative, ""
    if most_relative is not None and limit.fp64_ratio is not None:
        allowed = limit.fp64_ratio * own_relative
        if allowed > most_relative:
            note = (
                f"ill-conditioned: PyTorch fp32 itself is {own_relative:.1e} from fp64, "
                f"so the limit is {limit.fp64_ratio:g} times that instead of {most_relative:.1e}"
            )
            most_relative = allowed
    rows = (
        ("cosine", drift.cosine, limit.cosine, True, ""),
        ("sqnr_db", drift.sqnr_db, limit.sqnr_db, True, ""),
        ("max_relative", drift.max_relative, most_relative, False, note),
        ("fp64_ratio", drift.fp64_ratio, limit.fp64_ratio, False, ""),
        ("agreement", drift.agreement, limit.agreement, True, _said_of_decisions(drift)),
    )
    verdicts = [
        Verdict(
            drift.output,
            metric,
            value,
            bound,
            drift.finite and (value >= bound if at_least else value <= bound),
            said if drift.finite else "the output has NaN or Inf",
        )
        for metric, value, bound, at_least, said in rows
        if value is not None and bound is not None
    ]
    if not verdicts:
        verdicts = [Verdict(drift.output, "limits", 0.0, 1.0, False, "no limit judges this output")]
    return verdicts


def _said_of_decisions(drift: Drift) -> str:
    if drift.agreement_low is None or drift.agreement_high is None:
        return ""
    interval = f"95 % interval {drift.agreement_low:.3f} to {drift.agreement_high:.3f} over {drift.decisions}"
    return f"{interval}, {drift.excused} excused" if drift.excused else interval


def _looser(which: Callable[[float, float], float], limit: float | None, built: float) -> float | None:
    return None if limit is None else which(limit, built)
