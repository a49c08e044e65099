"""`run`: a line for every frame or clip of a real file, and the map of a pair."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from deploy_runtime import DeployError, UsageError, load, manifest, run, video
from deploy_runtime.__main__ import main
from deploy_runtime.spec import DenseMap, Preprocess, Tensor
from tests import toys
from tests.runtime import tiny_bundle, tiny_stream
from tests.tiny_media import clip, image


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return clip(tmp_path / "film.mp4", frames=20)


def remade(bundle: Path, **fields: Any) -> Path:
    manifest.write(bundle, replace(manifest.read(bundle), files=(), **fields))
    return bundle


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["run", *words])
    out, err = capsys.readouterr()
    return code, out, err


def test_frames_come_with_number_time_and_pixels(film: Path) -> None:
    found = list(video.frames(film, every=6))
    assert [frame.number for frame in found] == [0, 6, 12, 18]
    assert [frame.seconds for frame in found] == pytest.approx([0.0, 0.24, 0.48, 0.72])
    assert [round(float(frame.pixels.mean())) for frame in found] == pytest.approx([0, 48, 96, 144], abs=2)
    assert found[0].pixels.shape == (64, 64, 3)


def test_a_stream_says_a_line_a_frame(tmp_path: Path, film: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tiny_stream.write(tmp_path / "bundle")
    code, out, _ = printed(capsys, str(bundle), "--video", str(film), "--format", "jsonl")
    told = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [line["frame"] for line in told] == list(range(20))
    with load(bundle) as model, model.stream() as stream:
        for line, frame in zip(told, video.frames(film), strict=True):
            logits = stream.step(stream.prepare(frame.pixels))["logits"][0, 0]
            assert line["outputs"]["logits"] == pytest.approx(logits.tolist())
            assert line["class"] == int(logits.argmax())
            assert line["score"] == pytest.approx(float(logits.max()))


def test_an_image_network_says_a_line_a_frame_and_names_the_class(
    bundle: Path, film: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = printed(capsys, str(bundle), "--video", str(film), "--every", "5", "--backend", "onnxruntime")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [row["frame"] for row in rows] == ["0", "5", "10", "15"]
    assert all(row["label"] == "abcde"[int(row["class"])] for row in rows)
    assert {f"logits_{place}" for place in range(5)} <= set(rows[0])


def test_clips_are_windows_that_do_not_overlap(tmp_path: Path, film: Path) -> None:
    with load(tiny_stream.write(tmp_path / "bundle")) as model:
        model.manifest = replace(model.manifest, state=())  # as a network of whole clips: h is then an input too
        with pytest.raises(UsageError, match="compares frames, h"):
            list(run.lines(model, film))
    toy = tiny_bundle.write(tmp_path / "clips")
    remade(
        toy,
        preprocess=Preprocess((16, 16), (0.5,) * 3, (0.25,) * 3, "CTHW", short_side=20, frames=4),
        inputs=(Tensor("image", ("batch", 3, 4, 16, 16), layout="NCTHW"),),
    )
    with load(toy, verify=False, backend="onnxruntime") as model:
        seen: list[tuple[int, ...]] = []
        model.run = lambda given: seen.append(given["image"].shape) or {"logits": np.ones((1, 5), np.float32)}  # type: ignore[method-assign,assignment,func-returns-value]
        told = list(run.lines(model, film, every=2))
    assert [line["frame"] for line in told] == [0, 8]  # windows of 4 frames, 2 apart; the rest is too short
    assert seen == [(1, 3, 4, 16, 16)] * 2


def test_several_labels_are_those_that_are_present() -> None:
    assert run.as_csv({"frame": 0, "present": ["mass", "nodule"], "outputs": {"p": [0.9, 0.8]}}, header=True) == (
        "frame,present,p_0,p_1\n0,mass nodule,0.9,0.8"
    )


def pair_bundle(folder: Path) -> Path:
    from onnx import helper

    bundle = tiny_bundle.write(folder)
    inputs = tuple(Tensor(name, ("batch", 1, 16, 16), layout="NCHW") for name in ("baseline", "followup"))
    toys.save(
        bundle / "graphs" / "fp32.onnx",
        [helper.make_node("Sub", ["followup", "baseline"], ["diff_map"], "sub")],
        [],
        [(tensor.name, tensor.shape) for tensor in inputs],
        [("diff_map", ["batch", 1, 16, 16])],
    )
    return remade(
        bundle,
        inputs=inputs,
        outputs=(Tensor("diff_map", ("batch", 1, 16, 16), layout="NCHW"),),
        task=DenseMap(),
        labels=(),
        preprocess=Preprocess((16, 16), (0.5,), (0.5,), "CHW", short_side=16),
    )


def test_the_map_of_a_pair_is_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, out = pair_bundle(tmp_path / "pair"), tmp_path / "map.png"
    before, after = image(tmp_path / "1.png", level=50), image(tmp_path / "2.png", level=150)
    code, said, _ = printed(
        capsys, str(bundle), "--pair", str(before), str(after), "--out", str(out), "--backend", "onnxruntime"
    )
    assert code == 0
    assert json.loads(said) == pytest.approx({"black": 100 / 127.5, "white": 100 / 127.5}, abs=0.02)
    assert video.image(out).shape == (16, 16, 3)


def resized(path: Path) -> Path:
    """Write a film whose picture changes its size in the middle: two films of raw pictures, one behind the other."""
    with av.open(str(path), "w", format="mjpeg") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuvj420p"
        for number in range(3):
            picture = np.full((64, 64, 3), 40 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    small = path.with_name("small.mjpeg")
    with av.open(str(small), "w", format="mjpeg") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuvj420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes() + small.read_bytes())
    return path


def test_bad_files_are_said_plainly(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.mp4").write_text("no film")
    clip(tmp_path / "empty.mp4", frames=0)
    for name, says in (
        ("text.mp4", "cannot be decoded"),
        ("absent.mp4", "cannot be decoded: [Errno 2]"),
        ("empty.mp4", "empty.mp4"),
    ):
        code, out, err = printed(capsys, str(bundle), "--video", str(tmp_path / name), "--backend", "onnxruntime")
        assert (code, out) == (1, "")
        assert says in err
    with pytest.raises(DeployError, match=r"frame 3 of .* is 32 x 32, and those before it are 64 x 64"):
        list(video.frames(resized(tmp_path / "switched.mjpeg")))
    with pytest.raises(UsageError, match="every 0th frame"):
        list(video.frames(tmp_path / "text.mp4", every=0))


def test_wrong_use_is_said_plainly(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, str(bundle))[0] == 2
    picture = str(image(tmp_path / "1.png"))
    assert printed(capsys, str(bundle), "--pair", picture, picture, "--out", str(tmp_path / "m.png"))[0] == 2
    pair = pair_bundle(tmp_path / "pair")
    code, _, err = printed(capsys, str(pair), "--video", picture, "--backend", "onnxruntime")
    assert code == 2
    assert "--pair BEFORE AFTER" in err
