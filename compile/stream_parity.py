"""Parity over time: an engine stepped frame by frame through a long film, beside PyTorch carrying its own state.

Three things that a clip cannot show: whether the error grows with the state that is handed on, whether chunks of other
lengths give the same answers, and whether a state that is not the initial one is taken up right. The film is the
held-out clips one after the other. Two traps. Later clips may be harder than the first ones, so the end of the film is
also shown to a stream that begins there. And: a state of zeros hides an exchanged or forgotten state tensor, so the
first clip is also begun from the state in which the film ended, PyTorch's, no two tensors of which are equal. (A state
of random numbers is none that a network gets into: a GRU's stays below one, and INT8 looked worse there than it is.)
"""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from deploy_compile import trend
from deploy_compile.macs import affordable
from deploy_compile.reference import forward
from deploy_compile.results import Built, Graph, Loaded, Samples, Streamed, StreamParity
from deploy_compile.sample_files import load, read, save
from deploy_compile.worker import Crashed, call
from deploy_recipes.recipe import Recipe
from deploy_runtime import backends
from deploy_runtime.drift import StreamDrift, Verdict
from deploy_runtime.errors import DeployError
from deploy_runtime.measure import decibel, decided
from deploy_runtime.phases import compare
from deploy_runtime.session import Session
from deploy_runtime.spec import Batch, Classes, Limit, State, Tensor
from deploy_runtime.stream import initial

CLIPS, LEAST_CLIPS = 8, 2  # of the held-out ones, as many as FILM_MACS allow
FILM_MACS = 6e11  # of one way through the film
CHUNK = 7  # frames; neither one nor a divisor of most clips
PART = 4  # the first and the last such part of the film are compared
RUN_S = 1800.0
# Frame by frame, by CHUNK, clip by clip; one clip from another state and from the initial one; the last clips alone.
WALKS = ("single", "chunks", "clips", "resumed", "begun", "afresh")
FAITHFUL_DB = 60.0  # what no limit in dB is stated for has to reach: a thousandth
TWICE_DB = 6.0206  # twice the error

Array = np.ndarray
Arrays = dict[str, Array]
Step = Callable[[Arrays], Arrays]


def stream_reference(
    out: Path, loaded: Loaded, recipe: Recipe, fp32: Graph, samples: Samples, threads: int
) -> Streamed:
    """Run PyTorch through the film clip by clip, the state carried on, and from its end on once more. A stage."""
    import torch

    from deploy_compile.load import module

    torch.set_num_threads(threads)
    net = module(loaded)
    clips = list(islice(read(samples.held_out), affordable(fp32.path, FILM_MACS, LEAST_CLIPS, CLIPS)))

    step = partial(forward, net, recipe)
    film = {
        tensor.name: np.concatenate([clip[tensor.name] for clip in clips], axis=tensor.layout.index("T"))
        for tensor in recipe.data_inputs
    }
    save(out / "film.npz", film)
    answers, after = walked(step, film, recipe.inputs, recipe.outputs, recipe.state, recipe.frames)
    save(out / "answers.npz", answers)
    carried = {**clips[0], **after}
    save(out / "carried.npz", carried)
    save(out / "resumed.npz", step(carried))
    save(out / "begun.npz", step({**carried, **initial(recipe.inputs, recipe.state, 1)}))
    end = _end(film, _times(recipe.inputs, recipe.state), recipe.frames)
    save(out / "afresh.npz", walked(step, end, recipe.inputs, recipe.outputs, recipe.state, recipe.frames)[0])
    names = ("film", "answers", "carried", "resumed", "begun", "afresh")
    return Streamed(*(out / f"{name}.npz" for name in names))


