"""`report.html`: the page for the person who signs. One file, no script, no request; all of it from the manifest.

Accuracy on the user's labelled samples leads where it was measured, then the verdict and what is doubtful about it.
The trap: a recipe's name, a label, a reason may hold anything, so the page is a tree of elements (see `markup`).
"""

from collections.abc import Iterator, Sequence
from xml.etree.ElementTree import Element

from deploy_compile import report_maps
from deploy_compile import report_parts as parts
from deploy_compile.markup import Child, document, el
from deploy_compile.report_layers import Layers, precisions, repairs
from deploy_compile.report_measured import accuracy, latency, parity
from deploy_compile.report_origin import calibration, not_run, provenance, reproduce
from deploy_compile.report_style import CSS, POLICY
from deploy_compile.terminal import notes
from deploy_compile.terminal_recipes import tensor_text
from deploy_runtime.evidence import Candidate, Coverage, Evaluation, Manifest

OBJECTIVES = {
    "latency": "the fastest answer on all threads",
    "throughput": "the most answers, with an engine a core",
    "size": "the smallest engine that is no slower than PyTorch",
}
TRIED = ("candidate", "result", "× PyTorch", "median", "signal to noise", "decisions", "heavy layers", "ships as")


def page(manifest: Manifest, layers: Layers, maps: bytes | None = None) -> str:
    """Return the report of a bundle. `layers` is its `layers.json`: by candidate, each heavy node and its precision.

    `maps` is its `maps.png`, where it has one.
    """
    found, made = manifest.evaluation, manifest.provenance
    sections = [
        *([] if found is None else [accuracy(found, manifest.labels)]),
        ships(manifest),
        parity(manifest),
        *([] if maps is None else [report_maps.section(manifest, maps)]),
        latency(manifest),
        precisions(manifest, layers),
        repairs(manifest, layers),
        calibration(manifest),
        provenance(manifest),
        reproduce(manifest),
        not_run(manifest),
    ]
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"{manifest.name}: deploy-compile report"),
        el("link", rel="icon", href="data:,"),
        el("style", CSS),
    )
    footer = el(
        "footer",
        f"Written by deploy-compile {made.versions.get('deploy-compile', '')} on {made.created}. Every figure is from ",
        el("code", "manifest.json"),
        ", whose sha256 is what a person signs. This page runs no script and asks nobody for anything.",
        class_="dim small",
    )
    body = el("body", header(manifest, sections), el("main", *sections), footer)
    return document(el("html", head, body, lang="en"))


def header(manifest: Manifest, sections: Sequence[Element]) -> Element:
    """The title, accuracy where there is any, the verdict, what must be known beside it, the chosen one's figures."""
    found, given = manifest.evaluation, manifest.provenance.calibration
    verdict, stop, more = manifest.verdict.partition(". ")
    told = notes(
        manifest.candidates,
        seeded=manifest.provenance.weights == "seeded",
        synthetic=given is not None and given.synthetic,
        int8=given is not None,
        doubts=() if given is None else given.warnings,
    )
    headings = [heading for section in sections for heading in section.iter("h2")]
    return el(
        "header",
        el("p", "deploy-compile report", class_="dim small"),
        el("h1", manifest.name),
        None if found is None else el("p", _lead(found), class_="lead"),
        el("p", verdict + stop.strip(), class_="lead"),
        el("p", more) if more else None,
        el("ul", *(el("li", note) for note in told), class_="notes") if told else None,
        el("dl", *_tiles(manifest), class_="tiles"),
        el("nav", *(el("a", one.text, href=f"#{one.get('id')}") for one in headings), aria_label="Contents"),
    )


def _lead(found: Evaluation) -> str:
    before, after = (100 * one.accuracy.value for one in (found.torch, found.engine))
    samples = parts.plural(found.samples, "labelled sample")
    return f"Accuracy on {samples}: {before:.2f} % with PyTorch, {after:.2f} % with {found.candidate}."


