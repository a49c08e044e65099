"""Which candidate ships: the fastest that passes, unless a simpler one is as fast within the noise.

Promises a sentence that says what was chosen over what, with the numbers. Only measured candidates are chosen: an
engine that was built and not run can ship, never lead.
"""

from collections.abc import Mapping, Sequence

from deploy_compile.results import Choice
from deploy_runtime.errors import GateError
from deploy_runtime.evidence import Candidate, Repair
from deploy_runtime.selection import simplest
from deploy_runtime.timing import WITHIN

MB = 1e6  # bytes in a megabyte


def choose(
    candidates: Sequence[Candidate],
    require: str | None,
    asked: Sequence[str],
    repair: Repair | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Choice:
    """Pick the candidate that ships and the one to fall back on. Raises GateError where none passed.

    `require` names the only precision that will do; `asked` the precisions the user asked for beside fp32 and bf16;
    `repair` is what it took to make INT8 pass. With `sizes`, bytes of the engines by candidate name, the smallest that
    is no slower than PyTorch is picked instead of the fastest.
    The fallback is the fastest of another backend, so that a device with either library can run the bundle.
    """
    timed = [i for i, row in enumerate(candidates) if row.status == "passed" and row.speed is not None]
    allowed = [i for i in timed if require is None or candidates[i].precision == require]
    if not allowed:
        raise GateError(*_nothing(candidates, require))
    fastest = max(allowed, key=lambda i: _ratio(candidates[i]))
    rivals = [i for i in allowed if i == fastest or _as_fast(candidates[i])]
    if sizes is not None:
        chosen = _smallest(candidates, allowed, sizes)
        return Choice(chosen, _fallback(candidates, timed, chosen), _said_of_size(candidates, chosen, allowed, sizes))
    names = {candidates[i].name: i for i in rivals}
    lags = {name: -_ratio(candidates[i]) for name, i in names.items()}
    chosen = names[simplest({name: candidates[i].precision for name, i in names.items()}, lags)]
    sentence = _sentence(candidates, allowed, chosen, fastest, asked)
    quantized = any(candidates[i].precision.startswith("int8") for i in timed)
    if repair is not None and repair.taken and quantized:
        sentence += f". {_cost(repair)}"
    return Choice(chosen, _fallback(candidates, timed, chosen), sentence)


def _fallback(candidates: Sequence[Candidate], timed: Sequence[int], chosen: int) -> int | None:
    others = [i for i in timed if candidates[i].backend != candidates[chosen].backend]
    return max(others, key=lambda i: _ratio(candidates[i]), default=None)


def _smallest(candidates: Sequence[Candidate], allowed: Sequence[int], sizes: Mapping[str, int]) -> int:
    """Return the smallest that is no slower than PyTorch, or of all where none is; of equal ones the faster."""
    fast = [i for i in allowed if _ratio(candidates[i]) >= 1.0] or allowed
    return min(fast, key=lambda i: (sizes[candidates[i].name], -_ratio(candidates[i])))


def _said_of_size(
    candidates: Sequence[Candidate], chosen: int, allowed: Sequence[int], sizes: Mapping[str, int]
) -> str:
    row = candidates[chosen]
    told = f"{row.name}: {sizes[row.name] / MB:.1f} MB, the smallest that passes, and {_ratio(row):.1f}x PyTorch here"
    fastest = max(allowed, key=lambda i: _ratio(candidates[i]))
    if fastest == chosen:
        return f"{told}, the fastest too"
    ratio = _ratio(candidates[fastest]) / _ratio(row)
    return (
        f"{told}; {candidates[fastest].name} is {ratio:.2f}x of it with {sizes[candidates[fastest].name] / MB:.1f} MB"
    )


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
        noise = "within noise" if row.speed.lag <= 1 + WITHIN else "as far as this busy machine can tell: perhaps noise"
        told += f"; {candidates[fastest].name} is {row.speed.lag:.2f}x of it, {noise}, and asks for more trust"
    else:
        others = sorted((i for i in allowed if i != chosen), key=lambda i: -_ratio(candidates[i]))
        if others:
            told += f"; {_lead(row, candidates[others[0]])}, the next best"
            other = next((i for i in others if candidates[i].precision != row.precision), others[0])
            told += (
                "" if other == others[0] else f", and {_lead(row, candidates[other])}, the best in another precision"
            )
    lower = [precision for precision in asked if precision.startswith("int8")]
    if lower and not any(candidates[i].precision.startswith("int8") for i in (chosen, fastest)):
        told += f". {_why_not_int8(candidates)}"
    return told


def _lead(row: Candidate, other: Candidate) -> str:
    return f"{_ratio(row) / _ratio(other):.2f}x of {other.name}"


def _cost(repair: Repair) -> str:
    """Say what making INT8 pass has cost."""
    layers = f"{len(repair.taken)} of {repair.heavy} heavy layers"
    slower = round(100 * (repair.slower - 1))
    cost = f"cost {slower} % of its speed" if slower > 0 else "cost none of its speed"
    return (
        f"int8 keeps {layers} in float, which took it from {repair.before_db:.1f} to {repair.after_db:.1f} dB on the "
        f"calibration samples and, by the layers' profile, {cost}"
    )


def _why_not_int8(candidates: Sequence[Candidate]) -> str:
    rows = [row for row in candidates if row.precision.startswith("int8") and not row.unrun]
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
