"""The page for people: whole, self-contained, and nothing that a name or a reason holds becomes markup."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy_compile import markup
from deploy_compile import report_charts as charts
from deploy_compile.report_html import page
from deploy_compile.report_parts import share_used
from deploy_compile.results import Layer
from deploy_runtime.data import decode, encode
from deploy_runtime.drift import PhaseDrift, Segment, StreamDrift, Verdict
from deploy_runtime.evidence import (
    Manifest,
)
from deploy_runtime.spec import State, Tensor
from tests.compile.shown import DRIFT, HOSTILE, LAYERS, MAP, ROWS, SPEED, VERDICTS, bare, full, with_text
from tests.runtime import tiny_bundle

VOID = {"meta", "link", "br", "hr", "img", "input"}
TAGS = {
    "html", "head", "meta", "title", "link", "style", "body", "header", "main", "footer", "section", "nav", "h1", "h2",
    "h3", "p", "a", "code", "pre", "strong", "span", "div", "ul", "ol", "li", "dl", "dt", "dd", "table", "caption",
    "thead", "tbody", "tr", "th", "td", "details", "summary", "svg", "rect", "line", "circle",
}  # fmt: skip
NAMES = {
    "lang", "charset", "http-equiv", "content", "name", "rel", "href", "class", "id", "title", "role", "scope", "open",
    "data-label", "aria-label", "aria-hidden", "focusable", "width", "height", "x", "y", "x1", "x2", "y1", "y2", "cx",
    "cy", "r",
}  # fmt: skip


class Page(HTMLParser):
    """Reads a page strictly: what it closes is what stands open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.words = list[str](), list[str](), list[str]()
        self.attributes = list[tuple[str, str, str]]()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        assert len({name for name, _ in attrs}) == len(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    @property
    def text(self) -> str:
        return "".join(self.words)

    def values(self, name: str) -> list[str]:
        return [value for _, found, value in self.attributes if found == name]


@pytest.mark.parametrize("manifest", [full(), bare()], ids=["full", "bare"])
def test_the_page_is_whole_and_asks_nobody_for_anything(manifest: Manifest) -> None:
    text = page(manifest, LAYERS)
    found = Page(text)
    assert set(found.tags) <= TAGS
    assert ("html", "lang", "en") in found.attributes
    ids = found.values("id")
    assert len(set(ids)) == len(ids)
    for name in ("src", "href", "action", "data", "srcset", "xlink:href"):
        assert all(link == "data:," or link.removeprefix("#") in ids for link in found.values(name)), name
    assert "://" not in text
    assert not re.search(r"url\(|@import|@font-face", text)
    assert any(policy.startswith("default-src 'none';") for policy in found.values("content"))
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]
    assert found.tags.count("caption") == found.tags.count("table")
    assert all(scope in ("col", "row") for scope in found.values("scope"))


def test_figures_are_those_of_the_manifest() -> None:
    manifest = full()
    text = Page(page(manifest, LAYERS)).text
    speed, repair = SPEED, manifest.repairs["cpu"]
    for figure in (
        f"{speed.ratio:.2f} ×", f"{speed.low:.2f} to {speed.high:.2f}", f"{speed.p50_ms:.1f} ms",
        f"{speed.p90_ms:.1f} ms", f"{speed.p99_ms:.1f} ms", f"{speed.torch_p50_ms:.1f} ms", "97.2 ms", "1,200 runs",
        "2 threads", f"{DRIFT.sqnr_db:.1f} dB", "≥ 18.0 dB", f"{DRIFT.cosine:.6f}", "≥ 0.990000", "93.75 %",
        "≥ 95.00 %", "15 of 16", f"{MAP.max_relative:.3g}", "≤ 0.05", "3.25 ×", "≤ 10 ×", "map: a map of few values",
        "93.1 % of the multiply-adds", "3 layers in int8",
        f"{repair.before_db:.1f} to {repair.after_db:.1f} dB", "12 % slower", "stem.0", "1 of 4 layers",
        "48 samples, from 12 sources", "d" * 64, "0" * 64, "86.25 %", "85.83 %", "-0.42", "at most 0.5 may be lost",
        "rest (12 decisions)", "tool (0 decisions)", "no sample", "not defined",
        "emulated on the CPU: not run on hardware", "this processor has no bf16",
    ):  # fmt: skip
        assert figure in text, figure


def test_accuracy_leads_where_there_is_any_and_the_verdict_where_there_is_none() -> None:
    with_it, without = page(full(), LAYERS), page(replace(full(), evaluation=None), LAYERS)
    text = Page(with_it).text
    order = [
        "Accuracy on 240 labelled samples: 86.25 % with PyTorch, 85.83 % with openvino int8.",
        "openvino int8: 4.4x",
    ]
    order += ["1 calibration sample only", "What ships", "cosine"]
    assert [text.index(one) for one in order] == sorted(text.index(one) for one in order)
    assert Page(with_it).values("id")[0] == "accuracy"
    assert Page(without).values("id")[0] == "ships"
    assert "labelled" not in Page(without).text


def test_what_makes_it_no_model_to_ship_is_said_at_the_top() -> None:
    plain = tiny_bundle.manifest(ROWS)
    text = Page(page(plain, {})).text
    for warning in ("seeded weights: an architecture check", "calibrated on synthetic samples", "not run on hardware"):
        assert text.index(warning) < text.index("What ships, and why")


