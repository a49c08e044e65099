"""A network that reads later frames too slides a window, and only new frames go through its backbone."""

import json
from pathlib import Path

import numpy as np
import pytest

from deploy_runtime import DeployError, Model, UsageError, load
from deploy_runtime.check import check
from tests.runtime import tiny_stream, tiny_window
from tests.runtime.test_run import film, printed
from tests.runtime.test_stream import close, model
from tests.runtime.tiny_window import WINDOW

__all__ = ["film", "model"]  # fixtures; `model` opens what `streaming` says here


@pytest.fixture(scope="module")
def streaming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_window.write(tmp_path_factory.mktemp("window") / "bundle")


def test_the_bundle_passes_its_golden_samples(streaming: Path) -> None:
    rows = {row.name: row.outcome for row in check(streaming).rows}
    assert rows["openvino fp32"] == rows["onnxruntime fp32"] == "passed"


@pytest.mark.parametrize("hop", [1, 2, 4, WINDOW])
def test_every_window_gives_what_the_clip_gives(model: Model, streaming: Path, hop: int) -> None:
    shots = tiny_stream.clips(1, frames=24, seed=2)
    with model.stream(window=WINDOW, hop=hop) as stream:
        for end in range(hop, 25, hop):
            answers = stream.step({"frames": shots[:, end - hop : end]})
            if end < WINDOW:
                assert answers == {}, "a window that is not full says nothing"
                continue
            window = {"frames": shots[:, end - WINDOW : end]}
            whole = tiny_window.reference(streaming / "graphs" / "fp32.onnx", window["frames"])["logits"]
            assert answers.keys() == {"logits"}
            assert close(answers["logits"], whole)
            assert close(model.run(window)["logits"], whole)


def test_reset_empties_the_window(model: Model) -> None:
    shots = tiny_stream.clips(1, frames=WINDOW + 1, seed=3)
    with model.stream(window=WINDOW) as stream:
        said = [bool(stream.step({"frames": shots[:, place : place + 1]})) for place in range(WINDOW + 1)]
        stream.reset()
        again = [bool(stream.step({"frames": shots[:, place : place + 1]})) for place in range(WINDOW + 1)]
    assert said == again == [False] * (WINDOW - 1) + [True] * 2


@pytest.mark.parametrize("before", [0, 2, WINDOW - 1, WINDOW + 3])
def test_another_stream_goes_on_where_one_was(model: Model, before: int) -> None:
    shots = tiny_stream.clips(1, frames=2 * WINDOW + 3, seed=4)
    frames = [{"frames": shots[:, place : place + 1]} for place in range(shots.shape[1])]
    with model.stream(window=WINDOW) as first, model.stream(window=WINDOW) as other:
        for frame in frames[:before]:
            first.step(frame)
        other.state = first.state
        for frame in frames[before:]:
            one, same = first.step(frame), other.step(frame)
            assert one.keys() == same.keys()
            assert all(np.array_equal(one[name], same[name]) for name in one)


def test_an_answer_for_each_frame_as_it_comes_is_refused(model: Model) -> None:
    with pytest.raises(DeployError, match="reads later frames too") as told:
        model.stream()
    assert told.value.fix == "Slide a window over the frames: model.stream(window=6, hop=1)."
    with pytest.raises(UsageError, match="a window of 8 frames is asked for"):
        model.stream(window=8)
    with pytest.raises(UsageError, match="a window of 6 frames is to move by 7"):
        model.stream(window=6, hop=7)


def test_a_network_that_looks_at_no_later_frame_needs_no_window(tmp_path: Path) -> None:
    with load(tiny_stream.write(tmp_path / "bundle")) as causal, pytest.raises(UsageError, match="needs none"):
        causal.stream(window=6)


def test_a_video_is_told_of_by_windows(
    streaming: Path, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = ("--format", "jsonl", "--every", "1")
    code, out, _ = printed(capsys, str(streaming), "--video", str(film), "--hop", "2", *kind)
    told = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [line["frame"] for line in told] == [5, 7, 9, 11, 13, 15, 17, 19]  # the last frame of each window
    assert all(line["class"] == int(np.argmax(line["outputs"]["logits"][-1])) for line in told)
    code, out, _ = printed(capsys, str(streaming), "--video", str(film), *kind)
    assert [json.loads(line)["frame"] for line in out.splitlines()] == [0, 6, 12]  # clips, one behind the other
    assert json.loads(out.splitlines()[1])["outputs"]["logits"] == pytest.approx(
        np.array(next(line for line in told if line["frame"] == 11)["outputs"]["logits"]), abs=1e-5
    )
    code, _, said = printed(capsys, str(streaming), "--video", str(film), "--hop", "1", "--every", "4")
    assert code != 0
    assert "ends before the first window of frames is full" in said
    causal = tiny_stream.write(tmp_path / "causal")
    code, _, said = printed(capsys, str(causal), "--video", str(film), "--hop", "2")
    assert code != 0
    assert "slides no window" in said
