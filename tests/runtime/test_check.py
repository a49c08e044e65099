"""Verify and check: what runs is judged, what does not run is never a pass, and every format says the same."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from deploy_runtime import DeployError, backend_onnxruntime, backend_openvino, backend_tensorrt_rtx, manifest, proof
from deploy_runtime.__main__ import main
from deploy_runtime.check import check, verify
from deploy_runtime.evidence import Coverage, Manifest
from deploy_runtime.golden import outputs
from deploy_runtime.report_formats import as_json, junit, text
from deploy_runtime.result import Result, Row
from deploy_runtime.session import Array, Session
from deploy_runtime.spec import Batch
from tests.runtime import tiny_bundle

pytestmark = pytest.mark.usefixtures("no_gpu")


def outcomes(result: Result) -> dict[str, str]:
    return {row.name: row.outcome for row in result.rows}


def remade(bundle: Path, **changes: Any) -> Manifest:
    return manifest.write(bundle, replace(manifest.read(bundle), **changes))


def test_a_good_bundle_passes_and_what_did_not_run_is_said(bundle: Path) -> None:
    result = verify(bundle)
    assert outcomes(result) == {
        "files": "passed",
        "openvino fp32": "passed",
        "onnxruntime fp32": "passed",
        "tensorrt_rtx fp32": "not run",
    }
    assert result.passed
    assert [v.metric for v in result.rows[1].verdicts] == ["max_relative", "agreement"]
    assert result.rows[3].detail == "no NVIDIA driver found"


def test_an_engine_that_answers_otherwise_fails(bundle: Path) -> None:
    path = bundle / "golden" / "outputs.npz"
    answers = np.load(path)["logits"]
    np.savez(path, logits=answers * 1.01)
    remade(bundle)
    result = verify(bundle)
    assert outcomes(result)["openvino fp32"] == "failed"
    assert not result.passed
    assert "FAILED logits max_relative" in result.rows[1].detail
    assert main(["verify", str(bundle)]) == 3


def test_a_backend_that_is_not_installed_is_not_run_and_nothing_run_is_a_failure(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_openvino, "find_spec", lambda name: None)
    result = verify(bundle)
    assert outcomes(result)["openvino fp32"] == "not run"
    assert result.passed
    monkeypatch.setattr(backend_onnxruntime, "find_spec", lambda name: None)
    result = verify(bundle)
    assert outcomes(result)["golden samples"] == "failed"
    assert not result.passed
    with pytest.raises(DeployError, match="openvino cannot be used here"):
        verify(bundle, backend="openvino")


def test_one_backend_may_be_asked_for(bundle: Path) -> None:
    assert list(outcomes(verify(bundle, backend="onnxruntime"))) == ["files", "onnxruntime fp32"]


def test_what_a_library_refuses_is_a_failed_row(bundle: Path) -> None:
    (bundle / "graphs" / "fp32.onnx").write_bytes(b"no graph")
    remade(bundle)
    result = verify(bundle)
    assert outcomes(result)["openvino fp32"] == "failed"
    assert "cannot open" in result.rows[1].detail


class Echo(Session):
    """Answers from the golden file: stands for a GPU engine where only the record of its verify is tested."""

    answers: Array

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        first, type(self).answers = self.answers[:1], self.answers[1:]
        return {"logits": first}

    def close(self) -> None:
        """Nothing to give back."""


def test_an_engine_that_was_never_run_is_remembered_when_it_passes(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Echo.answers = np.load(bundle / "golden" / "outputs.npz")["logits"]
    monkeypatch.setattr(backend_tensorrt_rtx, "missing", lambda: None)
    monkeypatch.setattr(backend_tensorrt_rtx, "version", lambda: "1.7")
    monkeypatch.setattr(backend_tensorrt_rtx, "open", lambda *given: Echo())
    engine, digest = manifest.read(bundle).candidates[2], manifest.digest(bundle)
    assert not proof.kept(digest, engine)
    assert outcomes(verify(bundle, backend="tensorrt_rtx"))["tensorrt_rtx fp32"] == "passed"
    assert proof.kept(digest, engine)


class Doubling(Session):
    def __init__(self) -> None:
        self.sizes: list[int] = []

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        self.sizes.append(len(inputs["x"]))
        return {"y": inputs["x"] * 2}

    def close(self) -> None:
        """Nothing to give back."""


@pytest.mark.parametrize(("batch", "sizes"), [(Batch(3, 3, 3), [3, 3, 3]), (Batch(1, 4, 8), [4, 3])])
def test_samples_run_in_the_batches_that_are_served(batch: Batch, sizes: list[int]) -> None:
    x, session = np.arange(7, dtype=np.float32)[:, None], Doubling()
    np.testing.assert_array_equal(outputs(session, {"x": x}, batch)["y"], x * 2)
    assert session.sizes == sizes


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "does not hold"), (b"PK", "does not hold"), (b"\x93NUMPY", "does not hold")],
)
def test_golden_samples_that_cannot_be_read_are_an_error(bundle: Path, content: bytes, said: str) -> None:
    (bundle / "golden" / "inputs.npz").write_bytes(content)
    remade(bundle)
    with pytest.raises(DeployError, match=said):
        verify(bundle)


def test_golden_samples_of_another_shape_or_with_code_are_an_error(bundle: Path) -> None:
    path = bundle / "golden" / "inputs.npz"
    for image in (np.zeros((2, 3, 16, 16), np.float32), np.array([{"a": 1}], dtype=object)):
        np.savez(path, image=image)
        remade(bundle)
        with pytest.raises(DeployError, match=r"golden inputs|samples as"):
            verify(bundle)


def test_a_whole_check_passes_and_says_that_the_weights_are_seeded(bundle: Path) -> None:
    result = check(bundle)
    assert result.passed
    rows = {row.name: row for row in result.rows}
    assert rows["chosen"].detail.startswith("openvino fp32: passed")
    assert rows["audit: openvino fp32"].detail == "heavy layers: 4 in fp32"
    assert rows["recorded: tensorrt_rtx fp32"].outcome == "not run"
    assert "not a model to ship" in rows["weights"].detail
    assert rows["weights"].notice


def test_a_chosen_candidate_that_did_not_pass_fails(bundle: Path) -> None:
    rows = manifest.read(bundle).candidates
    remade(bundle, candidates=(replace(rows[0], status="built_not_run"), *rows[1:]))
    assert outcomes(check(bundle))["chosen"] == "failed"


def test_a_breach_and_a_missing_audit_fail(bundle: Path) -> None:
    rows = manifest.read(bundle).candidates
    breach = Coverage({"fp32": 1, "int8": 3}, {"fp32": 0.5, "int8": 0.5}, ("/stem/Conv",))
    remade(bundle, candidates=(replace(rows[0], coverage=breach), replace(rows[1], coverage=None), rows[2]))
    result = check(bundle)
    assert outcomes(result)["audit: openvino fp32"] == "failed"
    assert outcomes(result)["audit: onnxruntime fp32"] == "failed"
    assert any("/stem/Conv" in row.detail for row in result.rows)


def test_a_recorded_verdict_that_its_own_drift_denies_fails(bundle: Path) -> None:
    rows = manifest.read(bundle).candidates
    far = replace(rows[0].drift[0], max_relative=0.5)
    failing = replace(rows[1].verdicts[0], passed=False)
    remade(bundle, candidates=(replace(rows[0], drift=(far,)), replace(rows[1], verdicts=(failing,)), rows[2]))
    found = outcomes(check(bundle))
    assert found["recorded parity: openvino fp32"] == "failed"
    assert found["recorded parity: onnxruntime fp32"] == "failed"


def test_int8_without_a_record_of_its_calibration_fails_and_synthetic_samples_are_told_of(bundle: Path) -> None:
    found = manifest.read(bundle)
    remade(
        bundle, candidates=(*found.candidates[:1], replace(found.candidates[1], precision="int8"), found.candidates[2])
    )
    (row,) = (row for row in check(bundle).rows if row.name == "calibration")
    assert (row.outcome, row.notice) == ("passed", True)
    assert row.detail.startswith("synthetic: 8 samples")
    remade(bundle, provenance=replace(found.provenance, calibration=None))
    assert outcomes(check(bundle))["calibration"] == "failed"


def test_an_engine_that_nobody_had_run_counts_where_it_passes_here(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert outcomes(check(bundle))["recorded: tensorrt_rtx fp32"] == "not run"
    Echo.answers = np.load(bundle / "golden" / "outputs.npz")["logits"]
    monkeypatch.setattr(backend_tensorrt_rtx, "missing", lambda: None)
    monkeypatch.setattr(backend_tensorrt_rtx, "version", lambda: "1.7")
    monkeypatch.setattr(backend_tensorrt_rtx, "open", lambda *given: Echo())
    assert outcomes(check(bundle))["recorded: tensorrt_rtx fp32"] == "passed"


def test_every_format_says_the_same() -> None:
    rows = (
        Row("files", "passed", "3 files"),
        Row("openvino int8", "failed", "FAILED <&> \x00 cosine", seconds=0.5),
        Row("tensorrt_rtx int8", "not run", "no NVIDIA driver found"),
    )
    result = Result("a bundle", "ab" * 32, rows)
    words = text(result)
    assert "not run  tensorrt_rtx int8  no NVIDIA driver found" in words
    assert words.endswith("FAILED: 1 of 3, 1 not run")
    suite = ElementTree.fromstring(junit([result]))[0]
    assert suite.attrib["tests"] == "3"
    assert suite.attrib["failures"] == "1"
    assert suite.attrib["skipped"] == "1"
    assert [child.tag for case in suite for child in case] == ["system-out", "failure", "skipped"]
    assert suite[1][0].attrib["message"] == "FAILED <&>  cosine"
    data = json.loads(json.dumps(as_json([result]), allow_nan=False))
    assert data["passed"] is False
    assert [row["outcome"] for row in data["bundles"][0]["rows"]] == ["passed", "failed", "not run"]


def test_a_tiny_bundle_is_what_the_other_tests_take_it_for(bundle: Path) -> None:
    assert manifest.read(bundle).golden.samples == tiny_bundle.SAMPLES


def test_where_nothing_could_be_run_by_the_builder_the_first_one_is_open_until_it_passes_here(bundle: Path) -> None:
    rows = [replace(row, status="built_not_run") for row in manifest.read(bundle).candidates]
    remade(bundle, candidates=tuple(rows))
    found = {row.name: row for row in check(bundle).rows}
    assert found["chosen"].outcome == "passed"
    assert "the golden samples pass here" in found["chosen"].detail
    remade(bundle, candidates=(rows[2],), chosen=0, fallback=None)
    assert outcomes(check(bundle))["chosen"] == "not run"
