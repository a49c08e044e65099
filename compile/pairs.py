"""Pairs of studies in a folder: which files belong together, and whose they are.

Two layouts. `pairs.csv`, headed with the network's inputs (`baseline,followup`) and, where one likes, `patient`: a line
a pair, paths relative to the folder. Or a folder a pair, with one file called after each input: `p17/baseline.png` and
`p17/followup.png`, or `p17/2021/baseline.dcm`. All pairs of a patient (the column, else the first folder), and all that
share a file, go to calibration or to the held-out set together.
The trap: the name of a file may be a patient's. It is said only in an error about that very file.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy_compile import tables
from deploy_runtime.errors import DeployError

TABLE = "pairs.csv"
PATIENT = "patient"


@dataclass(frozen=True)
class Pair:
    """The files of one sample, by the input that each is for."""

    files: Mapping[str, Path]

    def __str__(self) -> str:
        return " and ".join(str(path) for path in self.files.values())


def find(folder: Path, names: Sequence[str], files: Iterable[Path]) -> list[tuple[Pair, ...]] | None:
    """Return the pairs of a folder, those of one patient together in sorted order; None where it is laid out otherwise.

    `files` are all that can be read in it. Raises DeployError where a pair is not whole.
    """
    if (folder / TABLE).is_file():
        return _grouped(_listed(folder, names), names)
    places: dict[Path, dict[str, Path]] = defaultdict(dict)
    for path in files:
        if path.stem in names and path.parent != folder:
            _put(places[path.parent], path)
    if not places:
        return None
    for place, found in places.items():
        if missing := [name for name in names if name not in found]:
            raise DeployError(
                f"{place} holds {', '.join(sorted(found))} and no {missing[0]}",
                f"Put a file called {missing[0]} beside it, or take the folder out: the network compares both.",
            )
    told = [(place.relative_to(folder).parts[0], Pair({name: found[name] for name in names})) for place, found in
            sorted(places.items())]  # fmt: skip
    return _grouped(told, names)


def _put(found: dict[str, Path], path: Path) -> None:
    if path.stem in found:
        raise DeployError(
            f"{found[path.stem]} and {path} are both called {path.stem}", "Leave one of them: a pair has one of each."
        )
    found[path.stem] = path


def _listed(folder: Path, names: Sequence[str]) -> list[tuple[str, Pair]]:
    """Read the table: whose each pair is, and the pair."""
    table = folder / TABLE
    columns, lines = tables.read(table, str(table))
    if not set(names) <= set(columns) or not set(columns) <= {*names, PATIENT}:
        raise DeployError(
            f"{table} has the columns {', '.join(sorted(columns)) or 'none'}",
            f"Head it with {','.join(names)}, and {PATIENT} where a patient has several pairs.",
        )
    if not lines:
        raise DeployError(f"{table} has no line below its header", "Write one line a pair.")
    return [_line(place, line, folder, names) for place, line in enumerate(lines, start=2)]


def _line(place: int, line: Mapping[str, str | None], folder: Path, names: Sequence[str]) -> tuple[str, Pair]:
    files = {}
    for name in names:
        told = (line.get(name) or "").strip()
        path = tables.inside(folder, told)
        if path is None:
            raise DeployError(
                f"line {place} of {TABLE} names {told or 'nothing'} for {name}, which is not in {folder}",
                f"Write paths relative to {folder}; a study without the other is no pair.",
            )
        files[name] = path
    parts = Path(line[names[0]] or "").parts
    owner = (line.get(PATIENT) or "").strip() or (parts[0] if len(parts) > 1 else f"line {place}")
    return owner, Pair(files)


def _grouped(told: Sequence[tuple[str, Pair]], names: Sequence[str]) -> list[tuple[Pair, ...]]:
    """Put together what is one patient's or shares a file."""
    owner_of: dict[Path, str] = {}
    same: dict[str, str] = {}

    def root(owner: str) -> str:
        while same.get(owner, owner) != owner:
            owner = same[owner]
        return owner

    for owner, pair in told:
        for name in names:
            first = owner_of.setdefault(pair.files[name], owner)
            same[root(owner)] = root(first)
    groups: dict[str, list[Pair]] = defaultdict(list)
    for owner, pair in told:
        groups[root(owner)].append(pair)
    return [tuple(groups[owner]) for owner in sorted(groups)]
