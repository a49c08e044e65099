"""The report on what was measured: accuracy, distance from PyTorch beside each limit, latency."""

import math
from collections.abc import Sequence
from xml.etree.ElementTree import Element

from deploy_compile import report_charts as charts
from deploy_compile import report_parts as parts
from deploy_compile.markup import Child, el
from deploy_compile.terminal import MOST_CLASSES_SHOWN, changed
from deploy_runtime.drift import Verdict
from deploy_runtime.evidence import Accuracy, Candidate, Evaluation, Interval, Manifest, Speed

VERDICT = ("output", "metric", "measured", "limit", "beside the limit", "verdict")
FILM = ("output", "frames", "equal frames", "edit score", "largest shift of a boundary", "switches more", "fewer")
FIGURES = ("output", "samples", "largest |error|", "mean |error|", "largest |PyTorch|", "worst cosine", "finite")
HOW_TO_READ = (
    "A bar shows how much of the error that a limit allows was measured; the upright line is the limit. Signal to "
    "noise counts as noise, cosine and decisions by what is missing to 1."
)


def accuracy(found: Evaluation, labels: Sequence[str]) -> Element:
    """Accuracy before and after, each figure on its interval."""
    both = (found.torch, found.engine)
    headings = ("measure", "PyTorch", found.candidate)
    rows = [
        ["accuracy", *(_interval(one.accuracy, parts.percent) for one in both)],
        ["AUROC, one against the rest", *(_interval(one.auroc, parts.plain) for one in both)],
        ["expected calibration error", *(_interval(one.calibration_error, parts.plain) for one in both)],
    ]
    counted = f"{parts.plural(found.samples, 'sample')}, {parts.plural(found.decisions, 'decision')}"
    return parts.section(
        "accuracy",
        "Accuracy on labelled samples",
        el("p", f"The {changed(found)}."),
        parts.table(headings, rows, f"{counted}; 95 % intervals; bars from 0 to 1"),
        _recalls(both, ("class", *headings[1:]), labels),
        el("p", "Digest of the decoded samples and their labels: ", el("code", found.digest), class_="dim small"),
    )


def _recalls(both: tuple[Accuracy, Accuracy], headings: Sequence[str], labels: Sequence[str]) -> Element | None:
    pairs = list(zip(both[0].recall, both[1].recall, strict=True))
    rows = [
        [
            f"{labels[place] if labels else f'class {place}'} ({parts.plural(pair[0].samples, 'decision')})",
            *(_interval(one.recall, parts.percent) for one in pair),
        ]
        for place, pair in enumerate(pairs)
    ]
    if not rows:
        return None
    table = parts.table(headings, rows, "Recall of each class or label")
    return table if len(rows) <= MOST_CLASSES_SHOWN else parts.folded(f"Recall of {len(rows)} classes", table)


def _interval(found: Interval | None, told: parts.Told) -> Child:
    return el("div", told(found), None if found is None else charts.interval_bar(found, 1.0))


def parity(manifest: Manifest) -> Element:
    """Every measured distance from PyTorch beside its limit, candidate by candidate, the chosen one opened."""
    chosen = manifest.candidates[manifest.chosen]
    rows = [row for row in manifest.candidates if row.verdicts]
    rows.sort(key=lambda row: row is not chosen)
    return parts.section(
        "parity",
        "Parity with PyTorch, per output",
        el("p", f"Measured on held-out samples: {manifest.provenance.held_out}. {HOW_TO_READ}"),
        *(_judged(manifest, row, shown=row is chosen) for row in rows),
        None if rows else el("p", "No candidate got as far as being measured."),
    )


def _judged(manifest: Manifest, row: Candidate, *, shown: bool) -> Element:
    samples = max((drift.samples for drift in row.drift), default=0)
    how = parts.plural(samples, "sample") + (", emulated on the CPU: not run on hardware" if row.emulated else "")
    limit = manifest.limits.get(row.precision)
    limits = [] if limit is None else [("all outputs", limit), *sorted(limit.outputs.items())]
    reasons = [f"{name}: {one.reason}" for name, one in limits if one.reason]
    figures: list[list[Child]] = [
        [
            drift.output, str(drift.samples), f"{drift.max_abs:.3g}", f"{drift.mean_abs:.3g}", f"{drift.scale:.3g}",
            parts.with_unit("cosine", drift.worst_cosine), "yes" if drift.finite else "no: NaN or Inf",
        ]
        for drift in row.drift
    ]  # fmt: skip
    return parts.folded(
        row.name,
        parts.table(VERDICT, [_verdict(one) for one in row.verdicts], "What was judged", ("measured", "limit")),
        el("p", "Limits of their own, with the reason. ", "; ".join(reasons), class_="small") if reasons else None,
        parts.folded("All figures", parts.table(FIGURES, figures, "Errors are in the output's own units", FIGURES[1:])),
        _courses(row),
        _over_time(row, manifest.labels),
        more=el("span", parts.tag(row.status), " ", parts.dim(how)),
        shown=shown,
    )


