"""Tables, facts and figures as the report writes them: each with its unit, and what is not there said in words."""

import math
from collections.abc import Callable, Iterable, Sequence
from xml.etree.ElementTree import Element

from deploy_compile.markup import Child, el
from deploy_runtime.drift import Drift, Verdict
from deploy_runtime.evidence import Candidate, Interval
from deploy_runtime.golden import AT_MOST

NONE = "–"
Told = Callable[[Interval | None], str]
STATUS = {
    "passed": ("passed", "good"),
    "failed": ("failed", "bad"),
    "rejected": ("rejected", "bad"),
    "crashed": ("crashed", "bad"),
    "refused": ("refused", "open"),
    "built_not_run": ("not run", "open"),
    "to_build": ("to build", "open"),
}
METRICS = {
    "cosine": "cosine",
    "sqnr_db": "signal to noise (SQNR)",
    "max_relative": "largest error over largest value",
    "fp64_ratio": "distance from fp64 over PyTorch's own",
    "agreement": "equal decisions",
    "pair_same_db": "signal to noise for the same study twice",
    "pair_exchanged_db": "signal to noise with the two exchanged",
    "pair_light_ratio": "reaction to another exposure, over PyTorch's",
    "stream_sqnr_db": "signal to noise over a film",
    "stream_end_db": "signal to noise at its end, beside its beginning or a stream that begins there",
    "stream_trend_db": "signal to noise at its end by the trend",
    "stream_chunks_db": "single frames beside longer chunks",
    "stream_resumed_db": "signal to noise from a state that is given",
}
UNJUDGED = "limits"  # the verdict on an output that no limit judges


def section(name: str, title: str, *children: Child) -> Element:
    """A section that the contents lead to."""
    return el("section", el("h2", title, id=name), *children)


def table(headings: Sequence[str], rows: Iterable[Sequence[Child]], caption: str, right: Sequence[str] = ()) -> Element:
    """A table whose first column names its rows, with the columns of the headings `right` set to the right.

    On a phone each row becomes a card: its cells then carry their heading, and roles say again what it is.
    """
    kinds = dict.fromkeys(right, "number")
    head = [_cell("th", one, kinds.get(one, ""), scope="col", role="columnheader") for one in headings]
    body = []
    for first, *others in rows:
        cells = [el("th", first, scope="row", role="rowheader")]
        for heading, child in zip(headings[1:], others, strict=True):
            kind = f"{kinds.get(heading, '')} {'none' if child == NONE else ''}".strip()
            cells.append(_cell("td", child, kind, role="cell", data_label=heading))
        body.append(el("tr", *cells, role="row"))
    return el(
        "table",
        el("caption", caption),
        el("thead", el("tr", *head, role="row"), role="rowgroup"),
        el("tbody", *body, role="rowgroup"),
        class_="cards",
        role="table",
    )


def facts(rows: Iterable[tuple[str, Child]]) -> Element:
    """Names and what they are."""
    return el("dl", *(part for name, value in rows for part in (el("dt", name), el("dd", value))), class_="facts")


def folded(title: str, *children: Child, more: Element | None = None, shown: bool = False) -> Element:
    """What can be opened, without a script; paper shows it open."""
    summary = el("summary", title, None if more is None else " ", more)
    return el("details", summary, *children, **({"open": "open"} if shown else {}))


def tag(status: str) -> Element:
    """What became of a candidate, as a word."""
    word, kind = STATUS[status]
    return el("span", word, class_=f"tag {kind}")


def dim(text: str) -> Element:
    """Said beside."""
    return el("span", text, class_="dim")


def allowed(verdict: Verdict) -> str:
    """A limit with its unit, and on which side of it a value may lie."""
    return f"{'≤' if verdict.metric in AT_MOST else '≥'} {with_unit(verdict.metric, verdict.limit)}"


def with_unit(metric: str, value: float) -> str:
    """A value of a metric as a person reads it."""
    if metric.endswith("_db"):
        return "equal" if value == math.inf else f"{value:.1f} dB"
    if metric == "cosine":
        return f"{value:.6f}"
    if metric == "agreement":
        return f"{100 * value:.2f} %"
    return f"{value:.3g} ×" if metric == "fp64_ratio" else f"{value:.3g}"


def share_used(used: float) -> str:
    """How much of the error that a limit allows was measured."""
    if used > 10.0:
        return "over 10 times"
    return f"{100 * used:.0f} %" if used >= 0.01 or used == 0.0 else "under 1 %"


def worst(row: Candidate) -> Drift | None:
    """The output that lies furthest from PyTorch's."""
    return min(row.drift, key=lambda drift: drift.sqnr_db, default=None)


def deciding(row: Candidate) -> Drift | None:
    """The output that decides, where there is one."""
    return next((drift for drift in row.drift if drift.agreement is not None), None)


def decisions(drift: Drift | None) -> str:
    """How many decisions are PyTorch's."""
    if drift is None or drift.agreement is None:
        return NONE
    return f"{round(drift.agreement * drift.decisions)} of {drift.decisions}"


def milliseconds(value: float | None) -> str:
    """A time, fine enough for a microsecond's net."""
    return NONE if value is None else f"{value:.1f} ms" if value >= 10.0 else f"{value:.3g} ms"


def percent(share: Interval | None) -> str:
    """A share with its interval."""
    if share is None:
        return "no sample"
    return f"{100 * share.value:.2f} % ({100 * share.low:.1f} to {100 * share.high:.1f})"


def plain(value: Interval | None) -> str:
    """A figure with its interval."""
    return "not defined" if value is None else f"{value.value:.4f} ({value.low:.3f} to {value.high:.3f})"


def plural(count: int, word: str) -> str:
    """A count and what it counts."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _cell(tag: str, child: Child, kind: str, **attributes: str) -> Element:
    return el(tag, child, **attributes, **({"class_": kind} if kind else {}))
