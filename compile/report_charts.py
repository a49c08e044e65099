"""The report's pictures, as SVG whose lengths are per cent: they stretch with the page and hold no text that shrinks.

Each stands beside the figures it draws, in words, so that nothing is said by colour or length alone.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise
from xml.etree.ElementTree import Element

from deploy_compile import trend
from deploy_compile.markup import Child, el
from deploy_compile.module_path import module_path
from deploy_compile.results import Layer
from deploy_runtime.drift import Segment, Verdict
from deploy_runtime.evidence import Interval, Speed

SHORT = {"fp32": "32", "bf16": "b16", "fp16": "16", "int8": "8"}  # what a cell of the map says
MOST_USED = 1.5  # of its limit: where a parity bar ends
COURSE_HEIGHT = 64  # pixels
PHASE_COLOURS = 8  # of a timeline; the number of a class stands in its segment
STAGES = 4  # a map is parted into at least so many, if names of modules allow it DEEPEST levels down
DEEPEST = 4
LONG_NAME = 12  # letters; only the end of longer names is shown above a stage


def latency_bar(speed: Speed, most_ms: float) -> Element:
    """The median as a bar, a line on to the 90th percentile, a tick at the 99th; dashed, PyTorch's median."""
    p50, p90, torch = (_percent(ms / most_ms) for ms in (speed.p50_ms, speed.p90_ms, speed.torch_p50_ms))
    ticks = [p90] if speed.p99_ms is None else [p90, _percent(speed.p99_ms / most_ms)]
    return _svg(
        el("rect", class_="bar", x="0", y="3", width=p50, height="10"),
        el("line", class_="whisker", x1=p50, x2=ticks[-1], y1="8", y2="8"),
        *(el("line", class_="whisker", x1=tick, x2=tick, y1="4", y2="12") for tick in ticks),
        el("line", class_="reference", x1=torch, x2=torch, y1="0", y2="16"),
    )


def plain_bar(share: float) -> Element:
    """A bar of a share of the width."""
    return _svg(el("rect", class_="bar other", x="0", y="3", width=_percent(share), height="10"))


def interval_bar(found: Interval, most: float, reference: float | None = None) -> Element:
    """A value as a dot on its 95 % interval, from 0 to `most`; dashed, what it is compared with."""
    low, high, value = (_percent(one / most) for one in (found.low, found.high, found.value))
    dashed = None if reference is None else _percent(reference / most)
    return _svg(
        el("line", class_="axis", x1="0", x2="100%", y1="8", y2="8"),
        None if dashed is None else el("line", class_="reference", x1=dashed, x2=dashed, y1="0", y2="16"),
        el("line", class_="whisker", x1=low, x2=high, y1="8", y2="8"),
        *(el("line", class_="whisker", x1=end, x2=end, y1="4", y2="12") for end in (low, high)),
        el("circle", class_="dot", cx=value, cy="8", r="4"),
    )


def used(verdict: Verdict) -> float:
    """Return how much of the error that its limit allows a measured value is: 1 is the limit itself.

    Ratios of signal to noise count as noise, cosines and agreements by what is missing to 1.
    """
    value, limit = verdict.value, verdict.limit
    if verdict.metric.endswith("_db"):
        return 0.0 if value == math.inf else 10.0 ** ((limit - value) / 20.0)
    if verdict.metric in ("cosine", "agreement"):
        value, limit = 1.0 - value, 1.0 - limit
    if limit <= 0.0:
        return 0.0 if value <= limit else math.inf
    return max(value / limit, 0.0)


def limit_bar(verdict: Verdict) -> Element:
    """How much of the allowed error was measured; the upright line is the limit."""
    share, limit = min(used(verdict), MOST_USED) / MOST_USED, _percent(1.0 / MOST_USED)
    kind = "bar good" if verdict.passed else "bar bad"
    return _svg(
        el("line", class_="axis", x1="0", x2="100%", y1="8", y2="8"),
        el("rect", class_=kind, x="0", y="4", width=_percent(share), height="8"),
        el("line", class_="limit", x1=limit, x2=limit, y1="0", y2="16"),
    )


