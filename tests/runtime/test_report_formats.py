"""Whatever words a bundle holds, every format carries them, and none takes them for anything but words."""

import html
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_runtime.__main__ import main
from deploy_runtime.report_formats import annotations, junit, markdown, one_line, text, unheard
from deploy_runtime.result import Result, Row

NASTY = st.text(
    st.one_of(st.characters(), st.sampled_from("%:,|<>&`*_[]\\~@#\r\n\x00\x85\u2028")), max_size=30
)  # characters() alone would seldom draw the ones that matter
COMMAND = re.compile(r"::(error|warning|notice) title=([^:,\r\n]*)::([^\r\n]*)")


def result(name: str = "files", detail: str = "3 files", outcome: Any = "passed", bundle: str = "b") -> Result:
    return Result(bundle, "ab" * 32, (Row(name, outcome, detail, notice=True),))


def understood(line: str) -> tuple[str, str, str]:
    """Read a workflow command as GitHub's runner does (actions/runner, ActionCommand.cs): split, then unescape."""
    found = COMMAND.fullmatch(line)
    assert found is not None, line
    level, title, message = found.groups()
    for escaped, plain in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        title = title.replace(escaped, plain)
        message = message if escaped in ("%3A", "%2C") else message.replace(escaped, plain)
    return level, title, message


@given(NASTY, NASTY, NASTY)
def test_annotations_are_commands_that_say_the_words_again(name: str, detail: str, bundle: str) -> None:
    first, last = annotations([result(name, detail, "failed", bundle)]).split("\n")
    assert understood(first) == ("error", f"deploy-compile check: {name}", f"{bundle}: {detail}")
    assert understood(last) == ("notice", "deploy-compile check", f"{bundle}: FAILED: 1 of 1")


def test_levels_follow_the_outcome_and_what_failed_comes_first() -> None:
    rows = (
        Row("files", "passed", "3 files"),
        Row("weights", "passed", "seeded", notice=True),
        Row("tensorrt_rtx int8", "not run", "no driver"),
        Row("audit", "failed", "100% in fp32"),
    )
    assert annotations([Result("b", "", rows)]).split("\n") == [
        "::error title=deploy-compile check%3A audit::b: 100%25 in fp32",
        "::warning title=deploy-compile check%3A tensorrt_rtx int8::b: no driver",
        "::notice title=deploy-compile check%3A weights::b: seeded",
        "::notice title=deploy-compile check::b: FAILED: 1 of 4, 1 not run",
    ]


@given(NASTY, NASTY)
def test_a_cell_of_the_summary_is_one_cell_and_says_the_words_again(name: str, detail: str) -> None:
    line = markdown([result(name, detail)]).split("\n")[-3]
    assert line.count("|") == 4
    cells = [cell.strip(" ") for cell in line.split("|")[1:-1]]
    assert [html.unescape(cell) for cell in cells] == ["passed", one_line(name), one_line(detail)]
    assert not set("<>`*_[]\\~@!$") & set("".join(cells))


@given(NASTY, NASTY, NASTY)
def test_text_keeps_every_row_on_its_line(name: str, detail: str, bundle: str) -> None:
    assert len(text(result(name, detail, bundle=bundle)).splitlines()) == 3


@given(NASTY, NASTY)
def test_junit_is_xml_whatever_the_words(name: str, detail: str) -> None:
    case = ElementTree.fromstring(junit([result(name, detail)]))[0][0]
    assert set(case.attrib) == {"classname", "name", "time"}


def test_a_summary_names_what_failed_first() -> None:
    rows = (Row("files", "passed", "3 files"), Row("audit", "failed", "a | <b>"))
    assert markdown([Result("b", "ab" * 32, rows)]) == (
        "## deploy-compile check: FAILED\n\n"
        "**b**: FAILED: 1 of 2 (manifest sha256 abababababababab)\n\n"
        "| | gate | found |\n| --- | --- | --- |\n"
        "| **failed** | audit | a &#124; &#60;b&#62; |\n"
        "| passed | files | 3 files |\n\n"
    )


def test_lines_between_are_not_heard_until_the_token_comes() -> None:
    first, *words, last = unheard("::add-mask::x\n::error::y").split("\n")
    token = first.removeprefix("::stop-commands::")
    assert len(token) == 32
    assert words == ["::add-mask::x", "::error::y"]
    assert last == f"::{token}::"


@pytest.fixture(scope="module")
def pytests_own(tmp_path_factory: pytest.TempPathFactory) -> ElementTree.Element:
    """What pytest writes of a test that passes and prints, one that fails and one that is skipped."""
    folder = tmp_path_factory.mktemp("junit")
    (folder / "test_three.py").write_text(
        "import pytest\n"
        "def test_passes(): print('words')\n"
        "def test_fails(): assert 0\n"
        "@pytest.mark.skip(reason='none')\n"
        "def test_is_skipped(): ...\n"
    )
    options = ["-q", "-p", "no:cacheprovider", "-o", "junit_logging=all", f"--junit-xml={folder / 'own.xml'}"]
    command = [sys.executable, "-m", "pytest", *options, str(folder)]
    subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    return ElementTree.parse(folder / "own.xml").getroot()


def test_junit_has_the_elements_and_attributes_of_pytests_own(pytests_own: ElementTree.Element) -> None:
    """A reader of pytest's reports meets nothing new, and finds the numbers that it counts by."""
    rows = (Row("a", "passed", "1"), Row("b", "failed", "2"), Row("c", "not run", "3"))
    ours = ElementTree.fromstring(junit([Result("bundle", "", rows)]))
    theirs = shapes(pytests_own)
    for place, attributes in shapes(ours).items():
        assert attributes <= theirs[place], place
    for counted in ("tests", "failures", "errors", "skipped"):
        assert ours[0].attrib[counted] == pytests_own[0].attrib[counted]


def shapes(element: ElementTree.Element, above: str = "") -> dict[str, set[str]]:
    """Return every path of elements with the attributes met there."""
    place = f"{above}/{element.tag}"
    found = {place: set(element.attrib)}
    for child in element:
        for path, attributes in shapes(child, place).items():
            found[path] = found.get(path, set()) | attributes
    return found


def test_the_command_prints_annotations_and_adds_to_the_summary(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("an earlier step\n")
    assert main(["check", str(bundle), "--annotations", "--summary", str(summary), "--backend", "onnxruntime"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("::stop-commands::")
    assert lines[-1] == f"::notice title=deploy-compile check::{bundle}: passed, 1 not run"
    assert any(line.startswith("::notice title=deploy-compile check%3A weights::") for line in lines)
    assert summary.read_text().startswith("an earlier step\n## deploy-compile check: passed\n")
    assert main(["check", str(bundle), "--annotations", "--json"]) == 2
    assert main(["check", str(bundle), "--summary", str(tmp_path / "none" / "summary.md")]) == 1
    assert "summary.md cannot be written" in capsys.readouterr().err
