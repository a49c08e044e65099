"""What looking at a bundle gives: a row for each thing looked at. Frozen, plain, JSON-able."""

from dataclasses import dataclass
from typing import Literal

from deploy_runtime.drift import Drift, Verdict

Outcome = Literal["passed", "failed", "not run"]


@dataclass(frozen=True)
class Row:
    """One thing that was looked at. `detail` says what was found, with its numbers.

    `candidate` names the one that it is about, empty for the whole bundle. `drift` is what was measured here and now.
    `notice`: it passed, and whoever reads only what stands out should see it all the same.
    """

    name: str
    outcome: Outcome
    detail: str
    verdicts: tuple[Verdict, ...] = ()
    seconds: float = 0.0
    candidate: str = ""
    drift: tuple[Drift, ...] = ()
    notice: bool = False


@dataclass(frozen=True)
class Result:
    """All that was looked at in one bundle; `digest` is the sha256 of its manifest."""

    bundle: str
    digest: str
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(row.outcome != "failed" for row in self.rows)
