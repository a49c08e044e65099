"""The command in a terminal: light, plain, JSON where asked."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy_compile.__main__ import main

HEAVY = {"torch", "onnx", "onnxruntime", "openvino", "tensorrt_rtx", "torchvision", "timm", "av", "PIL"}
LOADED = "import sys; sys.argv = ['deploy-compile', *{words!r}]\n" + (
    "from deploy_compile.__main__ import main\n"
    "try:\n    main()\nfinally:\n    print('MODULES', ' '.join(sorted(m for m in sys.modules if '.' not in m)))"
)


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["deploy-compile", *words])
    main()
    return capsys.readouterr().out


@pytest.mark.parametrize("words", [["--help"], ["list"], ["list", "--json"], ["show", "x3d_s"], ["recipe", "--help"]])
def test_looking_imports_nothing_heavy(words: list[str]) -> None:
    code = LOADED.format(words=words)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.rpartition("MODULES ")[2].split())
    assert "click" in loaded
    assert not HEAVY & loaded


def test_list_as_json_has_every_field(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {row["name"]: row for row in json.loads(run(capsys, monkeypatch, "list", "--json"))}
    assert set(rows) >= {"x3d_xs", "x3d_s", "x3d_m", "x3d_l", "resnet18", "resnet34", "resnet50", "resnet101"}
    assert set(rows["x3d_s"]) == {"name", "family", "parameters", "inputs", "outputs", "precisions", "streams"}
    assert rows["x3d_s"]["inputs"][0]["shape"] == ["batch", 3, 13, 160, 160]


def test_a_family_alone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = json.loads(run(capsys, monkeypatch, "list", "--family", "x3d", "--json"))
    assert {row["family"] for row in rows} == {"x3d"}


def test_show_tells_a_stranger_what_goes_in_and_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = " ".join(run(capsys, monkeypatch, "show", "x3d_s").split())
    for words in ("video [batch, 3, 13, 160, 160]", "logits [batch, 400]", "num_classes=400", "centre crop 160x160"):
        assert words in told


def test_doctor_says_what_builds_and_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = json.loads(run(capsys, monkeypatch, "doctor", "--json"))
    cpu = next(target for target in found["targets"] if target["target"] == "cpu")
    assert all(row["builds"] and row["runs"] for row in cpu["backends"])
    assert any("INT8" in note for note in cpu["notes"])
    assert found["cache"]["writable"]


@pytest.mark.slow
def test_the_same_again_imports_no_torch(tmp_path: Path) -> None:
    """The second run of a command, in a process of its own: what stands in the cache needs no PyTorch."""
    nets = Path(__file__).parents[1] / "tiny_nets.py"
    words = ["recipe", f"{nets}:tiny", "--target", "cpu", "--out", str(tmp_path / "bundle"), "--json"]
    code = "import os; os.environ['DEPLOY_CACHE'] = {cache!r}\n".format(cache=str(tmp_path / "cache"))
    command = [sys.executable, "-c", code + LOADED.format(words=words)]
    for again in (False, True):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        report, _, modules = done.stdout.partition("MODULES ")
        assert ("torch" in modules.split()) is not again
        assert set(json.loads(report)) == {"bundle", "recipe", "verdict", "chosen", "candidates", "seconds"}
