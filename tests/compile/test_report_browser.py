"""The page for people in a real browser: nothing is asked of anybody, nothing is cut off, and it can be read."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy_compile.report_html import page
from tests import chromium
from tests.compile.shown import HOSTILE, LAYERS, full, with_text


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    path = chromium.found()
    if path is None:
        pytest.skip("no Chromium on PATH (Debian's package is chromium); nothing is installed for a test")
    with chromium.browser(path, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it(tmp_path: Path, browser: chromium.Browser, width: int, scheme: str) -> None:
    facts = {
        "wide": "document.documentElement.scrollWidth",
        "seen": "document.documentElement.clientWidth",
        "light": "getComputedStyle(document.body).backgroundColor",
        "smallest": "Math.min(...[...document.querySelectorAll('td, dd, p, li.cell')].map(e => "
        "parseFloat(getComputedStyle(e).fontSize)))",
    }
    for name, manifest, layers in (("full", full(), LAYERS), ("hostile", *with_text(HOSTILE))):
        place = tmp_path / f"{name}.html"
        place.write_text(page(manifest, layers), encoding="utf-8")
        seen = browser.open(place, width, scheme, facts)
        assert seen.requests == (place.as_uri(),)
        assert seen.console == ()
        assert seen.facts["wide"] <= seen.facts["seen"] <= width
        assert seen.facts["smallest"] >= 11
        assert (seen.facts["light"] == "rgb(255, 255, 255)") is (scheme == "light")
        assert seen.picture.startswith(b"\x89PNG")
        assert len(seen.picture) > 50_000


@pytest.mark.slow
def test_the_browser_would_have_told(tmp_path: Path, browser: chromium.Browser) -> None:
    place = tmp_path / "bad.html"
    place.write_text("<img src='beside.png'><script>console.error('shouted'); undefined.call()</script>")
    seen = browser.open(place, 390, "light", {})
    assert [Path(asked).name for asked in seen.requests] == ["bad.html", "beside.png"]
    assert "shouted" in "".join(seen.console)
    assert "exceptionDetails" in "".join(seen.console)
