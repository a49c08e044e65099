"""A user's labelled samples: a CSV beside a folder, one line a file.

For exclusive classes the columns are `file` and `label`: the class's number from 0, or its name where `--labels` also
names the classes; a network that answers several times a sample (once a frame) has as many, parted by blanks. For
labels decided each by itself the columns are `file` and one a label, in the network's order, with 0 or 1.
The trap: names of files are patients' names. They are said in an error about that very file and kept nowhere.
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from deploy_compile import tables
from deploy_compile.samples import Sample, of_file
from deploy_recipes.recipe import Recipe
from deploy_runtime.errors import DeployError, UsageError
from deploy_runtime.spec import Classes, MultiLabel

FILE, LABEL = "file", "label"
YES_NO = {"0": 0, "1": 1}


@dataclass(frozen=True)
class Labelled:
    """One file and its truth: the class of each answer, or 0 or 1 for each label."""

    file: Path
    truth: tuple[int, ...]


def read(folder: Path, table: Path, recipe: Recipe) -> list[Labelled]:
    """Read the CSV `table` and find its files in `folder`. Raises DeployError where they do not fit each other."""
    if not isinstance(recipe.task, (Classes, MultiLabel)):
        raise UsageError(f"{recipe.name} decides nothing that labels could judge", "Leave --evaluate out.")
    columns, lines = tables.read(table, f"the labels in {table}")
    names = _columns(columns, recipe, table)
    if not lines:
        raise DeployError(f"{table} has no line below its header", "Write one line a sample.")
    found = [_line(place, line, folder, names, recipe) for place, line in enumerate(lines, start=2)]
    if len({one.file for one in found}) < len(found):
        raise DeployError(f"{table} names a file twice", "Write one line a file.")
    return found


def samples(labelled: Sequence[Labelled], recipe: Recipe) -> Iterator[Sample]:
    """Yield one sample a file, in order, decoded when it is asked for. Raises DeployError for one that cannot be."""
    for one in labelled:
        found = list(islice(of_file(one.file, recipe, 1), 2))
        if len(found) != 1:
            raise DeployError(
                f"{one.file} holds several samples", "Save one sample a file, so that each has its label."
            )
        yield found[0]


def _columns(columns: Sequence[str], recipe: Recipe, table: Path) -> tuple[str, ...]:
    """Return the columns that hold the truth."""
    if isinstance(recipe.task, Classes):
        if not {FILE, LABEL} <= set(columns):
            raise DeployError(
                f"{table} has the columns {', '.join(columns) or 'none'}", f"Head it with {FILE},{LABEL}."
            )
        return (LABEL,)
    rest = tuple(name for name in columns if name != FILE)
    count = recipe.task.count if isinstance(recipe.task, MultiLabel) else 0
    if FILE not in columns or len(rest) != count:
        raise DeployError(
            f"{table} has {len(rest)} columns beside {FILE}, and {recipe.name} has {count} labels",
            f"Head it with {FILE} and one column a label, in the network's order.",
        )
    if recipe.labels and rest != recipe.labels:
        shown = ",".join(recipe.labels[:4])
        raise DeployError(
            f"the columns of {table} are not the labels of {recipe.name} in their order",
            f"Head it with {FILE},{shown}{',…' if len(recipe.labels) > 4 else ''}.",
        )
    return rest


def _line(place: int, line: dict[str, str | None], folder: Path, names: Sequence[str], recipe: Recipe) -> Labelled:
    told = line.get(FILE) or ""
    path = tables.inside(folder, told)
    if path is None:
        raise DeployError(
            f"line {place} of the labels names {told or 'no file'}, which is not in {folder}",
            f"Write paths relative to {folder}.",
        )
    if isinstance(recipe.task, Classes):
        return Labelled(path, tuple(_class(place, word, recipe) for word in _words(line.get(LABEL), recipe)))
    cells = [(line.get(name) or "").strip() for name in names]
    if wrong := [cell for cell in cells if cell not in YES_NO]:
        raise DeployError(f"line {place} of the labels has {wrong[0]!r} for a label", "Write 0 or 1.")
    return Labelled(path, tuple(YES_NO[cell] for cell in cells))


def _words(cell: str | None, recipe: Recipe) -> list[str]:
    """Return the labels of one cell: the whole of it where that is a class, since names may hold blanks."""
    text = (cell or "").strip()
    return [text] if text in recipe.labels or not text else text.split()


def _class(place: int, word: str, recipe: Recipe) -> int:
    assert isinstance(recipe.task, Classes)
    if word in recipe.labels:
        return recipe.labels.index(word)
    if word.isdecimal() and int(word) < recipe.task.count:
        return int(word)
    close = difflib.get_close_matches(word, recipe.labels, 1)
    if close:
        fix = f"Did you mean {close[0]}?"
    elif recipe.labels:
        fix = f"The classes are {', '.join(recipe.labels[:6])}{', …' if len(recipe.labels) > 6 else ''}."
    else:
        fix = (
            f"Write a class's number from 0 to {recipe.task.count - 1}, or name the classes with --labels FILE.txt too."
        )
    raise DeployError(f"line {place} of the labels says {word!r}, which is no class of {recipe.name}", fix)


def truth(labelled: Sequence[Labelled]) -> np.ndarray:
    """Return the labels as [samples, answers or labels]. Raises DeployError where samples have unlike many."""
    counts = {len(one.truth) for one in labelled}
    if len(counts) != 1:
        raise DeployError(
            f"the labels have {min(counts)} to {max(counts)} words a line", "Give every sample as many as answers."
        )
    return np.array([one.truth for one in labelled], np.int64)
