"""One opened engine: what every backend gives back, and the checks at its seam that are the same for all.

`run` takes and gives batch-first arrays by name, and the arrays that it gives are the caller's to keep. Inputs are
believed here: `Model` has checked them before.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from deploy_runtime.errors import DeployError
from deploy_runtime.spec import Tensor

Array = np.ndarray[Any, Any]


class NotHereError(DeployError):
    """This machine lacks what the engine needs: nothing is wrong with the bundle."""


class Session(ABC):
    """An engine ready to run. A context manager; `close` gives its memory back and may be called twice."""

    @abstractmethod
    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Run one batch. Raises DeployError where the library fails."""

    def run_into(self, inputs: dict[str, Array], answers: Mapping[str, Array]) -> None:
        """Run one batch and write every output into the array of its name, of the right shape, that is given."""
        for name, array in self.run(inputs).items():
            np.copyto(answers[name], array)

    @abstractmethod
    def close(self) -> None:
        """Give everything back."""

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def check_names(file: Path, found: Iterable[str], wanted: Sequence[Tensor]) -> None:
    """Raise DeployError where the engine's own names are not those of the manifest."""
    names, expected = set(found), {tensor.name for tensor in wanted}
    if names != expected:
        raise DeployError(
            f"{file} has the tensors {', '.join(sorted(names))} instead of {', '.join(sorted(expected))}",
            "The engine does not belong to this manifest: build the bundle again.",
        )


def cannot_open(file: Path, library: str, error: Exception) -> DeployError:
    """Return the error that says why a library did not take a file."""
    return DeployError(
        f"{library} cannot open {file}: {first_line(error)}",
        "Run `python -m deploy_runtime verify` on the bundle; where it is whole, another backend may take it.",
    )


def cannot_run(library: str, error: Exception) -> DeployError:
    """Return the error that says why a library did not finish a run."""
    return DeployError(
        f"{library} failed while running: {first_line(error)}",
        "See whether memory is left and `python -m deploy_runtime verify` passes; another backend may run it.",
    )


def first_line(error: Exception) -> str:
    """Return the first line of what a library says."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
