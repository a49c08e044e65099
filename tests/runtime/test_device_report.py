import json
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest

from deploy_runtime import cuda
from deploy_runtime.__main__ import main

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "device-report.schema.json").read_text())


def test_a_report_is_as_its_schema_says_and_names_nobody(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    assert main(["verify", str(bundle), "--report", str(path)]) == 0
    report = json.loads(path.read_text())
    jsonschema.validate(report, SCHEMA)
    assert report["passed"]
    assert {one["candidate"] for one in report["times"]} == {"openvino fp32", "onnxruntime fp32"}
    assert all(one["runs"] >= 8 and one["p50_ms"] <= one["p90_ms"] for one in report["times"])
    if cuda.driver() is not None:
        assert report["machine"]["compute_capability"] is None
        assert any(row["outcome"] == "not run" for row in report["rows"])
    assert str(tmp_path) not in path.read_text()


def test_what_fails_is_reported_too(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    from deploy_runtime import manifest

    answers = dict(np.load(bundle / "golden" / "outputs.npz"))
    np.savez(bundle / "golden" / "outputs.npz", logits=answers["logits"] + 1)
    manifest.write(bundle, manifest.read(bundle))
    path = tmp_path / "report.json"
    assert main(["verify", str(bundle), "--report", str(path)]) == 3
    report = json.loads(path.read_text())
    jsonschema.validate(report, SCHEMA)
    assert not report["passed"]
    assert report["times"] == []
    assert "FAILED" in capsys.readouterr().out


def test_a_report_that_cannot_be_written_is_told(bundle: Path, tmp_path: Path) -> None:
    assert main(["verify", str(bundle), "--report", str(tmp_path / "no" / "report.json")]) == 1