def stream_parity(
    out: Path,  # noqa: ARG001 - a stage writes into it; this one has nothing to write
    built: Built,
    recipe: Recipe,
    streamed: Streamed,
    batch: Batch,
    threads: int,
) -> StreamParity:
    """Step one engine through the film by single frames, by CHUNK and by clips. A crash is its reason. A stage."""
    with tempfile.TemporaryDirectory() as folder:
        engine = (built.file, built.backend, built.precision, built.target, recipe.inputs, recipe.outputs)
        args = (*engine, recipe.state, recipe.frames, batch, threads, streamed.film, streamed.carried, Path(folder))
        try:
            call("deploy_compile.stream_parity:run", *args, timeout_s=RUN_S, threads=threads)
        except Crashed as crash:
            return StreamParity((), "crashed", crash.reason)
        except DeployError as error:
            return StreamParity((), "crashed", error.message)
        found = [load(Path(folder) / f"{name}.npz") for name in WALKS]
    wanted = [load(streamed.answers)] * 3 + [load(path) for path in (streamed.resumed, streamed.begun, streamed.afresh)]
    deciding = decided(wanted[0], recipe.task) if isinstance(recipe.task, Classes) else ()
    return StreamParity(
        tuple(_drift(tensor, recipe, tensor.name in deciding, wanted, found) for tensor in recipe.data_outputs),
        "passed",
        "",
    )


