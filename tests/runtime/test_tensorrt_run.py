"""How data and state move to and from a GPU, with stand-ins for TensorRT and CUDA: no GPU runs in these tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy_runtime import DeployError, UsageError, load, manifest
from deploy_runtime.dlpack import CPU, CUDA, DeviceArray
from deploy_runtime.spec import Batch
from deploy_runtime.stream import Stream
from deploy_runtime.tensorrt_contexts import Contexts
from deploy_runtime.tensorrt_run import ALIGNED, Opened
from tests.runtime import tiny_stream
from tests.runtime.fake_cuda import Array, FakeCuda
from tests.runtime.fake_tensorrt import Fake

FRAME = tuple(tensor.of_frames(1) for tensor in tiny_stream.INPUTS)
ANSWER = tuple(tensor.of_frames(1) for tensor in tiny_stream.OUTPUTS)
FILM = tiny_stream.clips(1, frames=8, seed=5)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_stream.write(tmp_path_factory.mktemp("stream") / "bundle")


@pytest.fixture(params=[True, False], ids=["captured", "enqueued"])
def cuda(request: pytest.FixtureRequest) -> FakeCuda:
    return FakeCuda(captures=request.param)


@pytest.fixture
def opened(bundle: Path, cuda: FakeCuda) -> Iterator[Opened]:
    """Give an engine that answers as the graph does."""
    path = bundle / "graphs" / "fp32.onnx"

    def runs(given: dict[str, Array]) -> dict[str, Array]:
        return tiny_stream.reference(path, given["frames"], given["h"])

    names = [(tensor.name, tensor.at(1)) for tensor in FRAME]
    fake = Fake("tensorrt-11.4.0.106", inputs=names, outputs=("logits", "h_next"), runs=runs, cuda=cuda)
    trt = fake.module()
    engine = trt.Runtime(None).deserialize_cuda_engine(b"")
    contexts = Contexts(engine, engine.create_execution_context, [tensor.name for tensor in FRAME])
    session = Opened(cuda, contexts, FRAME, ANSWER, Batch(), captures=True)
    yield session
    session.close()


def stream(bundle: Path, session: Opened) -> Stream:
    found = manifest.read(bundle)
    return Stream(found, session.carry, lambda kept, inputs, answers: kept.run_into(inputs, answers), 1, None)


def stepped(one: Stream, film: Array) -> Array:
    return np.concatenate([one.step({"frames": film[:, i : i + 1]})["logits"] for i in range(film.shape[1])], axis=1)


def test_a_stream_on_the_gpu_answers_as_the_whole_clip(bundle: Path, opened: Opened) -> None:
    whole = tiny_stream.reference(bundle / "graphs" / "fp32.onnx", FILM)["logits"]
    np.testing.assert_allclose(stepped(stream(bundle, opened), FILM), whole, rtol=1e-5, atol=1e-6)


def test_only_frames_go_up_and_answers_come_down(bundle: Path, opened: Opened, cuda: FakeCuda) -> None:
    one = stream(bundle, opened)
    stepped(one, FILM[:, :4])
    cuda.calls.clear()
    stepped(one, FILM[:, 4:])
    assert cuda.calls.count("cudaMemcpyAsync") == 2 * 4
    assert cuda.calls.count("cudaGraphLaunch") == (4 if cuda.captures else 0)
    assert "cudaMalloc" not in cuda.calls


def test_streams_do_not_touch_each_other(bundle: Path, opened: Opened) -> None:
    films = [tiny_stream.clips(1, frames=6, seed=seed) for seed in range(3)]
    alone = [stepped(stream(bundle, opened), film) for film in films]
    together = [stream(bundle, opened) for _ in films]
    found: list[list[Array]] = [[] for _ in films]
    for place in range(6):
        for one, film, parts in zip(together, films, found, strict=True):
            parts.append(one.step({"frames": film[:, place : place + 1]})["logits"])
    for parts, wanted in zip(found, alone, strict=True):
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), wanted)


def test_state_is_read_set_and_reset(bundle: Path, opened: Opened) -> None:
    first, other = stream(bundle, opened), stream(bundle, opened)
    whole = stepped(first, FILM)
    middle = stream(bundle, opened)
    stepped(middle, FILM[:, :5])
    other.state = middle.state
    np.testing.assert_allclose(stepped(other, FILM[:, 5:]), whole[:, 5:], rtol=1e-6)
    assert first.state["h"].any()
    first.reset()
    assert not first.state["h"].any()
    np.testing.assert_array_equal(stepped(first, FILM), whole)


def test_a_closed_stream_gives_its_memory_back(bundle: Path, opened: Opened, cuda: FakeCuda) -> None:
    before = len(cuda.memory)
    for _ in range(3):
        with stream(bundle, opened) as one:
            stepped(one, FILM[:, :3])
        assert len(cuda.memory) == before
    assert cuda.calls.count("cudaGraphInstantiate") == cuda.calls.count("cudaGraphExecDestroy")


def test_streams_and_clips_take_turns_on_one_engine(bundle: Path, opened: Opened) -> None:
    one = stream(bundle, opened)
    whole = tiny_stream.reference(bundle / "graphs" / "fp32.onnx", FILM)["logits"]
    start = {"frames": FILM[:, :1], "h": np.zeros((1, 1, tiny_stream.HIDDEN), np.float32)}
    for place in range(4):
        found = one.step({"frames": FILM[:, place : place + 1]})["logits"]
        np.testing.assert_allclose(found[:, 0], whole[:, place], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(opened.run(dict(start))["logits"][:, 0], whole[:, 0], rtol=1e-5, atol=1e-6)


def test_closing_the_engine_first_is_no_harm(bundle: Path, opened: Opened, cuda: FakeCuda) -> None:
    one = stream(bundle, opened)
    opened.close()
    one.close()
    assert not cuda.memory


def test_what_cuda_refuses_is_told_in_its_own_words(bundle: Path, opened: Opened, cuda: FakeCuda) -> None:
    cuda.refuses = "cudaMalloc"
    with pytest.raises(DeployError, match="the GPU failed: no memory"):
        stream(bundle, opened)
    cuda.refuses = ""


class OnGpu:
    """An array that says that it lives on a GPU, as PyTorch's do there."""

    def __init__(self, array: Array, number: int = 0) -> None:
        self.array, self.shape, self.dtype, self.asked = array, array.shape, array.dtype, list[int | None]()
        self.given = DeviceArray(array.ctypes.data, array.shape, array.dtype, CUDA, number, array)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.given.__dlpack_device__()

    def __dlpack__(self, stream: int | None = None) -> object:
        self.asked.append(stream)
        return self.given.__dlpack__()


