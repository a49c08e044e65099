"""Folders of images, clips and arrays: sources, windows, and every way in which a file can be bad."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from deploy_compile import media
from deploy_runtime.errors import DeployError
from tests.tiny_media import clip, image


def numbers(window: np.ndarray) -> list[int]:
    """Return which frames of `clip` these are."""
    return [round(float(frame.mean()) / 8) for frame in window]


def test_each_subfolder_is_one_source_and_each_file_beside_them(tmp_path: Path) -> None:
    for name in ("b/deep/2.png", "b/1.png", "a/1.png", "c.png", "notes.txt", ".hidden.png"):
        image(tmp_path / name) if name.endswith("png") else (tmp_path / name).write_text("")
    given = [[path for path in source.files if isinstance(path, Path)] for source in media.sources(tmp_path)]
    found = [[str(path.relative_to(tmp_path)) for path in files] for files in given]
    assert found == [["a/1.png"], ["b/1.png", "b/deep/2.png"], ["c.png"]]


def test_windows_are_spread_over_a_video_and_do_not_overlap(tmp_path: Path) -> None:
    one, two = media.windows(clip(tmp_path / "a.mp4"), 4, 2)
    assert numbers(one) == [0, 4, 9, 14]
    assert numbers(two) == [15, 19, 24, 29]


def test_a_window_of_a_long_video_takes_every_sixth_frame_at_most(tmp_path: Path) -> None:
    (window,) = media.windows(clip(tmp_path / "a.mp4"), 3, 1)
    assert np.diff(numbers(window)).tolist() == [6, 6]


def test_an_image_network_gets_single_frames_of_a_video(tmp_path: Path) -> None:
    shown = list(media.windows(clip(tmp_path / "a.mp4"), None, 3))
    assert [frame.shape for frame in shown] == [(64, 64, 3)] * 3
    assert numbers(np.stack(shown)) == [4, 14, 24]


def test_images_are_rgb(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 9), 7, np.uint8)).save(tmp_path / "grey.png")
    (shown,) = media.windows(tmp_path / "grey.png", None, 5)
    assert shown.shape == (8, 9, 3)
    assert shown.dtype == np.uint8


def test_a_folder_must_hold_something_to_read(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="no files"):
        media.sources(tmp_path)
    (tmp_path / "scan.raw").write_bytes(b"")
    with pytest.raises(DeployError, match=r"only files of other kinds \(\.raw\)"):
        media.sources(tmp_path)
    with pytest.raises(DeployError, match="does not exist"):
        media.sources(tmp_path / "none")
    with pytest.raises(DeployError, match="is a file"):
        media.sources(tmp_path / "scan.raw")


def truncated(path: Path) -> Path:
    whole = clip(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # an mp4's index stands at its end
    return path


def garbage(path: Path) -> Path:
    path.write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(range(200)))
    return path


def silent(path: Path) -> Path:
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    return path


BAD = {
    "truncated.mp4": (truncated, "cannot be decoded as a video"),
    "garbage.mp4": (garbage, "cannot be decoded as a video"),
    "sound.mp4": (silent, "no video stream"),
    "empty.mp4": (lambda path: path.write_bytes(b"") and path, "cannot be decoded as a video"),
    "short.mp4": (lambda path: clip(path, frames=3), "3 frames, and a window needs 4"),
    "none.avi": (lambda path: clip(path, frames=0), "(no frames|cannot be decoded as a video)"),
    "one.png": (image, "is one image"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_video_is_refused_by_name(name: str, tmp_path: Path) -> None:
    make, says = BAD[name]
    make(tmp_path / name)
    with pytest.raises(DeployError, match=says) as caught:
        list(media.windows(tmp_path / name, 4, 2))
    assert name in caught.value.message
    assert caught.value.fix


def test_bad_images_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(image(tmp_path / "whole.jpg").read_bytes()[:300])
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(np.full((8, 9), 40000, np.uint16)).save(tmp_path / "deep.png")
    for name, says in (("cut.jpg", "decoded"), ("text.png", "decoded"), ("deep.png", "more than 8 bits")):
        with pytest.raises(DeployError, match=says) as caught:
            list(media.windows(tmp_path / name, None, 1))
        assert name in caught.value.message


def test_arrays_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "code.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    for name in ("code.npy", "cut.npz"):
        with pytest.raises(DeployError, match="cannot be read as numpy arrays"):
            media.arrays(tmp_path / name)


@pytest.mark.parametrize("name", ["a.mp4", "a.png", "a.npy"])
def test_files_without_permission(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / name
    path.write_bytes(b"")

    def denied(*_: object, **__: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)  # root may read everything: stand in for the kernel
    with pytest.raises(DeployError, match="permission denied"):
        media.arrays(path) if name.endswith("npy") else list(media.windows(path, None, 1))