def _drift(
    tensor: Tensor,
    recipe: Recipe,
    decides: bool,
    wanted: Sequence[Arrays],
    found: Sequence[Arrays],
) -> StreamDrift:
    name, framewise = tensor.name, "T" in tensor.layout
    truth, (single, chunks, clips, resumed, begun, afresh) = wanted[0][name], (walk[name] for walk in found)
    again = single[:, : chunks.shape[1]]
    if not framewise:  # an answer a chunk: it is that of its last frame
        size = min(CHUNK, single.shape[1])
        again = single[:, size - 1 :: size]
        single, afresh = (walk[:, recipe.frames - 1 :: recipe.frames] for walk in (single, afresh))
    part = max(1, truth.shape[1] // PART)
    course = tuple(sqnr(truth[:, low:high], single[:, low:high]) for low, high in trend.bounds(truth.shape[1]))
    begins, ends = trend.ends(course) or (math.inf, math.inf)
    return StreamDrift(
        output=name,
        frames=truth.shape[1] * (1 if framewise else recipe.frames),
        sqnr_db=sqnr(truth, single),
        first_db=sqnr(truth[:, :part], single[:, :part]),
        last_db=sqnr(truth[:, -part:], single[:, -part:]),
        chunks_db=min(sqnr(again, chunks), sqnr(single, clips)),
        resumed_db=sqnr(wanted[3][name], resumed),
        begun_db=sqnr(wanted[4][name], begun),
        phases=compare(truth[0].argmax(-1), single[0].argmax(-1)) if decides and framewise else None,
        course_db=course,
        begins_db=begins,
        ends_db=ends,
        afresh_db=sqnr(wanted[5][name][:, -part:], afresh[:, -part:]),
    )


def sqnr(reference: Array, got: Array) -> float:
    """Return 10·log10(Σreference² / Σerror²) in dB: infinite where equal, minus infinite where one is not finite."""
    error = float(np.square(got - reference, dtype=np.float64).sum())
    return decibel(float(np.square(reference, dtype=np.float64).sum()), error) if math.isfinite(error) else -math.inf


def verdicts(drifts: Sequence[StreamDrift], limit: Limit) -> tuple[Verdict, ...]:
    """Judge: all of the film, its end beside its beginning, the trend, other chunks, another state; in dB.

    The end may be twice as far off as the beginning, or as a stream that begins there, as an amplitude, by its last
    quarter and by the trend; what is closer than FAITHFUL_DB is not judged. A clip from another state may be twice as
    far off as the same clip from the initial one, where that is less than the limit asks: one clip alone may be harder
    than all of the film.
    """
    found = []
    for drift in drifts:
        least = limit.of(drift.output).sqnr_db or FAITHFUL_DB
        harder = min(FAITHFUL_DB, drift.afresh_db - TWICE_DB)
        rows = (
            ("stream_sqnr_db", drift.sqnr_db, least),
            ("stream_end_db", drift.last_db, min(drift.first_db - TWICE_DB, harder)),
            ("stream_trend_db", drift.ends_db, min(drift.begins_db - TWICE_DB, harder)),
            ("stream_chunks_db", drift.chunks_db, least),
            ("stream_resumed_db", drift.resumed_db, min(least, drift.begun_db - TWICE_DB)),
        )
        found += [Verdict(drift.output, metric, value, bound, value >= bound) for metric, value, bound in rows]
    return tuple(found)


def walked(
    step: Step, film: Arrays, inputs: Sequence[Tensor], outputs: Sequence[Tensor], state: Sequence[State], size: int
) -> tuple[Arrays, Arrays]:
    """Go through a film in chunks of `size` frames, the state carried on; return the outputs, and the state at the end.

    The outputs lie one after the other on axis 1: a frame each, or for an answer a chunk, a chunk each. A rest of the
    film that is shorter than a chunk is left out.
    """
    now = initial(inputs, state, 1)
    axes = _times(inputs, state)
    length = _length(film, axes)
    following = {one.output for one in state}
    parts: dict[str, list[Array]] = {tensor.name: [] for tensor in outputs if tensor.name not in following}
    for start in range(0, length - size + 1, size):
        chunk = {name: film[name].take(range(start, start + size), axis) for name, axis in axes.items()}
        answers = step({**chunk, **now})
        now = {one.input: answers[one.output] for one in state}
        for tensor in outputs:
            if tensor.name in parts:
                value = answers[tensor.name]
                parts[tensor.name].append(value if "T" in tensor.layout else value[:, None])
    return {name: np.concatenate(found, axis=1) for name, found in parts.items()}, now


def _end(film: Arrays, axes: Mapping[str, int], frames: int) -> Arrays:
    """Return the last PART of a film, in whole clips."""
    clips = _length(film, axes) // frames
    last = range((clips - -(-clips // PART)) * frames, clips * frames)
    return {name: film[name].take(last, axis) for name, axis in axes.items()}


def _length(film: Arrays, axes: Mapping[str, int]) -> int:
    return min(int(film[name].shape[axis]) for name, axis in axes.items())


def _times(inputs: Sequence[Tensor], state: Sequence[State]) -> dict[str, int]:
    """Return the time axis of every input that is not state."""
    carried = {one.input for one in state}
    return {tensor.name: tensor.layout.index("T") for tensor in inputs if tensor.name not in carried}


def run(
    file: Path,
    backend: str,
    precision: str,
    target: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    state: Sequence[State],
    frames: int,
    batch: Batch,
    threads: int,
    film: Path,
    carried: Path,
    folder: Path,
) -> None:
    """Run in the worker: write the answers of every walk through the film, and from the carried state."""

    def opened(size: int) -> Session:
        given, made = ([tensor.of_frames(size) for tensor in tensors] for tensors in (inputs, outputs))
        return backends.get(backend).open(file, precision, given, made, batch, threads, None, target)

    def step(session: Session, given: Arrays) -> Arrays:
        repeated = {name: np.repeat(array, batch.least, axis=0) for name, array in given.items()}
        return {name: array[:1] for name, array in session.run(repeated).items()}

    def walk(name: str, session: Session, seen: Arrays, size: int) -> None:
        save(folder / f"{name}.npz", walked(partial(step, session), seen, inputs, outputs, state, size)[0])

    whole, axes = load(film), _times(inputs, state)
    for name, size in zip(WALKS, (1, min(CHUNK, _length(whole, axes)), frames), strict=False):
        with opened(size) as session:
            walk(name, session, whole, size)
            if size == 1:
                walk("afresh", session, _end(whole, axes, frames), size)
            if size == frames:
                clip = load(carried)
                save(folder / "resumed.npz", step(session, clip))
                save(folder / "begun.npz", step(session, {**clip, **initial(inputs, state, 1)}))
