"""Another machine times what a bundle ships, and takes its own best from then on."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy_runtime import load, machine, manifest, preference
from deploy_runtime.__main__ import main
from deploy_runtime.errors import GateError
from deploy_runtime.preference import Preference, Timed
from deploy_runtime.reselect import reselect
from tests.runtime import tiny_bundle

pytestmark = pytest.mark.usefixtures("no_gpu")

MADE = Preference("onnxruntime fp32", 1, "2026-11-21", (Timed("onnxruntime fp32", 1.0, 1.0, 1.0, 1.0),))


def remember(bundle: Path, found: Preference = MADE) -> Path:
    return preference.keep(manifest.digest(bundle), manifest.read(bundle).candidates[:2], found)


def backend(bundle: Path, asked: str | None = None) -> str:
    with load(bundle, asked) as model:
        return model.backend


def test_every_candidate_that_passes_is_timed_and_the_choice_is_remembered(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reselect", str(bundle), "--threads", "1", "--seconds", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {one["candidate"] for one in told["timed"]} == {"openvino fp32", "onnxruntime fp32"}
    assert all(one["lag_low"] <= one["lag"] <= one["lag_high"] for one in told["timed"])
    assert min(one["lag"] for one in told["timed"]) == 1.0
    with load(bundle) as model:
        assert f"{model.backend} {model.precision}" == told["chosen"]
        assert f"{told['chosen']} was the best here on" in model.why


def test_a_candidate_that_answers_wrongly_here_is_passed_over(bundle: Path) -> None:
    answers = dict(np.load(bundle / "golden" / "outputs.npz"))
    np.savez(bundle / "golden" / "outputs.npz", logits=answers["logits"] + 1)
    manifest.write(bundle, manifest.read(bundle))
    with pytest.raises(GateError, match="no candidate of toy passes here") as caught:
        reselect(bundle, 1, 1.0)
    assert "FAILED logits max_relative" in caught.value.fix


def test_one_that_cannot_be_opened_is_passed_over_and_the_others_are_timed(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / "graphs" / "other.onnx").write_bytes(b"no graph")
    found = manifest.read(bundle)
    broken = replace(found.candidates[1], file="graphs/other.onnx")
    manifest.write(bundle, replace(found, candidates=(found.candidates[0], broken, found.candidates[2])))
    assert main(["reselect", str(bundle), "--threads", "1", "--seconds", "1"]) == 0
    told = capsys.readouterr().out
    assert "-> openvino fp32" in told
    assert "onnxruntime fp32         passed over: " in told


def test_the_remembered_choice_comes_first_unless_a_backend_is_asked_for(bundle: Path) -> None:
    assert backend(bundle) == "openvino"
    remember(bundle)
    assert backend(bundle) == "onnxruntime"
    assert backend(bundle, "openvino") == "openvino"


def test_it_holds_for_this_bundle_on_this_machine_with_these_libraries(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = remember(bundle)
    other = tiny_bundle.write(tmp_path / "other", name="another")
    assert backend(other) == "openvino"
    with monkeypatch.context() as patch:
        patch.setattr(machine, "fingerprint", lambda: "another machine")
        assert backend(bundle) == "openvino"
    path.write_text(path.read_text().replace('"onnxruntime": "', '"onnxruntime": "0.'))
    assert backend(bundle) == "openvino"


@pytest.mark.parametrize("content", [b"", b"{", b'{"machine": 1}', b'{"preference": {}}'])
def test_a_damaged_record_is_as_none(bundle: Path, content: bytes) -> None:
    remember(bundle).write_bytes(content)
    assert backend(bundle) == "openvino"


@pytest.mark.parametrize("given", ["0", "-1", "two"])
def test_threads_are_a_number_from_one(bundle: Path, given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["reselect", str(bundle), "--threads", given])
    assert caught.value.code == 2
    assert "threads" in capsys.readouterr().err