def test_nothing_measured_is_said_in_words() -> None:
    text = Page(page(bare(), {})).text
    for sentence in (
        "No candidate was timed.", "No candidate got as far as being measured.", "No layer table was read",
        "INT8 was not asked for", "No INT8 was asked for: nothing was calibrated.", "none: no other backend passed",
        "Nothing: every engine above was run",
    ):  # fmt: skip
        assert sentence in text, sentence


@given(text=st.one_of(st.just(HOSTILE), st.text(min_size=1, max_size=40)))
@settings(max_examples=40, deadline=None)
def test_no_text_becomes_markup(text: str) -> None:
    body = page(*with_text(text))
    body.encode()  # no lone surrogate
    found = Page(body)
    assert set(found.tags) <= TAGS
    assert {name for _, name, _ in found.attributes} <= NAMES
    assert markup.clean(text) in found.text
    assert not [letter for letter in body if letter in markup.BIDIRECTIONAL or (letter < " " and letter not in "\n\t")]


def test_an_output_that_no_limit_judges_has_no_figures_beside_it() -> None:
    unjudged = Verdict("map", "limits", 0.0, 1.0, False, "no limit judges this output")
    text = Page(page(replace(full(), candidates=(replace(ROWS[0], verdicts=(unjudged,)), ROWS[1])), LAYERS)).text
    assert "limitsno limit judges this output–––failed" in text


def test_a_stream_says_what_it_carries_and_how_its_phases_fared() -> None:
    sequences = (Segment(0, 200, 0), Segment(200, 100, 1)), (Segment(0, 203, 0), Segment(203, 97, 1))
    phases = PhaseDrift(300, 0.985, 0.962, 3, 2, 1, *sequences)
    film = StreamDrift("logits", 300, 31.5, 33.0, 30.25, 44.0, 35.0, 36.0, phases, (34.0, 32.5, 31.0, 30.0), 33.9, 31.2)
    ended = Verdict("logits", "stream_end_db", 30.25, 27.0, True)
    carried = (State("h", "h_next"), State("c", "c_next"))
    plain = full()
    state = tuple(Tensor(name, ("batch", 4)) for name in ("h", "c"))
    streams = replace(
        plain, inputs=(*plain.inputs, *state), state=carried,
        candidates=(replace(ROWS[0], stream=(film,), verdicts=(*VERDICTS, ended)), *ROWS[1:]),
    )  # fmt: skip
    text = Page(page(streams, LAYERS)).text
    for figure in (
        "2 states from chunk to chunk: h to c",
        "30.2 dB",
        "≥ 27.0 dB",
        "98.50 %",
        "0.962",
        "3 frames",
        "the trend goes from 33.9 to 31.2 dB",
    ):
        assert figure in text, figure
    assert "takesh [batch" not in text
    titles = [value for tag, name, value in Page(page(streams, LAYERS)).attributes if name == "title"]
    assert [title for title in titles if title and title.startswith("frames ")] == [
        "frames 0 to 199: " + plain.labels[0], "frames 200 to 299: " + plain.labels[1],
        "frames 0 to 202: " + plain.labels[0], "frames 203 to 299: " + plain.labels[1],
    ]  # fmt: skip


def test_a_hostile_name_stays_text() -> None:
    body = page(*with_text(HOSTILE))
    assert body.count("<style") == 1
    assert not re.search("<(script|!--|img|a onclick)", body)
    assert body.count("</style>") == 1
    assert "alert(" in Page(body).text


def test_it_is_the_same_again_from_what_json_keeps() -> None:
    kept = decode(Manifest, json.loads(json.dumps(encode(full()), sort_keys=True)))
    layers = decode(Mapping[str, tuple[Layer, ...]], json.loads(json.dumps(encode(LAYERS), sort_keys=True)))  # type: ignore[type-abstract]
    assert page(kept, layers) == page(full(), LAYERS)


@pytest.mark.parametrize(
    ("metric", "value", "limit", "used"),
    [
        ("sqnr_db", 38.0, 18.0, 0.1),
        ("sqnr_db", float("inf"), 18.0, 0.0),
        ("sqnr_db", float("-inf"), 18.0, float("inf")),
        ("cosine", 0.995, 0.99, 0.5),
        ("max_relative", 3e-4, 1e-4, 3.0),
        ("max_relative", float("inf"), 1e-4, float("inf")),
        ("agreement", 1.0, 1.0, 0.0),
        ("agreement", 0.9, 1.0, float("inf")),
    ],
)
def test_a_bar_is_the_share_of_what_a_limit_allows(metric: str, value: float, limit: float, used: float) -> None:
    verdict = Verdict("logits", metric, value, limit, used <= 1.0)
    assert charts.used(verdict) == pytest.approx(used)
    width = Page(markup.document(charts.limit_bar(verdict))).values("width")
    assert width[1] == f"{100 * min(used, charts.MOST_USED) / charts.MOST_USED:.2f}%"
    assert share_used(used) in ("10 %", "0 %", "50 %", "300 %", "over 10 times")


def test_a_map_is_parted_where_the_modules_part() -> None:
    paths = ["features.0", "features.1.a", "features.1.b", "features.2", "features.3", "head"]
    layers = [Layer(f"/{path.replace('.', '/')}/Conv", "Conv", "int8") for path in paths]
    stages = [(name, len(stage)) for name, stage in charts.stages(layers)]
    assert stages == [("features.0", 1), ("features.1", 2), ("features.2", 1), ("features.3", 1), ("head", 1)]
