"""Which candidate ships: the fastest that passes, unless a simpler one is as fast within the noise.

Promises a sentence that says what was chosen over what, with the numbers. Only measured candidates are chosen: an
engine that was built and not run can ship, never lead.
"""

from collections.abc import Sequence

from deploy_compile.results import Choice
from deploy_runtime.errors import GateError
from deploy_runtime.evidence import Candidate, Repair

# Least that can go wrong first: fp32 needs nothing, bf16 needs no calibration, int8 needs calibration data.
SIMPLEST_FIRST = ("fp32", "bf16", "fp16", "int8_bf16", "int8_fp16", "int8")


def choose(
    candidates: Sequence[Candidate], require: str | None, asked: Sequence[str], repair: Repair | None = None
) -> Choice:
    """Pick the candidate that ships and the one to fall back on. Raises GateError where none passed.

    `require` names the only precision that will do; `asked` the precisions the user asked for beside fp32 and bf16;
    `repair` is what it took to make INT8 pass.
    The fallback is the fastest of another backend, so that a device with either library can run the bundle.
    """
    timed = [i for i, row in enumerate(candidates) if row.status == "passed" and row.speed is not None]
    allowed = [i for i in timed if require is None or candidates[i].precision == require]
    if not allowed:
        raise GateError(*_nothing(candidates, require))
    fastest = max(allowed, key=lambda i: _ratio(candidates[i]))
    rivals = [i for i in allowed if i == fastest or _as_fast(candidates[i])]
    chosen = min(rivals, key=lambda i: (SIMPLEST_FIRST.index(candidates[i].precision), -_ratio(candidates[i])))
    others = [i for i in timed if candidates[i].backend != candidates[chosen].backend]
    fallback = max(others, key=lambda i: _ratio(candidates[i]), default=None)
    sentence = _sentence(candidates, allowed, chosen, fastest, asked)
    if repair is not None and repair.taken and len(repair.taken) < repair.heavy:
        sentence += f". {_cost(repair)}"
    return Choice(chosen, fallback, sentence)


def _ratio(row: Candidate) -> float:
    return row.speed.ratio if row.speed else 0.0


def _as_fast(row: Candidate) -> bool:
    """Whether this run cannot tell the candidate from the fastest one: taken round by round, 1 is in the interval."""
    return row.speed is not None and row.speed.lag_low <= 1.0


def _sentence(
    candidates: Sequence[Candidate], allowed: Sequence[int], chosen: int, fastest: int, asked: Sequence[str]
) -> str:
    row = candidates[chosen]
    told = f"{row.name}: {_ratio(row):.1f}x PyTorch here, and it passes"
    if chosen != fastest and row.speed:
        told += f"; {candidates[fastest].name} is {row.speed.lag:.2f}x of it, within noise, and asks for more trust"
    else:
        others = [i for i in allowed if candidates[i].precision != row.precision]
        if others:
            second = max(others, key=lambda i: _ratio(candidates[i]))
            told += f"; {_ratio(row) / _ratio(candidates[second]):.2f}x of {candidates[second].name}, the next best"
    lower = [precision for precision in asked if precision.startswith("int8")]
    if lower and not row.precision.startswith("int8"):
        told += f". {_why_not_int8(candidates)}"
    return told


def _cost(repair: Repair) -> str:
    """Say what making INT8 pass has cost."""
    layers = f"{len(repair.taken)} of {repair.heavy} heavy layers"
    slower = f"{100 * (repair.slower - 1):.0f} %"
    return (
        f"int8 keeps {layers} in float, which took it from {repair.before_db:.1f} to {repair.after_db:.1f} dB on the "
        f"calibration samples and, by the layers' profile, cost {slower} of its speed"
    )


def _why_not_int8(candidates: Sequence[Candidate]) -> str:
    rows = [row for row in candidates if row.precision.startswith("int8") and row.status != "built_not_run"]
    passed = [row for row in rows if row.status == "passed"]
    if passed:
        return "int8 was asked for, passes, and is no faster here"
    reasons = "; ".join(f"{row.name} {row.status}: {row.reason}" for row in rows)
    return f"int8 was asked for and does not ship ({reasons or 'no backend here builds it'})"


def _nothing(candidates: Sequence[Candidate], require: str | None) -> tuple[str, str]:
    rows = [row for row in candidates if require is None or row.precision == require]
    what = f"no {require} candidate" if require else "no candidate"
    reasons = "; ".join(f"{row.name} {row.status}{': ' + row.reason if row.reason else ''}" for row in rows)
    return (
        f"{what} passed every gate: {reasons or 'none was built'}",
        "See the table above: loosen a limit in the recipe with its reason, keep a layer in float, or calibrate on "
        "real samples (--calibration).",
    )
