"""`--evaluate`: accuracy before and after leads what a person reads, and is a gate where asked."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from deploy_compile.__main__ import main

NETS = Path(__file__).parent / "tiny_nets.py"
SAMPLES = 24


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of labelled images; the names are told nowhere but in the CSV."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    lines = ["file,label"]
    for index in range(SAMPLES):
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        np.save(folder / "images" / f"doe_jane_{index}.npy", np.kron(coarse, np.ones((8, 8, 1), np.uint8)))
        lines.append(f"doe_jane_{index}.npy,{rng.integers(0, 5)}")
    (folder / "truth.csv").write_text("\n".join(lines))
    return folder


def run(place: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    monkeypatch.setenv("DEPLOY_CACHE", str(place / "cache"))
    labelled = ["--evaluate", str(place / "images"), "--labels", str(place / "truth.csv")]
    command = ["deploy-compile", "recipe", f"{NETS}:tiny", "--int8", "--target", "cpu", "--out", str(place / "bundle")]
    monkeypatch.setattr(sys, "argv", [*command, "--force", *labelled, *more])
    main()


@pytest.mark.slow
def test_accuracy_before_and_after_comes_first(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(place, monkeypatch)
    told = " ".join(capsys.readouterr().out.split())
    assert told.index(f"on {SAMPLES} labelled samples PyTorch") < told.index("candidate")
    assert "recall of class 4" in told
    assert "McNemar p =" in told
    report = json.loads((place / "bundle" / "report.json").read_text())
    assert next(iter(report)) == "accuracy"
    found = json.loads((place / "bundle" / "manifest.json").read_text())["evaluation"]
    assert (found["samples"], found["decisions"], found["max_drop"]) == (SAMPLES, SAMPLES, None)
    assert found == report["accuracy"]
    change = found["engine"]["accuracy"]["value"] - found["torch"]["accuracy"]["value"]
    assert found["difference"]["change"]["value"] == pytest.approx(change)
    for file in (place / "bundle").rglob("*"):
        assert not file.is_file() or b"doe_jane" not in file.read_bytes()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--evaluate", "images"], "--labels TRUTH.csv is missing"),
        (["--labels", "truth.csv"], "--evaluate DIR is missing"),
        (["--max-drop", "1"], "--max-drop judges labelled samples"),
        (["--evaluate", "images", "--labels", "a.csv", "--labels", "b.csv"], "twice for the same"),
    ],
)
def test_half_of_what_is_needed_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: list[str], message: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["deploy-compile", "recipe", f"{NETS}:tiny", *given])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
