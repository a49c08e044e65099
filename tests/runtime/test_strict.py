"""What a release asks: real weights, real calibration, and every engine of its target run here."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy_runtime import UsageError, backend_openvino, manifest
from deploy_runtime.__main__ import main
from deploy_runtime.check import check
from deploy_runtime.evidence import Calibration, Manifest
from deploy_runtime.result import Result, Row
from deploy_runtime.strict import strictly

pytestmark = pytest.mark.usefixtures("no_gpu")


@pytest.fixture
def release(bundle: Path) -> Path:
    """A bundle of real weights with an INT8 candidate calibrated on real samples."""
    found = manifest.read(bundle)
    real = Calibration(False, 40, 20, "percentile", "0" * 64)
    remade(bundle, provenance=replace(found.provenance, weights="file", calibration=real))
    first, second, third = found.candidates
    remade(bundle, candidates=(first, replace(second, precision="int8"), third))
    return bundle


def remade(bundle: Path, **changes: Any) -> Manifest:
    return manifest.write(bundle, replace(manifest.read(bundle), **changes))


def failed(result: Result) -> list[str]:
    return [row.name for row in result.rows if row.outcome == "failed"]


def test_a_release_passes_and_what_is_for_another_target_stays_not_run(release: Path) -> None:
    result = check(release, strict=True)
    assert failed(result) == []
    rows = {row.name: row for row in result.rows}
    assert rows["target"].detail == "cpu: openvino fp32, onnxruntime int8"
    assert rows["tensorrt_rtx fp32"].outcome == "not run"
    assert main(["check", str(release), "--strict"]) == 0


def test_seeded_weights_are_no_release(release: Path) -> None:
    remade(release, provenance=replace(manifest.read(release).provenance, weights="seeded"))
    assert failed(check(release)) == []
    assert failed(check(release, strict=True)) == ["weights"]
    assert main(["check", str(release), "--strict"]) == 3


def test_synthetic_calibration_is_no_release(release: Path) -> None:
    synthetic = Calibration(True, 8, 8, "percentile", "0" * 64)
    remade(release, provenance=replace(manifest.read(release).provenance, calibration=synthetic))
    assert failed(check(release)) == []
    assert failed(check(release, strict=True)) == ["calibration"]


def test_an_engine_of_the_target_that_did_not_run_here_fails(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_openvino, "missing", lambda: "OpenVINO is not installed: pip install it")
    assert failed(check(release)) == []
    result = check(release, strict=True)
    assert failed(result) == ["openvino fp32"]
    (row,) = (row for row in result.rows if row.outcome == "failed")
    assert row.detail == ("not run, and --strict leaves nothing of cpu open: OpenVINO is not installed: pip install it")
    assert failed(check(release, strict=True, target="rtx")) == ["tensorrt_rtx fp32", "recorded: tensorrt_rtx fp32"]


def test_a_missing_audit_fails(release: Path) -> None:
    first, *others = manifest.read(release).candidates
    remade(release, candidates=(replace(first, coverage=None), *others))
    assert failed(check(release, strict=True)) == ["audit: openvino fp32"]


def test_a_target_for_which_nothing_is_shipped_fails(release: Path) -> None:
    result = check(release, strict=True, target="jetson")
    assert failed(result) == ["target"]
    assert result.rows[-1].detail == "nothing is shipped for jetson; there is something for cpu, rtx"


def test_what_ships_and_was_not_even_tried_fails(release: Path) -> None:
    found = manifest.read(release)
    crashed = replace(found, candidates=(*found.candidates[:1], replace(found.candidates[1], status="crashed")))
    rows = strictly(crashed, [Row("openvino fp32", "passed", "", candidate="openvino fp32")], "cpu")
    assert [(row.name, row.outcome) for row in rows] == [
        ("openvino fp32", "passed"),
        ("onnxruntime int8", "failed"),
        ("target", "passed"),
    ]


def test_options_that_leave_gates_out_are_refused(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="leaves some out"):
        check(release, strict=True, backend="openvino")
    for options in (["--strict", "--against", str(release), "--no-time"], ["--target", "cpu"], ["--no-time"]):
        assert main(["check", str(release), *options]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 2
