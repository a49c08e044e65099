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

from deploy_runtime.dlpack import DeviceArray
from deploy_runtime.errors import DeployError, UsageError
from deploy_runtime.spec import Tensor

Array = np.ndarray[Any, Any]


class NotHereError(DeployError):
    """This machine lacks what the engine needs: nothing is wrong with the bundle."""


class Kept(ABC):
    """The state of one stream between its steps, where the engine keeps it."""

    @abstractmethod
    def run_into(self, inputs: Mapping[str, Array], answers: Mapping[str, Array]) -> None:
        """Run one chunk from this state into the arrays given, and keep what follows. A failed run changes nothing."""

    @abstractmethod
    def read(self) -> dict[str, Array]:
        """Return the state by input name, copied."""

    @abstractmethod
    def write(self, state: Mapping[str, Array]) -> None:
        """Go on from another state; names and shapes are believed."""

    @abstractmethod
    def close(self) -> None:
        """Give its memory back. May be called twice."""


class Session(ABC):
    """An engine ready to run. A context manager; `close` gives its memory back and may be called twice."""

    @abstractmethod
    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Run one batch. Raises DeployError where the library fails."""

    def run_into(self, inputs: dict[str, Array], answers: Mapping[str, Array]) -> None:
        """Run one batch and write every output into the array of its name, of the right shape, that is given."""
        for name, array in self.run(inputs).items():
            np.copyto(answers[name], array)

    def view(self, array: Any, name: str) -> DeviceArray:
        """Return where an input lies that lives on a GPU. Raises DeployError: this engine does not run there."""
        raise DeployError(
            f"input {name}, a {type(array).__name__}, lives on a GPU, and this engine runs on the CPU",
            f"Give a numpy array: {name}.cpu().numpy().",
        )

    def run_there(self, inputs: Mapping[str, Array | DeviceArray]) -> dict[str, DeviceArray]:
        """Run one batch and leave the outputs on the GPU. Raises UsageError: this engine does not run there."""
        raise UsageError(
            f"what comes of {', '.join(inputs)} is to stay on a GPU, and this engine runs on the CPU",
            "Call run, or load the bundle on a machine whose GPU it serves.",
        )

    def carry(self, following: Mapping[str, str], before: Mapping[str, Array]) -> Kept:
        """Return the state of a new stream. `following` names the output that follows each state input.

        In arrays of the host here; an engine on a GPU keeps it there.
        """
        return HostKept(self, following, before)

    @abstractmethod
    def close(self) -> None:
        """Give everything back."""

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class HostKept(Kept):
    """State in arrays that are made once: a run reads one set, writes the other, and they change places."""

    def __init__(self, session: Session, following: Mapping[str, str], before: Mapping[str, Array]) -> None:
        self._session, self._following = session, following
        self._before = {name: array.copy() for name, array in before.items()}
        self._after = {name: np.empty_like(array) for name, array in before.items()}

    def run_into(self, inputs: Mapping[str, Array], answers: Mapping[str, Array]) -> None:
        """Run one chunk and take turns."""
        after = {output: self._after[name] for name, output in self._following.items()}
        self._session.run_into({**inputs, **self._before}, {**answers, **after})
        self._before, self._after = self._after, self._before

    def read(self) -> dict[str, Array]:
        """Return a copy."""
        return {name: array.copy() for name, array in self._before.items()}

    def write(self, state: Mapping[str, Array]) -> None:
        """Copy it in."""
        for name, array in state.items():
            np.copyto(self._before[name], array)

    def close(self) -> None:
        """Do nothing: the arrays go with their last reader."""


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
