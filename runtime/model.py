"""A bundle, opened: the best engine that this machine may run, behind checks that keep bad input out of native code.

`why` says in plain words what was passed over. The trap: loading verifies the digest of every file, some tenths of a
second for large ones; `verify=False` leaves that to whoever verified before.
"""

import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from deploy_runtime import backends, device_cache, dlpack, manifest, preprocess, selection
from deploy_runtime.dlpack import DeviceArray
from deploy_runtime.errors import DeployError, UsageError
from deploy_runtime.evidence import Candidate, Manifest
from deploy_runtime.inputs import check_inputs
from deploy_runtime.machine import physical_cores
from deploy_runtime.session import Array, Kept, Session
from deploy_runtime.spec import Tensor
from deploy_runtime.stream import Stream, initial

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
        why = "; ".join(skipped) or "it is the engine that the bundle chose"
        return Model(
            found, row, session, why, partial(open_session, folder, found, row, threads or usual_threads(found))
        )
    raise AssertionError("selection.order gives at least one candidate")


def usual_threads(found: Manifest) -> int:
    """Return how many threads an engine of a bundle gets where nobody says."""
    return 1 if found.objective == "throughput" else physical_cores()


def open_session(bundle: Path, found: Manifest, row: Candidate, threads: int, frames: int | None = None) -> Session:
    """Open one shipped candidate through its backend, compiled into this machine's cache where that can be written.

    With `frames`, for chunks of so many frames of a stream; else for whole clips.
    """
    if row.file is None:
        raise DeployError(f"{row.name} is not in the bundle", "Take a candidate that it ships.")
    cache = device_cache.writable("compiled", row.backend)
    inputs, outputs = found.inputs, found.outputs
    if frames is not None:
        inputs, outputs = (tuple(tensor.of_frames(frames) for tensor in tensors) for tensors in (inputs, outputs))
    return backends.get(row.backend).open(
        bundle / row.file, row.precision, inputs, outputs, found.batch, threads, cache, row.target
    )


class Model:
    """An opened bundle. A context manager; safe to call from several threads, one run at a time."""

    def __init__(
        self, found: Manifest, row: Candidate, session: Session, why: str, reopen: Callable[[int], Session]
    ) -> None:
        self.manifest = found
        self.backend: str = row.backend
        self.precision: str = row.precision
        self.why = why
        self._session: Session | None = session
        self._lock = threading.Lock()
        self._reopen = reopen  # for chunks of so many frames
        self._chunks: dict[int, Session] = {}

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The inputs: names, shapes with the batch axis, dtypes, layouts. The state of a stream is none of them."""
        return self.manifest.data_inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """The outputs. The state of a stream is none of them."""
        return self.manifest.data_outputs

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the last axis; empty where the bundle has none."""
        return self.manifest.labels

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one batch: float32 arrays by input name, batch first; new arrays by output name.

        Raises DeployError for a wrong name, rank, size or dtype, for NaN or Inf, and after `close`. Arrays that live on
        the GPU where the engine runs (DLPack: PyTorch, CuPy) are read there, and what they hold is not looked at.
        """
        given = self._checked(inputs)
        with self._lock:
            answers = self._open().run(given)
        return {tensor.name: answers[tensor.name] for tensor in self.outputs}

    def run_on_device(self, inputs: Mapping[str, Array]) -> dict[str, DeviceArray]:
        """Run one batch and leave the outputs on the GPU, by DLPack: `torch.from_dlpack(outputs["logits"])`.

        They are written over at the next run. Raises what `run` raises, and UsageError for an engine on the CPU.
        """
        given = self._checked(inputs)
        with self._lock:
            answers = self._open().run_there(given)
        return {tensor.name: answers[tensor.name] for tensor in self.outputs}

    def _open(self) -> Session:
        if self._session is None:
            raise self._closed()
        return self._session

    def _checked(self, inputs: Mapping[str, Array]) -> dict[str, Any]:
        """Return the inputs with the initial state, those on a GPU as where they lie."""
        there: dict[str, DeviceArray] = {}
        if isinstance(inputs, Mapping):
            there = {name: self._open().view(a, name) for name, a in inputs.items() if dlpack.on_gpu(a)}
        seen = {name: np.broadcast_to(np.zeros((), a.dtype), a.shape) for name, a in there.items()}
        check_inputs({**inputs, **seen} if there else inputs, self.inputs, self.manifest.batch)
        size = len(next(iter({**inputs, **seen}.values())))
        return {**inputs, **there, **initial(self.manifest.inputs, self.manifest.state, size)}

    def stream(
        self, frames: int = 1, count: int | None = None, *, window: int | None = None, hop: int | None = None
    ) -> Stream:
        """Begin a stream that takes `frames` frames a step, or `count` of them side by side as one batch.

        Any number of streams may run on one model; each keeps its own state. `count` defaults to the least batch that
        the bundle serves. A network that reads later frames too answers for the last `window` frames every `hop`
        frames; `hop` is another word for `frames`. Raises DeployError where it takes whole clips only.
        """
        frames = frames if hop is None else hop
        return Stream(self.manifest, partial(self._carry, frames), self._step, frames, count, window)

    def _carry(self, frames: int, following: Mapping[str, str], before: Mapping[str, Array]) -> Kept:
        """Return the state of a new stream of chunks of so many frames."""
        with self._lock:
            if self._session is None:
                raise self._closed()
            if frames not in self._chunks:
                self._chunks[frames] = self._reopen(frames)
            return self._chunks[frames].carry(following, before)

    def _step(self, kept: Kept, inputs: Mapping[str, Array], answers: Mapping[str, Array]) -> None:
        """Run a chunk from a state: checked inputs to all outputs but the state."""
        with self._lock:
            if self._session is None:
                raise self._closed()
            kept.run_into(inputs, answers)

    def _closed(self) -> DeployError:
        return DeployError(f"{self.manifest.name} is closed", "Load the bundle again, or run inside `with load(...)`.")

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
            for session in (self._session, *self._chunks.values()):
                if session is not None:
                    session.close()
            self._session, self._chunks = None, {}

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
