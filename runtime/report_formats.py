"""Results for people, for programs and for CI: plain text, JSON, JUnit XML, GitHub's annotations and summary.

JUnit has no word for "not run" but `skipped`; a viewer that counts skipped as passed would be wrong, so the suite also
states how many ran. The trap: names and reasons come out of a bundle, and a line that begins with `::` is a command to
GitHub's runner. Words from a bundle are kept to one line each and escaped, and `unheard` holds off the rest.
"""

import secrets
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from deploy_runtime.data import encode
from deploy_runtime.result import Result, Row

TITLE = "deploy-compile check"
LEVELS = {"failed": "error", "not run": "warning", "passed": "notice"}  # of GitHub's annotations
MARKUP = "&<>|`*_[]\\~@#$!"  # what Markdown or HTML could read as more than a character


def text(result: Result) -> str:
    """Return the result as lines that a stranger understands."""
    width = max(len(row.name) for row in result.rows)
    lines = [f"{one_line(result.bundle)} (manifest sha256 {result.digest[:16] or 'unknown'})"]
    lines += [f"  {row.outcome:8s} {one_line(row.name):{width}s}  {one_line(row.detail)}" for row in result.rows]
    return "\n".join([*lines, f"  {_verdict(result)}"])


def one_line(words: str) -> str:
    """Put words that may hold line ends and control characters on one line."""
    return " ".join("".join(c if c.isprintable() else " " for c in words).split())


def _verdict(result: Result) -> str:
    not_run = sum(row.outcome == "not run" for row in result.rows)
    failed = sum(row.outcome == "failed" for row in result.rows)
    verdict = f"FAILED: {failed} of {len(result.rows)}" if failed else "passed"
    return f"{verdict}{f', {not_run} not run' if not_run else ''}"


def as_json(results: Sequence[Result]) -> dict[str, Any]:
    """Return one plain object: whether all passed, and each bundle with its rows."""
    bundles = [{"passed": result.passed, **encode(result)} for result in results]
    return {"passed": all(result.passed for result in results), "bundles": bundles}


def junit(results: Sequence[Result]) -> bytes:
    """Return JUnit XML: a suite a bundle, a case a row."""
    root = ElementTree.Element("testsuites", name="deploy_runtime")
    for result in results:
        outcomes = [row.outcome for row in result.rows]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=_plain(result.bundle),
            tests=str(len(outcomes)),
            failures=str(outcomes.count("failed")),
            errors="0",
            skipped=str(outcomes.count("not run")),
            time=f"{sum(row.seconds for row in result.rows):.3f}",
        )
        for row in result.rows:
            case = ElementTree.SubElement(
                suite, "testcase", classname=_plain(result.bundle), name=_plain(row.name), time=f"{row.seconds:.3f}"
            )
            if row.outcome == "failed":
                ElementTree.SubElement(case, "failure", message=_plain(row.detail))
            elif row.outcome == "not run":
                ElementTree.SubElement(case, "skipped", message=_plain(f"not run: {row.detail}"))
            else:
                ElementTree.SubElement(case, "system-out").text = _plain(row.detail)
    xml: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return xml


def _plain(words: str) -> str:
    """Leave out the characters that XML 1.0 cannot hold."""
    return "".join(
        c for c in words if c in "\t\n\r" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff"
    )


def annotations(results: Sequence[Result]) -> str:
    """Return GitHub workflow commands, a line each: what failed, what was not run, what should be seen, the verdicts.

    GitHub shows ten of a level a step, so that what failed comes first.
    """
    lines = [
        _command(LEVELS[outcome], f"{TITLE}: {row.name}", f"{result.bundle}: {row.detail}")
        for outcome in LEVELS
        for result in results
        for row in result.rows
        if row.outcome == outcome and (outcome != "passed" or row.notice)
    ]
    lines += [_command("notice", TITLE, f"{result.bundle}: {_verdict(result)}") for result in results]
    return "\n".join(lines)


def unheard(words: str) -> str:
    """Return words between the commands that make GitHub's runner take no line of them for a command."""
    token = secrets.token_hex(16)
    return f"::stop-commands::{token}\n{words}\n::{token}::"


def _command(level: str, title: str, message: str) -> str:
    """Escape as the runner undoes it: in a property also what would end it (actions/toolkit, core/command.ts)."""
    return f"::{level} title={_data(title).replace(':', '%3A').replace(',', '%2C')}::{_data(message)}"


def _data(words: str) -> str:
    return words.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def markdown(results: Sequence[Result]) -> str:
    """Return a summary for GitHub's step page or a merge request: a table a bundle, what failed first."""
    parts = [f"## {TITLE}: {'passed' if all(result.passed for result in results) else 'FAILED'}"]
    for result in results:
        parts.append(
            f"**{_cell(result.bundle)}**: {_verdict(result)} (manifest sha256 {result.digest[:16] or 'unknown'})"
        )
        ordered = sorted(result.rows, key=lambda row: list(LEVELS).index(row.outcome))
        parts.append("\n".join(["| | gate | found |", "| --- | --- | --- |", *map(_table_row, ordered)]))
    return "\n\n".join([*parts, ""])


def _table_row(row: Row) -> str:
    outcome = f"**{row.outcome}**" if row.outcome == "failed" else row.outcome
    return f"| {outcome} | {_cell(row.name)} | {_cell(row.detail)} |"


def _cell(words: str) -> str:
    """Escape as HTML entities, which GitHub decodes after it has read the markup."""
    return "".join(f"&#{ord(c)};" if c in MARKUP else c for c in one_line(words))
