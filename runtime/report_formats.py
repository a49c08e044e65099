"""Results for people, for programs and for CI: plain text, JSON, JUnit XML.

JUnit has no word for "not run" but `skipped`; a viewer that counts skipped as passed would be wrong, so the suite also
states how many ran.
"""

from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from deploy_runtime.check import Result
from deploy_runtime.data import encode


def text(result: Result) -> str:
    """Return the result as lines that a stranger understands."""
    width = max(len(row.name) for row in result.rows)
    lines = [f"{result.bundle} (manifest sha256 {result.digest[:16] or 'unknown'})"]
    lines += [f"  {row.outcome:8s} {row.name:{width}s}  {row.detail}" for row in result.rows]
    not_run = sum(row.outcome == "not run" for row in result.rows)
    failed = sum(row.outcome == "failed" for row in result.rows)
    verdict = f"FAILED: {failed} of {len(result.rows)}" if failed else "passed"
    return "\n".join([*lines, f"  {verdict}{f', {not_run} not run' if not_run else ''}"])


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
