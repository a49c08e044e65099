"""The command line: what a stranger reads, two-line errors, exit codes, and JSON that is alone on standard output."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from deploy_runtime.__main__ import main


def ran(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_info_says_what_a_bundle_is(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ran(capsys, "info", bundle)
    assert (code, err) == (0, "")
    for said in (
        "toy: toy (toy)",
        "input   image ['batch', 3, 16, 16] float32 NCHW",
        "chosen   openvino fp32",
        "fallback",
    ):
        assert said in out
    assert "built_not_run" in out


@pytest.mark.parametrize("command", ["info", "verify", "check"])
def test_json_is_one_object_and_nothing_else(command: str, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ran(capsys, command, bundle, "--json")
    assert (code, err) == (0, "")
    data: dict[str, Any] = json.loads(out)
    assert data["manifest"]["format"] == 1 if command == "info" else data["passed"] is True


@pytest.mark.parametrize("command", ["verify", "check"])
def test_a_good_bundle_passes_in_words_and_in_junit(
    command: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = ran(capsys, command, bundle, "--junit", tmp_path / "gates.xml", "--backend", "onnxruntime")
    assert (code, err) == (0, "")
    assert "passed   onnxruntime fp32" in out
    assert out.splitlines()[-1].strip().startswith("passed")
    assert ElementTree.parse(tmp_path / "gates.xml").getroot()[0].attrib["failures"] == "0"


def test_a_damaged_bundle_is_two_lines_and_exit_1(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / "layers.json").touch()
    for command in ("verify", "check"):
        code, _, err = ran(capsys, command, bundle)
        assert code == 1
        assert len(err.strip().splitlines()) == 2
        assert "holds layers.json, which its manifest does not list" in err


def test_a_damaged_bundle_among_good_ones_still_gives_whole_reports(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = ran(capsys, "check", bundle, tmp_path / "nowhere", "--json", "--junit", tmp_path / "gates.xml")
    assert code == 1
    assert len(err.strip().splitlines()) == 2
    data = json.loads(out)
    assert [one["passed"] for one in data["bundles"]] == [True, False]
    assert len(ElementTree.parse(tmp_path / "gates.xml").getroot()) == 2


def test_a_report_that_cannot_be_written_is_exit_1(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = ran(capsys, "verify", bundle, "--junit", tmp_path / "no folder" / "gates.xml")
    assert code == 1
    assert "gates.xml cannot be written" in err


@pytest.mark.parametrize("backend", ["tensorrt_rtx", "nothing"])
def test_a_backend_that_cannot_be_used_is_exit_1_and_one_that_does_not_exist_2(
    backend: str, bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploy_runtime import backend_tensorrt_rtx

    monkeypatch.setattr(backend_tensorrt_rtx, "missing", lambda: "no NVIDIA driver found")
    code, out, err = ran(capsys, "verify", bundle, "--backend", backend)
    assert code == {"tensorrt_rtx": 1, "nothing": 2}[backend]
    assert out == ""
    assert len(err.strip().splitlines()) == 2


@pytest.mark.parametrize("arguments", [[], ["verify"], ["verify", "a", "--strict"], ["sign", "a"]])
def test_wrong_usage_is_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_error(bundle: Path) -> None:
    words = [sys.executable, "-m", "deploy_runtime", "info", str(bundle), "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, "")
