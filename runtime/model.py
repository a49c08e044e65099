"""A bundle, opened: the best engine that this machine may run, behind checks that keep bad input out of native code.

`why` says in plain words what was passed over. The trap: loading verifies the digest of every file, some tenths of a
second for large ones; `verify=False` leaves that to whoever verified before.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from deploy_runtime import backends, device_cache, manifest, preprocess, selection
from deploy_runtime.errors import DeployError, UsageError
from deploy_runtime.evidence import Candidate, Manifest
from deploy_runtime.machine import physical_cores
from deploy_runtime.session import Array, Session
from deploy_runtime.spec import Batch, Tensor

__all__ = ["Model", "load", "physical_cores"]


def load(bundle: str | Path, backend: str | None = None, threads: int | None = None, verify: bool = True) -> "Model":
    """Open a bundle with the best engine for this machine, or that of the backend asked for.

    `threads` defaults to the physical cores that this process may use, and to one for a bundle made for throughput,
    of which as many are to be loaded as there are cores. Raises DeployError where the bundle is damaged
    or nothing in it can run here, naming each reason.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}", "Give 1 or more, or leave it out for all physical cores.")
    folder = Path(bundle)
    found = manifest.read(folder)
    if verify:
        manifest.verify_files(folder, found)
    order = selection.order(found, manifest.digest(folder), backend)
    skipped = list(order.skipped)
    for i, row in enumerate(order.usable):
        try:
            session = open_session(folder, found, row, threads or usual_threads(found))
        except DeployError as error:
            if i == len(order.usable) - 1:
                raise
            skipped.append(f"{error.message}: {row.name} skipped")
            continue
        return Model(found, row, session, "; ".join(skipped) or "it is the engine that the bundle chose")
    raise AssertionError("selection.order gives at least one candidate")


def usual_threads(found: Manifest) -> int:
    """Return how many threads an engine of a bundle gets where nobody says."""
    return 1 if found.objective == "throughput" else physical_cores()


def open_session(bundle: Path, found: Manifest, row: Candidate, threads: int) -> Session:
    """Open one shipped candidate through its backend, compiled into this machine's cache where that can be written."""
    if row.file is None:
        raise DeployError(f"{row.name} is not in the bundle", "Take a candidate that it ships.")
    cache = device_cache.writable("compiled", row.backend)
    return backends.get(row.backend).open(
        bundle / row.file, row.precision, found.inputs, found.outputs, found.batch, threads, cache, row.target
    )


class Model:
    """An opened bundle. A context manager; safe to call from several threads, one run at a time."""

    def __init__(self, found: Manifest, row: Candidate, session: Session, why: str) -> None:
        self.manifest = found
        self.backend: str = row.backend
        self.precision: str = row.precision
        self.why = why
        self._session: Session | None = session
        self._lock = threading.Lock()

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The inputs: names, shapes with the batch axis, dtypes, layouts."""
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """The outputs."""
        return self.manifest.outputs

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the last axis; empty where the bundle has none."""
        return self.manifest.labels

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one batch: float32 arrays by input name, batch first; new arrays by output name.

        Raises DeployError for a wrong name, rank, size or dtype, for NaN or Inf, and after `close`.
        """
        check_inputs(inputs, self.inputs, self.manifest.batch)
        with self._lock:
            if self._session is None:
                raise DeployError(
                    f"{self.manifest.name} is closed", "Load the bundle again, or run inside `with load(...)`."
                )
            return self._session.run(dict(inputs))

    def preprocess(self, frames: Array) -> Array:
        """Turn 8-bit frames, [H, W, 3] or [T, H, W, 3], into the array that the network was trained on (batch 1).

        For a network of one input; `prepare` serves those of several.
        """
        if len(self.inputs) > 1:
            raise UsageError(
                f"{self.manifest.name} has {len(self.inputs)} inputs and no single array for them",
                "Call prepare, which gives them by name: model.run(model.prepare(frames)).",
            )
        return next(iter(self.prepare(frames).values()))

    def prepare(self, frames: Array | Mapping[str, Array]) -> dict[str, Array]:
        """Turn 8-bit frames into what `run` takes: every input by name, batch 1.

        `frames` is an image [H, W, 3] or clip [T, H, W, 3]; for a network that compares images, a mapping of them by
        input name: `model.prepare({"baseline": before, "followup": after})`.
        """
        if self.manifest.preprocess is None:
            raise DeployError(
                f"{self.manifest.name} ships no preprocessing",
                "Prepare its inputs as in training: " + ", ".join(f"{t.name} {list(t.shape)}" for t in self.inputs),
            )
        made = preprocess.prepare_inputs(frames, self.manifest.preprocess, self.inputs)
        return {name: array[None] for name, array in made.items()}

    def close(self) -> None:
        """Give the engine's memory back. May be called twice."""
        with self._lock:
            if self._session is not None:
                self._session.close()
            self._session = None

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def check_inputs(inputs: Mapping[str, Array], wanted: tuple[Tensor, ...], batch: Batch) -> None:
    """Raise DeployError, with the actual and the wanted, for whatever an engine should never see."""
    names = ", ".join(tensor.name for tensor in wanted)
    if not isinstance(inputs, Mapping) or set(inputs) != {tensor.name for tensor in wanted}:
        given = (
            ", ".join(map(str, inputs)) or "nothing" if isinstance(inputs, Mapping) else f"a {type(inputs).__name__}"
        )
        raise DeployError(f"the inputs are {given} instead of {names}", f"Give a dictionary with exactly {names}.")
    _check_order(inputs, wanted, batch)
    for tensor in wanted:
        _check_input(inputs[tensor.name], tensor, batch)
    sizes = {tensor.name: len(inputs[tensor.name]) for tensor in wanted}
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise DeployError(f"the inputs have different batches: {said}", "Give every input the same number of samples.")