def _tiles(manifest: Manifest) -> Iterator[Element]:
    """The figures of the chosen candidate that are read first."""
    row = manifest.candidates[manifest.chosen]
    if (found := manifest.evaluation) is not None:
        change = found.difference.change
        interval = f"95 %: {100 * change.low:+.2f} to {100 * change.high:+.2f}"
        yield _tile("change of accuracy", f"{100 * change.value:+.2f} points", interval)
    if (speed := row.speed) is not None:
        yield _tile("speed-up over PyTorch", f"{speed.ratio:.2f} ×", f"95 %: {speed.low:.2f} to {speed.high:.2f}")
        told = f"90 % below {parts.milliseconds(speed.p90_ms)}; PyTorch {parts.milliseconds(speed.torch_p50_ms)}"
        yield _tile("median latency", parts.milliseconds(speed.p50_ms), told)
    if (drift := parts.worst(row)) is not None:
        limits = [one.limit for one in row.verdicts if (one.output, one.metric) == (drift.output, "sqnr_db")]
        told = f"limit: at least {limits[0]:.1f} dB" if limits else "judged by other limits"
        yield _tile("signal to noise", parts.with_unit("sqnr_db", drift.sqnr_db), f"{drift.output}; {told}")
    if (deciding := parts.deciding(row)) is not None:
        yield _tile("decisions as PyTorch's", parts.decisions(deciding), "on held-out samples")
    if row.coverage is not None and row.coverage.macs:
        yield _arithmetic(row.coverage)


def _arithmetic(coverage: Coverage) -> Element:
    most = max(sorted(coverage.macs), key=lambda precision: coverage.macs[precision])
    told = f"{coverage.layers.get(most, 0)} of {sum(coverage.layers.values())} heavy layers"
    return _tile(f"arithmetic in {most}", f"{100 * coverage.macs[most]:.1f} %", told)


def _tile(name: str, value: str, more: str) -> Element:
    return el("div", el("dt", name), el("dd", value), el("dd", more, class_="small"))


def ships(manifest: Manifest) -> Element:
    """What is in the bundle and why, with everything that was tried."""
    chosen, fallback, batch = manifest.candidates[manifest.chosen], manifest.fallback, manifest.batch
    sizes = f"{batch.best}" if batch.fixed else f"{batch.least} to {batch.most}, best at {batch.best}"
    rows: list[tuple[str, Child]] = [
        ("chosen", el("span", el("strong", chosen.name), ", which opens ", el("code", chosen.file or ""))),
        ("fallback", "none: no other backend passed" if fallback is None else manifest.candidates[fallback].name),
        ("chosen for", OBJECTIVES[manifest.objective]),
        ("batch", sizes),
        *(("takes", f"{tensor_text(tensor)} {tensor.dtype} {tensor.layout}") for tensor in manifest.data_inputs),
        *(("gives", f"{tensor_text(tensor)} {tensor.dtype} {tensor.layout}") for tensor in manifest.data_outputs),
    ]
    if manifest.state:
        states = parts.plural(len(manifest.state), "state")
        what = f"features of {manifest.window - 1} frames" if manifest.window else states
        first, last = manifest.state[0], manifest.state[-1]
        names = first.input if first == last else f"{first.input} to {last.input}"
        rows.append(("carries", f"{what} from chunk to chunk: {names}"))
    parted = {fallback: ", the fallback", manifest.chosen: ", the chosen one"}
    tried = [_candidate(row, parted.get(place, "")) for place, row in enumerate(manifest.candidates)]
    caption = "Everything that was tried; signal to noise is the worst output's"
    return parts.section(
        "ships",
        "What ships, and why",
        parts.facts(rows),
        parts.table(TRIED, tried, caption, ("× PyTorch", "median", "signal to noise")),
    )


def _candidate(row: Candidate, part: str) -> list[Child]:
    drift, speed = parts.worst(row), row.speed
    layers = [] if row.coverage is None else sorted(row.coverage.layers.items())
    interval = "" if speed is None else f"{speed.low:.2f} to {speed.high:.2f}"
    return [
        el("div", row.name, part, el("span", row.reason, class_="reason small") if row.reason else None),
        parts.tag(row.status),
        parts.NONE if speed is None else el("div", f"{speed.ratio:.2f} ×", el("span", interval, class_="reason small")),
        parts.milliseconds(None if speed is None else speed.p50_ms),
        parts.NONE if drift is None else parts.with_unit("sqnr_db", drift.sqnr_db),
        parts.decisions(parts.deciding(row)),
        ", ".join(f"{count} {precision}" for precision, count in layers) or parts.NONE,
        el("code", row.file, class_="file") if row.file else parts.NONE,
    ]
