"""A stream: a network fed a chunk of frames at a time, its state kept between.

A chunk of a whole clip from the initial state gives what `Model.run` gives; chunks of any length give the same frame by
frame. A network that reads later frames too answers for a sliding window: its state are the features of the frames
before, so that only new frames go through its backbone, and it is silent until the first window is full. State stays
where the engine runs (see `session.Kept`), on a GPU too. The trap: an answer is the stream's own array, written over
two steps later; `step` hands out copies unless told otherwise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType

import numpy as np

from deploy_runtime import preprocess
from deploy_runtime.errors import DeployError, UsageError
from deploy_runtime.evidence import Manifest
from deploy_runtime.inputs import check_inputs
from deploy_runtime.session import Array, Kept
from deploy_runtime.spec import Batch, State, Tensor

Carry = Callable[[Mapping[str, str], Mapping[str, Array]], Kept]  # which output follows which state; the initial one
Run = Callable[[Kept, Mapping[str, Array], Mapping[str, Array]], None]  # the state, inputs, arrays for the outputs


def initial(inputs: Sequence[Tensor], state: Sequence[State], size: int) -> dict[str, Array]:
    """Return the state before the first frame, by input name, for a batch of `size`; empty where there is none."""
    tensors = {tensor.name: tensor for tensor in inputs}
    return {one.input: np.full(tensors[one.input].at(size), one.initial, tensors[one.input].dtype) for one in state}


def _check_window(found: Manifest, window: int | None, frames: int) -> None:
    if found.window and window is None:
        raise DeployError(
            f"{found.name} reads later frames too, and cannot answer for a frame before they have come",
            f"Slide a window over the frames: model.stream(window={found.window}, hop=1).",
        )
    if window is not None and window != found.window:
        raise UsageError(
            f"a window of {window} frames is asked for, and {found.name} "
            + (f"was compiled for {found.window}" if found.window else "needs none: it looks at no later frame"),
            f"Give window={found.window}, or compile it with --param frames={window}."
            if found.window
            else "Leave it out: model.stream().",
        )
    if found.window and frames > found.window:
        raise UsageError(f"a window of {window} frames is to move by {frames}", f"Give a hop of 1 to {window}.")


def _until_full(seen: Array, state: State) -> int:
    """Return after how many frames more the window of this state, [count, window - 1, width], gives its first answer.

    A frame that never came has the initial value all over.
    """
    came = (seen != state.initial).any(axis=(0, 2))
    return 1 + (int(came.argmax()) if came.any() else len(came))


class Stream:
    """One stream, or several side by side as a batch. A context manager; one thread at a time may step it."""

    def __init__(
        self, found: Manifest, carry: Carry, run: Run, frames: int, count: int | None, window: int | None = None
    ) -> None:
        if not found.state:
            raise DeployError(
                f"{found.name} takes whole clips: no state is carried from one chunk to the next",
                "Give model.run whole windows; a network in one direction without attention over the clip streams.",
            )
        _check_window(found, window, frames)
        size = found.batch.least if count is None else count
        if not found.batch.least <= size <= found.batch.most:
            raise UsageError(
                f"{size} streams are asked for side by side, and the bundle serves {found.batch.least} to "
                f"{found.batch.most}",
                "Begin that many single streams, or compile with --batch MIN:OPT:MAX.",
            )
        if frames < 1:
            raise UsageError(f"a step of {frames} frames is asked for", "Give 1 or more.")
        self.name, self.frames, self.count = found.name, frames, size
        self._run: Run | None = run
        self._found = found
        self._missing = found.window  # frames until an answer
        self._inputs = tuple(tensor.of_frames(frames) for tensor in found.data_inputs)
        self._outputs = tuple(tensor.of_frames(frames) for tensor in found.data_outputs)
        self._into, self._other = self._answers(), self._answers()
        self._kept = carry({one.input: one.output for one in found.state}, initial(found.inputs, found.state, size))

    def _answers(self) -> dict[str, Array]:
        return {tensor.name: np.empty(tensor.at(self.count), tensor.dtype) for tensor in self._outputs}

    def step(self, inputs: Mapping[str, Array], copy: bool = True) -> dict[str, Array]:
        """Take the next frames, float32 [count, frames, ...] by input name; return the outputs for them.

        Those of a sliding window are of its last frames, and there are none, an empty dict, until it is full.
        With a step of one frame its axis may be left out: [count, C, H, W]. `copy=False` makes no array: the answers
        are then overwritten at the next step but one. Raises DeployError for a frame of another size, dtype or
        content, and after `close`; the state is then as it was before.
        """
        if self._run is None:
            raise DeployError(f"this stream of {self.name} is closed", "Begin another one: model.stream().")
        given = {name: self._with_time(name, array) for name, array in inputs.items()}
        check_inputs(given, self._inputs, Batch(self.count, self.count, self.count))
        answers = self._into
        self._run(self._kept, given, answers)
        self._into, self._other = self._other, self._into
        self._missing = max(self._missing - self.frames, 0)
        if self._missing:
            return {}
        return {t.name: answers[t.name].copy() if copy else answers[t.name] for t in self._outputs}

    def _with_time(self, name: str, array: Array) -> Array:
        tensor = next((one for one in self._inputs if one.name == name), None)
        if tensor is None or "T" not in tensor.layout or self.frames > 1 or not isinstance(array, np.ndarray):
            return array
        return array if array.ndim == len(tensor.shape) else np.expand_dims(array, tensor.layout.index("T"))

    def prepare(self, frames: Array) -> dict[str, Array]:
        """Turn 8-bit frames of one step, [H, W, 3] or [frames, H, W, 3], into what `step` takes for a single stream."""
        how = self._found.preprocess
        if how is None:
            raise DeployError(
                f"{self.name} ships no preprocessing",
                "Prepare its inputs as in training: " + ", ".join(f"{t.name} {list(t.shape)}" for t in self._inputs),
            )
        clip = frames[None] if isinstance(frames, np.ndarray) and frames.ndim == 3 else frames
        if len(clip) != self.frames:
            raise DeployError(
                f"{len(clip)} frames are given and a step takes {self.frames}",
                "Give exactly so many, or begin the stream with another number: model.stream(frames=...).",
            )
        made = preprocess.prepare_inputs(clip, replace(how, frames=self.frames), self._inputs)
        return {name: array[None] for name, array in made.items()}

    def reset(self) -> None:
        """Go back to before the first frame."""
        self._kept.write(initial(self._found.inputs, self._found.state, self.count))
        self._missing = self._found.window

    @property
    def state(self) -> dict[str, Array]:
        """The state by input name, copied. May be set: to another stream's of the same bundle, to go on from there."""
        return self._kept.read()

    @state.setter
    def state(self, given: Mapping[str, Array]) -> None:
        carried = {one.input for one in self._found.state}
        wanted: tuple[Tensor, ...] = tuple(t for t in self._found.inputs if t.name in carried)
        try:
            check_inputs(given, wanted, Batch(self.count, self.count, self.count))
        except DeployError as error:
            raise DeployError(
                f"this is no state of {self.name} for {self.count} stream{'s' if self.count > 1 else ''}: "
                f"{error.message}",
                "Set what `state` of a stream of this bundle with the same count gave.",
            ) from error
        self._kept.write(given)
        self._missing = max((_until_full(given[one.input], one) for one in self._found.state if one.window), default=0)

    def close(self) -> None:
        """End the stream. The model stays open. May be called twice."""
        if self._run is not None:
            self._run = None
            self._kept.close()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