def _check_order(inputs: Mapping[str, Array], wanted: tuple[Tensor, ...], batch: Batch) -> None:
    """Raise DeployError where two inputs do not fit as they are named and would, exchanged."""
    wrong = [tensor for tensor in wanted if not _fits(inputs[tensor.name], tensor, batch)]
    if len(wrong) != 2:
        return
    one, other = wrong
    if _fits(inputs[one.name], other, batch) and _fits(inputs[other.name], one, batch):
        raise DeployError(
            f"inputs {one.name} and {other.name} look exchanged: {one.name} is {list(inputs[one.name].shape)} and "
            f"{other.name} is {list(inputs[other.name].shape)}",
            f"Give the first as {other.name} and the second as {one.name}.",
        )


def _fits(array: object, tensor: Tensor, batch: Batch) -> bool:
    return (
        isinstance(array, np.ndarray)
        and array.ndim == len(tensor.shape)
        and all(
            batch.least <= size <= batch.most if isinstance(dim, str) else size == dim
            for size, dim in zip(array.shape, tensor.shape, strict=True)
        )
    )


def _check_input(array: Array, tensor: Tensor, batch: Batch) -> None:
    served = f"{batch.least}" if batch.fixed else f"{batch.least} to {batch.most}"
    shape = f"[{', '.join(f'{served} (batch)' if isinstance(dim, str) else str(dim) for dim in tensor.shape)}]"
    if not isinstance(array, np.ndarray):
        raise DeployError(
            f"input {tensor.name} is a {type(array).__name__} instead of a numpy array",
            f"Convert it: np.asarray(value, np.{tensor.dtype}) of shape {shape}.",
        )
    if array.dtype != np.dtype(tensor.dtype):
        hint = "; 8-bit frames go through model.preprocess(frames)" if array.dtype == np.uint8 else ""
        raise DeployError(
            f"input {tensor.name} is {array.dtype} instead of {tensor.dtype}",
            f"Convert it: {tensor.name}.astype(np.{tensor.dtype}){hint}.",
        )
    if array.ndim != len(tensor.shape):
        hint = (
            f"; a single sample needs its batch axis: {tensor.name}[None]"
            if array.ndim == len(tensor.shape) - 1
            else ""
        )
        raise DeployError(
            f"input {tensor.name} has {array.ndim} axes, {list(array.shape)}, instead of {len(tensor.shape)}",
            f"Give {shape}{hint}.",
        )
    if not _fits(array, tensor, batch):
        raise DeployError(f"input {tensor.name} has the shape {list(array.shape)}", f"Give {shape}.")
    if not np.all(np.isfinite(array)):
        raise DeployError(
            f"input {tensor.name} has NaN or Inf", "Look at where it comes from: no answer to it would mean anything."
        )