def timeline(rows: Sequence[tuple[str, Sequence[Segment]]], labels: Sequence[str], said: str) -> Element:
    """A strip a sequence of phases, one above the other, a segment as wide as it is long; `said` tells it in words."""
    strips = [
        el("li", el("span", name, class_="stage"), el("ol", *(_phase(one, labels) for one in segments)))
        for name, segments in rows
    ]
    return el("ol", *strips, class_="timeline", role="img", aria_label=said)


def course(values_db: Sequence[float], begins_db: float, ends_db: float, said: str) -> Element:
    """Ratios in dB along a film as a broken line, the trend as a dashed one; `said` tells it in words."""
    shown = [max(min(value, trend.MOST_DB), 0.0) for value in values_db]
    low, high = min(*shown, begins_db, ends_db) - 1.0, max(*shown, begins_db, ends_db) + 1.0

    def height(value: float) -> str:
        return f"{COURSE_HEIGHT * (high - value) / (high - low):.1f}"

    places = [_percent((place + 0.5) / len(shown)) for place in range(len(shown))]
    return el(
        "svg",
        *(
            el("line", class_="course", x1=x1, y1=height(y1), x2=x2, y2=height(y2))
            for (x1, y1), (x2, y2) in pairwise(zip(places, shown, strict=True))
        ),
        el("line", class_="reference", x1=places[0], y1=height(begins_db), x2=places[-1], y2=height(ends_db)),
        class_="chart", width="100%", height=str(COURSE_HEIGHT), role="img", aria_label=said, focusable="false",
    )  # fmt: skip


def _phase(segment: Segment, labels: Sequence[str]) -> Element:
    name = labels[segment.phase] if segment.phase < len(labels) else f"class {segment.phase}"
    title = f"frames {segment.start} to {segment.start + segment.frames - 1}: {name}"
    style = f"flex-grow:{segment.frames}"
    return el("li", str(segment.phase), class_=f"phase p{segment.phase % PHASE_COLOURS}", title=title, style=style)


def layer_map(layers: Sequence[Layer], taken: frozenset[str], said: str) -> Element:
    """One cell for each heavy node in the order of the graph, with the precision it got; `said` tells it in words."""
    groups = [
        el("li", el("span", name, class_="stage"), el("ol", *(_cell(layer, layer.node in taken) for layer in stage)))
        for name, stage in stages(layers)
    ]
    return el("ol", *groups, class_="map", role="img", aria_label=said)


def stages(layers: Sequence[Layer]) -> list[tuple[str, list[Layer]]]:
    """Part the layers by PyTorch module, no deeper than it takes to tell a few stages apart; each with a short name."""
    parted = _parted(layers, 1)
    for depth in range(2, DEEPEST + 1):
        parted = parted if len(parted) >= STAGES else _parted(layers, depth)
    return [(name if len(name) <= LONG_NAME else name.rpartition(".")[2], stage) for name, stage in parted]


def _parted(layers: Sequence[Layer], depth: int) -> list[tuple[str, list[Layer]]]:
    groups = groupby(layers, lambda layer: ".".join(module_path(layer).split(".")[:depth]))
    return [(name, list(stage)) for name, stage in groups]


def _cell(layer: Layer, back: bool) -> Element:
    said = f"{layer.precision}{', taken back to float' if back else ''}"
    title = f"{module_path(layer)}, {layer.op}: {said}. Node {layer.node}"
    kind = f"cell {layer.precision}{' taken' if back else ''}"
    return el("li", SHORT.get(layer.precision, layer.precision), class_=kind, title=title)


def key(precisions: Iterable[str], taken: str) -> Element:
    """What the cells of a map say; `taken` is the precision of layers that went back to float, empty without any."""
    words: list[Child] = [
        el("span", el("span", SHORT.get(one, one), class_=f"cell {one}"), f" {one}") for one in precisions
    ]
    if taken:
        words.append(
            el("span", el("span", SHORT.get(taken, taken), class_=f"cell {taken} taken"), " taken back to float")
        )
    return el("p", *words, class_="key", aria_hidden="true")


def _svg(*children: Child) -> Element:
    return el("svg", *children, class_="chart", width="100%", height="16", aria_hidden="true", focusable="false")


def _percent(share: float) -> str:
    share = share if math.isfinite(share) else 1.0
    return f"{100.0 * min(max(share, 0.0), 1.0):.2f}%"