def _courses(row: Candidate) -> Element | None:
    """How the distance from PyTorch changes along a film, of every output of a stream."""
    drawn = [drift for drift in row.stream if math.isfinite(drift.begins_db) and len(drift.course_db) > 1]
    pictures: list[Child] = []
    for drift in drawn:
        worst, best = min(drift.course_db), max(drift.course_db)
        said = (
            f"{drift.output} over {drift.frames} frames, the state carried on: signal to noise in "
            f"{len(drift.course_db)} parts, {worst:.1f} to {best:.1f} dB; the trend goes from {drift.begins_db:.1f} to "
            f"{drift.ends_db:.1f} dB (dashed, the favourable edge of its 95 % interval)"
        )
        pictures += [
            el("p", said, class_="small"),
            charts.course(drift.course_db, drift.begins_db, drift.ends_db, said),
        ]
    return parts.folded("Drift along a film", *pictures) if drawn else None


def _over_time(row: Candidate, labels: Sequence[str]) -> Element | None:
    """What the decisions of a stream were over a whole film, where each frame is decided."""
    rows: list[list[Child]] = [
        [
            drift.output,
            str(drift.frames),
            parts.with_unit("agreement", found.agreement),
            f"{found.edit_score:.3f}",
            parts.plural(found.boundary_shift, "frame"),
            str(found.false_switches),
            str(found.missed_switches),
        ]
        for drift in row.stream
        if (found := drift.phases) is not None
    ]
    caption = (
        "Decisions beside PyTorch's, the state carried on from frame to frame; an edit score of 1 is the same order"
    )
    strips = [
        charts.timeline(
            (("PyTorch", found.reference), (row.name, found.got)),
            labels,
            f"Phases of {drift.output} over {drift.frames} frames: PyTorch above, {row.name} below",
        )
        for drift in row.stream
        if (found := drift.phases) is not None and found.got
    ]
    return parts.folded("Phases over a film", *strips, parts.table(FILM, rows, caption, FILM[1:])) if rows else None


def _verdict(found: Verdict) -> list[Child]:
    note = el("span", found.note, class_="reason small") if found.note else None
    word, kind = ("passed", "good") if found.passed else ("failed", "bad")
    metric = el("div", parts.METRICS.get(found.metric, found.metric), note)
    result = el("span", word, class_=f"tag {kind}")
    if found.metric == parts.UNJUDGED:
        return [found.output, metric, parts.NONE, parts.NONE, parts.NONE, result]
    used = f"{parts.share_used(charts.used(found))} of what is allowed"
    beside = el("div", charts.limit_bar(found), parts.dim(used))
    return [found.output, metric, parts.with_unit(found.metric, found.value), parts.allowed(found), beside, result]


def latency(manifest: Manifest) -> Element:
    """Latency in milliseconds, and speed-up over PyTorch with its interval."""
    timed = [(row.name, row.speed) for row in manifest.candidates if row.speed is not None]
    if not timed:
        return parts.section("latency", "Latency", el("p", "No candidate was timed."))
    first = timed[0][1]
    machine = manifest.provenance.machine.get("cpu", "a processor that is not named")
    told = (
        f"A batch of {manifest.batch.best} on {machine}, {parts.plural(first.threads, 'thread')}, "
        f"{parts.plural(first.runs, 'run')} of each, interleaved with PyTorch eager in one run."
    )
    return parts.section("latency", "Latency", el("p", told), el("div", _times(timed), _ratios(timed), class_="bars"))


def _times(timed: Sequence[tuple[str, Speed]]) -> Element:
    most = max(max(speed.p99_ms or speed.p90_ms, speed.torch_p50_ms) for _, speed in timed)
    torch = timed[0][1].torch_p50_ms
    rows: list[list[Child]] = [
        [
            el("div", name, charts.latency_bar(speed, most)),
            *map(parts.milliseconds, (speed.p50_ms, speed.p90_ms, speed.p99_ms)),
        ]
        for name, speed in timed
    ]
    rows.append(
        [el("div", "PyTorch eager", charts.plain_bar(torch / most)), parts.milliseconds(torch), "not kept", parts.NONE]
    )
    headings = ["candidate", "median", "90 % below", "99 % below"]
    caption = "Bar: median; line: to the 90th percentile"
    if all(speed.p99_ms is None for _, speed in timed):  # known from 1,000 runs on only
        rows, headings = [row[:-1] for row in rows], headings[:-1]
    else:
        caption += " and the 99th"
    return parts.table(headings, rows, f"{caption}; dashed: PyTorch's median", headings[1:])


def _ratios(timed: Sequence[tuple[str, Speed]]) -> Element:
    most = max(1.0, *(speed.high for _, speed in timed))
    rows: list[list[Child]] = [
        [
            el("div", name, charts.interval_bar(Interval(speed.ratio, speed.low, speed.high), most, 1.0)),
            f"{speed.ratio:.2f} ×",
            f"{speed.low:.2f} to {speed.high:.2f}",
        ]
        for name, speed in timed
    ]
    caption = "Ratio of the medians with its bootstrap interval; dashed: as fast as PyTorch"
    headings = ("candidate", "× PyTorch", "95 % interval")
    return parts.table(headings, rows, caption, headings[1:])