def aligned(array: Array) -> Array:
    """Copy an array to where TensorRT would take it."""
    room = np.zeros(array.nbytes + ALIGNED, np.uint8)
    start = -room.ctypes.data % ALIGNED
    made = room[start : start + array.nbytes].view(np.float32).reshape(array.shape)
    made[...] = array
    return made


@pytest.mark.parametrize("off", [0, 4])
def test_what_lives_on_the_gpu_is_read_there(opened: Opened, cuda: FakeCuda, bundle: Path, off: int) -> None:
    room = aligned(np.zeros((1, 1, 3, 8, 9), np.float32)).reshape(-1)[off // 4 :][: 3 * 8 * 8].reshape(1, 1, 3, 8, 8)
    room[...] = FILM[:, :1]
    frames, start = OnGpu(room), np.zeros((1, 1, tiny_stream.HIDDEN), np.float32)
    wanted = tiny_stream.reference(bundle / "graphs" / "fp32.onnx", FILM[:, :1])
    for _ in range(3):
        cuda.calls.clear()
        given: dict[str, Any] = {"frames": opened.view(frames, "frames"), "h": start}
        there = opened.run_there(given)
        assert cuda.calls.count("cudaMemcpyAsync") == (
            2 if off else 1
        )  # the state, and what TensorRT does not take there
        logits = DeviceArray(there["logits"].address, there["logits"].shape, there["logits"].dtype, CPU, 0, opened)
        np.testing.assert_allclose(np.from_dlpack(logits), wanted["logits"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(opened.run(dict(given))["logits"], wanted["logits"], rtol=1e-5, atol=1e-6)
    assert frames.asked == [7] * 3, "the producer is told of the engine's own stream"


def test_what_lives_on_another_gpu_is_refused(opened: Opened) -> None:
    with pytest.raises(DeployError, match="input frames lives on GPU 1, and the engine on GPU 0"):
        opened.view(OnGpu(FILM[:, :1], number=1), "frames")


def test_an_engine_on_the_cpu_takes_nothing_from_a_gpu(bundle: Path) -> None:
    with load(bundle) as model:
        with pytest.raises(DeployError, match="input frames, a OnGpu, lives on a GPU"):
            model.run({"frames": OnGpu(FILM)})  # type: ignore[dict-item]
        with pytest.raises(UsageError, match="is to stay on a GPU"):
            model.run_on_device({"frames": FILM[:, :6]})


def test_inputs_on_the_gpu_are_checked_by_shape_and_type(
    bundle: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    with load(bundle) as model:
        monkeypatch.setattr(model, "_session", opened)
        with pytest.raises(DeployError, match=r"has the shape \[1, 7, 3, 8, 8\]"):
            model.run_on_device({"frames": OnGpu(FILM[:, :7].copy())})  # type: ignore[dict-item]
        with pytest.raises(DeployError, match="is uint8 instead of float32"):
            model.run({"frames": OnGpu(np.zeros((1, 6, 3, 8, 8), np.uint8))})  # type: ignore[dict-item]
