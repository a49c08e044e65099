"""Chunks of any length give what the whole clip gives, and every stream keeps its own state."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy_runtime import DeployError, Model, UsageError, load
from deploy_runtime.check import check
from deploy_runtime.spec import Batch
from tests.runtime import tiny_stream

BACKENDS = ("openvino", "onnxruntime")


@pytest.fixture(scope="module")
def streaming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_stream.write(tmp_path_factory.mktemp("stream") / "bundle")


@pytest.fixture(scope="module", params=BACKENDS)
def model(request: pytest.FixtureRequest, streaming: Path) -> Iterator[Model]:
    with load(streaming, backend=request.param) as opened:
        yield opened


def close(found: np.ndarray, wanted: np.ndarray) -> bool:
    return float(np.abs(found - wanted).max()) < 1e-5 * float(np.abs(wanted).max())


def stepped(model: Model, clip: np.ndarray, frames: int) -> np.ndarray:
    with model.stream(frames) as stream:
        parts = [stream.step({"frames": clip[:, i : i + frames]})["logits"] for i in range(0, clip.shape[1], frames)]
    return np.concatenate(parts, axis=1)


def test_a_clip_starts_from_the_initial_state_which_nobody_has_to_give(model: Model, streaming: Path) -> None:
    clip = tiny_stream.clips(1, seed=1)
    found = model.run({"frames": clip})
    assert [tensor.name for tensor in (*model.inputs, *model.outputs)] == ["frames", "logits"]
    assert found.keys() == {"logits"}
    assert close(found["logits"], tiny_stream.reference(streaming / "graphs" / "fp32.onnx", clip)["logits"])


@pytest.mark.parametrize("frames", [1, 2, 7, 14])
def test_chunks_of_any_length_give_what_the_whole_gives(model: Model, streaming: Path, frames: int) -> None:
    film = tiny_stream.clips(1, frames=28, seed=2)
    whole = tiny_stream.reference(streaming / "graphs" / "fp32.onnx", film)["logits"]
    assert close(stepped(model, film, frames), whole)


def test_state_is_saved_and_taken_up_by_another_stream(model: Model, streaming: Path) -> None:
    film = tiny_stream.clips(1, frames=9, seed=3)
    first, other = model.stream(), model.stream()
    for place in range(5):
        first.step({"frames": film[:, place : place + 1]})
    kept = first.state
    middle = tiny_stream.reference(streaming / "graphs" / "fp32.onnx", film[:, :5])["h_next"]
    assert close(kept["h"], middle)
    other.state = kept
    for place in range(5, 9):
        frame = {"frames": film[:, place : place + 1]}
        assert np.array_equal(first.step(frame)["logits"], other.step(frame)["logits"])
    assert close(kept["h"], middle)  # what was saved is a copy


def test_reset_is_the_beginning_again(model: Model) -> None:
    film = tiny_stream.clips(1, frames=4, seed=4)
    stream = model.stream(2)
    first = [stream.step({"frames": film[:, i : i + 2]})["logits"] for i in (0, 2)]
    assert not np.array_equal(stream.step({"frames": film[:, :2]})["logits"], first[0])
    stream.reset()
    assert not stream.state["h"].any()
    again = [stream.step({"frames": film[:, i : i + 2]})["logits"] for i in (0, 2)]
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))


@settings(max_examples=15, deadline=None)
@given(order=st.lists(st.integers(0, 31), min_size=1, max_size=200))
def test_streams_at_once_never_leak_into_each_other(model: Model, order: list[int]) -> None:
    films = tiny_stream.clips(32, frames=8, seed=5)
    streams = [model.stream() for _ in films]
    places = [0] * len(films)
    for number in order:
        place = places[number] % films.shape[1]
        found = streams[number].step({"frames": films[number : number + 1, place : place + 1]})["logits"]
        places[number] += 1
        alone, seen = model.stream(), [earlier % films.shape[1] for earlier in range(places[number])]
        said = [alone.step({"frames": films[number : number + 1, at : at + 1]})["logits"] for at in seen]
        assert np.array_equal(found, said[-1])


def test_streams_of_several_threads_give_what_each_gives_alone(model: Model) -> None:
    films = tiny_stream.clips(4, frames=20, seed=6)
    alone = [stepped(model, film[None], 1) for film in films]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda film: stepped(model, film[None], 1), films))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_streams_side_by_side_are_one_batch(tmp_path: Path, backend: str) -> None:
    films = tiny_stream.clips(3, frames=5, seed=7)
    with load(tiny_stream.write(tmp_path / "bundle", Batch(1, 2, 4)), backend=backend) as model:
        stream = model.stream(count=3)
        found = [stream.step({"frames": films[:, place]})["logits"] for place in range(5)]  # no time axis: one frame
        for number in range(3):
            assert close(np.concatenate(found, 1)[number : number + 1], stepped(model, films[number][None], 1))
        with pytest.raises(UsageError, match=r"5 streams are asked for .* serves 1 to 4"):
            model.stream(count=5)


def test_a_step_that_hands_out_its_own_arrays_writes_into_two_that_take_turns(model: Model) -> None:
    frame = {"frames": tiny_stream.clips(1, frames=1)}
    stream = model.stream()
    first, second, third, fourth = (stream.step(frame, copy=False)["logits"] for _ in range(4))
    assert np.shares_memory(first, third)
    assert np.shares_memory(second, fourth)
    assert not np.shares_memory(first, second)
    assert not np.shares_memory(stream.step(frame)["logits"], stream.step(frame)["logits"])  # copies, the caller's


def test_eight_bit_frames_are_prepared_for_a_step(model: Model) -> None:
    film = np.random.default_rng(0).integers(0, 255, (6, 12, 10, 3), dtype=np.uint8)
    whole = model.run(model.prepare(film))["logits"]
    stream = model.stream()
    found = [stream.step(stream.prepare(frame))["logits"] for frame in film]
    assert close(np.concatenate(found, axis=1), whole)
    with pytest.raises(DeployError, match="6 frames are given and a step takes 1"):
        stream.prepare(film)


def test_bad_steps_are_refused_and_leave_the_state_alone(model: Model) -> None:
    stream = model.stream()
    stream.step({"frames": tiny_stream.clips(1, frames=1)})
    kept = stream.state["h"]
    bad = tiny_stream.clips(1, frames=1)
    bad[0, 0, 0, 0, 0] = np.nan
    for given_, said in (
        (tiny_stream.clips(1, frames=2), r"has the shape \[1, 2, 3, 8, 8\]"),
        (np.zeros((1, 1, 3, 9, 8), np.float32), r"has the shape \[1, 1, 3, 9, 8\]"),
        (np.zeros((2, 1, 3, 8, 8), np.float32), r"has the shape \[2, 1, 3, 8, 8\]"),
        (np.zeros((1, 1, 3, 8, 8), np.uint8), "is uint8"),
        (bad, "NaN or Inf"),
    ):
        with pytest.raises(DeployError, match=said):
            stream.step({"frames": given_})
    assert np.array_equal(stream.state["h"], kept)


def test_a_state_of_something_else_is_refused(model: Model) -> None:
    stream = model.stream()
    for state in ({"c": np.zeros((1, 1, 8), np.float32)}, {"h": np.zeros((1, 2, 8), np.float32)},
                  {"h": np.zeros((2, 1, 8), np.float32)}, {"h": np.full((1, 1, 8), np.inf, np.float32)}):  # fmt: skip
        with pytest.raises(DeployError, match="this is no state of toy for 1 stream: "):
            stream.state = state
    assert not stream.state["h"].any()


def test_what_is_closed_steps_no_more(streaming: Path) -> None:
    frame = {"frames": tiny_stream.clips(1, frames=1)}
    with load(streaming) as model:
        closed, left = model.stream(), model.stream()
        closed.close()
        with pytest.raises(DeployError, match="this stream of toy is closed"):
            closed.step(frame)
        left.step(frame)
    with pytest.raises(DeployError, match="toy is closed"):
        left.step(frame)


def test_a_bundle_of_clips_or_images_refuses_to_stream(bundle: Path) -> None:
    with load(bundle, backend="onnxruntime") as model, pytest.raises(DeployError, match="toy takes whole clips"):
        model.stream()


def test_a_step_of_no_frames_is_refused(model: Model) -> None:
    with pytest.raises(UsageError, match="a step of 0 frames"):
        model.stream(0)


def test_the_gates_run_on_a_bundle_that_streams(streaming: Path) -> None:
    rows = {row.name: row.outcome for row in check(streaming).rows}
    assert rows["openvino fp32"] == rows["onnxruntime fp32"] == "passed"
