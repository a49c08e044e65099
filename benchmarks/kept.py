"""Results that take long to measure: one JSON file each, kept until asked for again.

A run that was cut short goes on where it was, and each result says when, where and at which commit it was measured.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from provenance import commit

from deploy_compile.machine import facts


def parser(doc: str | None, what: str) -> argparse.ArgumentParser:
    """Return the options that every script of results has: names (`what` they are), --again, --page."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("names", nargs="*", metavar=what, help="names (default: all)")
    made.add_argument("--again", action="store_true", help="measure even where a result stands")
    made.add_argument("--page", action="store_true", help="only write the page")
    return made


def run(
    doc: str | None, what: str, folder: Path, names: Iterable[str], measure: Callable[[str], dict[str, Any]]
) -> None:
    """Do what the command line asks of a script that has no options of its own; `names` are all there are."""
    given = parser(doc, what).parse_args()
    keep(folder, () if given.page else given.names or names, given.again, measure)


def keep(folder: Path, names: Iterable[str], again: bool, measure: Callable[[str], dict[str, Any]]) -> None:
    """Measure each name that has no result in `folder` yet, or all of them `again`, and write `NAME.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / f"{name}.json"
        if path.exists() and not again:
            continue
        begun, at = time.monotonic(), commit()
        found = measure(name)
        result = {
            **found,
            "date": datetime.now(UTC).date().isoformat(),
            "commit": at,
            "machine": dict(facts()),
            "seconds": round(time.monotonic() - begun, 1),
        }
        partial = path.with_suffix(".tmp")
        partial.write_text(json.dumps(result, indent=1) + "\n")
        partial.replace(path)
        told = found.get("failed") or found.get("verdict") or "measured"
        print(f"{name}: {told} ({result['seconds']:.0f} s)", flush=True)
