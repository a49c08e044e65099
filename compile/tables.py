"""CSV tables of a user's, whose lines name files in a folder beside them."""

import csv
from pathlib import Path

from deploy_runtime.errors import DeployError


def read(table: Path, what: str) -> tuple[list[str], list[dict[str, str | None]]]:
    """Return the columns, and the lines by column. Raises DeployError where it cannot be read; `what` names it."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            return list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DeployError(f"{what} cannot be read: {error}", "Give a CSV in UTF-8.") from error


def inside(folder: Path, told: str) -> Path | None:
    """Return the file that a line names, relative to a folder; None where there is none inside of it."""
    path = (folder / told).resolve()
    return path if told and path.is_relative_to(folder.resolve()) and path.is_file() else None
