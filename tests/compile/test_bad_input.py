"""Every bad input gives two lines, the right exit code, and leaves nothing behind."""

import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from deploy_compile.__main__ import main

NETS = Path(__file__).parents[1] / "tiny_nets.py"
TINY = f"{NETS}:tiny"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEPLOY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str, code: int, says: str
) -> tuple[str, str]:
    """Run the command, which must fail with two lines on standard error, and leave the working folder empty."""
    monkeypatch.setattr(sys, "argv", ["deploy-compile", *words])
    with pytest.raises(SystemExit) as left:
        main()
    captured = capsys.readouterr()
    *_, message, fix = captured.err.strip().splitlines()
    assert message.startswith("error: "), captured.err
    assert says in message, message
    assert fix.startswith("  fix: "), captured.err
    assert len(fix) > len("  fix: ")
    assert left.value.code == code
    assert list(Path.cwd().iterdir()) == []
    return message, fix


CASES = {
    "unknown recipe": (["recipe", "x3d_z"], 2, "no recipe 'x3d_z'"),
    "no such file": (["recipe", "nets.py:net"], 2, "no file nets.py"),
    "no such name in the file": (["recipe", f"{NETS}:huge"], 2, "'huge'"),
    "batch 0": (["recipe", TINY, "--batch", "0"], 2, "--batch 0"),
    "unknown parameter": (["recipe", TINY, "--param", "width=2"], 2, "no parameter 'width'"),
    "parameter value": (["recipe", TINY, "--param", "num_classes=7"], 2, "num_classes=7"),
    "parameter without value": (["recipe", TINY, "--param", "num_classes"], 2, "not name=value"),
    "unknown target": (["recipe", TINY, "--target", "jetsn"], 2, "no target 'jetsn'"),
    "missing weights": (["recipe", TINY, "--weights", "best.pt"], 1, "no checkpoint at best.pt"),
    "samples of no folder": (
        ["recipe", TINY, "--int8", "--calibration-samples", "64"],
        2,
        "--calibration-samples says",
    ),
    "missing calibration": (["recipe", TINY, "--int8", "--calibration", "clips"], 1, "clips"),
    "strict without calibration": (["recipe", TINY, "--int8", "--strict"], 2, "--strict refuses"),
    "nothing published": (["recipe", TINY, "--weights", "pretrained"], 1, "nobody publishes"),
    "missing bundle": (["check", "artifacts/none"], 1, "artifacts/none does not exist"),
    "unknown family": (["list", "--family", "y3d"], 2, "no family 'y3d'"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    words, code, says = CASES[case]
    refused(capsys, monkeypatch, *words, code=code, says=says)


def test_an_unknown_recipe_is_told_the_nearest(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, fix = refused(capsys, monkeypatch, "recipe", "x3ds", code=2, says="x3ds")
    assert "x3d_s" in fix


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch harmed",)


@pytest.mark.parametrize("kind", ["truncated", "code", "another architecture", "a folder"])
def test_weights(kind: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = place / "best.pt"
    if kind == "truncated":
        torch.save({"w": torch.zeros(100)}, path)
        path.write_bytes(path.read_bytes()[:200])
    elif kind == "code":
        path.write_bytes(pickle.dumps({"state_dict": Code()}))
    elif kind == "another architecture":
        torch.save({"state_dict": torch.nn.Linear(3, 4).state_dict()}, path)
    else:
        path.mkdir()
    refused(capsys, monkeypatch, "recipe", TINY, "--weights", str(path), code=1, says="best.pt")


@pytest.mark.parametrize("kind", ["empty", "one image", "one source", "corrupt video", "no permission"])
def test_calibration(
    kind: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place / "samples"
    folder.mkdir()
    image = np.zeros((40, 40, 3), np.uint8)
    if kind in ("one image", "one source"):
        np.save(folder / "a.npy", image)
    if kind == "corrupt video":
        for name in ("a.mp4", "b.mp4"):
            (folder / name).write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(200))
    if kind == "no permission":
        for name in ("a.npy", "b.npy"):
            np.save(folder / name, image)
        original = Path.open

        def denied(path: Path, *args: object, **kwargs: object) -> object:
            if path.suffix == ".npy" and path.parent == folder:
                raise PermissionError(13, "Permission denied", str(path))
            return original(path, *args, **kwargs)  # type: ignore[call-overload]

        if os.geteuid() == 0:  # root reads everything: stand in for the kernel
            monkeypatch.setattr(Path, "open", denied)
        else:
            for path in folder.iterdir():
                path.chmod(0)
    refused(capsys, monkeypatch, "recipe", TINY, "--int8", "--calibration", str(folder), code=1, says="")


def test_an_output_folder_that_cannot_be_written(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "file").write_text("")
    refused(
        capsys, monkeypatch, "recipe", TINY, "--out", str(place / "file" / "bundle"), code=1, says="cannot be written"
    )


def test_an_output_folder_that_holds_something_else_is_kept(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "mine").mkdir()
    (place / "mine" / "thesis.txt").write_text("years of work")
    refused(
        capsys,
        monkeypatch,
        "recipe",
        TINY,
        "--target",
        "cpu",
        "--out",
        str(place / "mine"),
        code=1,
        says="holds something else",
    )
    assert (place / "mine" / "thesis.txt").read_text() == "years of work"
