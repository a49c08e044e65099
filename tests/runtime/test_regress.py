"""A bundle made worse on purpose fails beside its base, with what became worse; its twin passes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy_runtime import DeployError, engine_process, manifest, slowdown
from deploy_runtime.__main__ import main
from deploy_runtime.changes import layers
from deploy_runtime.check import check
from deploy_runtime.evidence import Calibration, Manifest
from deploy_runtime.result import Result
from deploy_runtime.slowdown import Ratio
from deploy_runtime.spec import Batch, Limit
from tests.runtime import tiny_int8

INT8 = "onnxruntime int8"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_int8.write(tmp_path_factory.mktemp("regress") / "base")


@pytest.fixture
def twin(tmp_path: Path) -> Path:
    return tiny_int8.write(tmp_path / "twin")


def remade(bundle: Path, **changes: Any) -> Manifest:
    return manifest.write(bundle, replace(manifest.read(bundle), **changes))


def compared(bundle: Path, base: Path, **options: Any) -> Result:
    return check(bundle, against=base, **{"seconds": None, **options})


def failed(result: Result) -> dict[str, str]:
    return {row.name: row.detail for row in result.rows if row.outcome == "failed"}


def row(result: Result, name: str) -> Any:
    return next(row for row in result.rows if row.name == name)


def test_a_twin_passes_and_every_row_says_both_values(twin: Path, base: Path) -> None:
    result = compared(twin, base)
    assert failed(result) == {}
    drift = row(result, f"drift against base: {INT8}")
    assert [verdict.output for verdict in drift.verdicts] == 3 * ["golden logits"] + 3 * ["held-out logits"]
    assert drift.candidate == INT8
    assert "golden logits sqnr_db 45" in drift.detail
    assert "(base 45" in drift.detail
    assert row(result, "latency against base").outcome == "not run"
    assert main(["check", str(twin), "--against", str(base), "--no-time"]) == 0


def test_one_changed_scale_is_a_regression_that_the_bundles_own_gates_let_pass(tmp_path: Path, base: Path) -> None:
    worse = tiny_int8.write(tmp_path / "worse", scaled={"/block/pointwise/Conv": 1.05})
    assert check(worse).passed
    found = failed(compared(worse, base))
    assert list(found) == [f"drift against base: {INT8}"]
    assert found[f"drift against base: {INT8}"].startswith("WORSE golden logits sqnr_db 3")
    assert "WORSE held-out logits max_relative" in found[f"drift against base: {INT8}"]
    assert main(["check", str(worse), "--against", str(base), "--no-time"]) == 3


def test_a_scale_changed_behind_the_manifests_back_is_found_by_running_it(
    twin: Path, tmp_path: Path, base: Path
) -> None:
    worse = tiny_int8.write(tmp_path / "worse", scaled={"/head/Gemm": 1.02})
    (twin / "graphs" / "int8.onnx").write_bytes((worse / "graphs" / "int8.onnx").read_bytes())
    remade(twin)
    (detail,) = failed(compared(twin, base)).values()
    assert "WORSE golden" in detail
    assert "WORSE held-out" not in detail


def test_one_layer_back_to_float_is_a_regression_and_named(tmp_path: Path, base: Path) -> None:
    worse = tiny_int8.write(tmp_path / "worse", kept=["/block/depthwise/Conv"])
    assert check(worse).passed
    assert failed(compared(worse, base)) == {
        f"coverage: {INT8} against base": "3 heavy layers in 8 bits, base 4; "
        "wider now: /block/depthwise/Conv (int8 became fp32)"
    }
    (worse / "layers.json").unlink()
    remade(worse)
    assert failed(compared(worse, base)) == {f"coverage: {INT8} against base": "3 heavy layers in 8 bits, base 4"}
    assert f"coverage: {INT8} against base" not in failed(compared(base, worse))  # one more in INT8 is none


@pytest.mark.parametrize(
    ("ratios", "outcome", "runs"),
    [
        ([(1.20, 1.17, 1.23), (1.21, 1.18, 1.24)], "failed", 2),
        ([(1.20, 1.17, 1.23), (1.02, 1.00, 1.04)], "passed", 2),  # the neighbour's doing: it does not come back
        ([(1.12, 1.09, 1.15)], "passed", 1),  # the near end is within the allowance
        ([(1.30, 0.90, 1.80)], "not run", 1),
        ([(0.50, 0.49, 0.51)], "passed", 1),
    ],
)
def test_a_slowdown_counts_where_the_near_end_is_beyond_the_allowance_twice(
    ratios: list[tuple[float, float, float]],
    outcome: str,
    runs: int,
    twin: Path,
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = iter(ratios)
    monkeypatch.setattr(slowdown, "measure", lambda *given: Ratio(*next(measured), 12.0, 10.0, 50))
    result = compared(twin, base, seconds=1.0)
    assert row(result, slowdown.NAME).outcome == outcome
    assert list(measured) == ratios[runs:]
    assert list(failed(result)) == ([slowdown.NAME] if outcome == "failed" else [])


def test_recorded_times_of_an_engine_a_fifth_slower_fail_and_those_of_a_twin_pass(
    twin: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    drifting = (
        0.010 * (1 + 0.3 * np.sin(np.arange(200) / 20)) * rng.normal(1, 0.03, 200)
    )  # both meet the machine's mood

    def recorded(slower: float) -> Any:
        return lambda *given, **options: ({"new": drifting * slower * rng.normal(1, 0.03, 200), "base": drifting}, {})

    monkeypatch.setattr(engine_process, "times", recorded(1.2))
    latency = row(compared(twin, base, seconds=1.0), slowdown.NAME)
    assert latency.outcome == "failed"
    assert latency.verdicts[0].value > latency.verdicts[0].limit == slowdown.SLOWER
    monkeypatch.setattr(engine_process, "times", recorded(1.0))
    assert compared(twin, base, seconds=1.0).passed


def test_both_are_really_timed_each_in_a_process_of_its_own(twin: Path, base: Path) -> None:
    latency = row(compared(twin, base, seconds=1.0), slowdown.NAME)
    (verdict,) = latency.verdicts
    assert verdict.value > 0  # what it is depends on the machine's mood
    assert f"{INT8} " in latency.detail
    assert "rounds" in latency.detail


def test_an_engine_that_dies_or_fails_before_it_is_timed_is_not_run(
    twin: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_process, "times", lambda *given, **options: ({}, {"base": "it died while it was timed"}))
    latency = row(compared(twin, base, seconds=1.0), slowdown.NAME)
    assert (latency.outcome, latency.detail) == ("not run", f"base's {INT8}: it died while it was timed")
    strict = compared(twin, base, strict=True, seconds=1.0)
    assert slowdown.NAME in failed(strict)


def test_bundles_of_different_recipes_are_refused(twin: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    remade(twin, recipe="another")
    with pytest.raises(DeployError, match=r"is of the recipe another and the base .* of toy"):
        compared(twin, base)
    assert main(["check", str(twin), "--against", str(base)]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 2


def test_a_damaged_base_is_refused(twin: Path, tmp_path: Path) -> None:
    damaged = tiny_int8.write(tmp_path / "damaged")
    (damaged / "graphs" / "fp32.onnx").write_bytes(b"no graph")
    with pytest.raises(DeployError, match=r"damaged/graphs/fp32\.onnx has 8 bytes"):
        compared(twin, damaged)
    with pytest.raises(DeployError, match="does not exist"):
        compared(twin, tmp_path / "nowhere")


def test_more_bytes_are_a_regression(twin: Path, base: Path) -> None:
    graph = twin / "graphs" / "int8.onnx"
    model = graph.read_bytes()
    more = len(model) // 10
    unknown_field = b"\xba\x3e" + bytes([more & 0x7F | 0x80, more >> 7])  # protobuf readers skip it: number 999, bytes
    graph.write_bytes(model + unknown_field + b"x" * more)
    remade(twin)
    (name, detail), *_ = failed(compared(twin, base)).items()
    assert name == "size against base"
    assert "bytes, base" in detail


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch": Batch(1, 2, 4)}, 'batch {"best": 1, "least": 1, "most": 1} became {"best": 2,'),
        ({"labels": ("b", "a", "c", "d", "e")}, 'labels ["a", "b", "c", "d", "e"] became ["b", "a",'),
        ({"preprocess": None}, "preprocess {"),
    ],
)
def test_an_interface_that_changed_fails_with_what_changed(
    changes: dict[str, Any], said: str, twin: Path, base: Path
) -> None:
    remade(twin, **changes)
    assert said in failed(compared(twin, base))["interface against base"]


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (Limit(cosine=0.98, sqnr_db=18.0), "int8 cosine 0.99 became 0.98"),
        (Limit(cosine=0.99, reason="noisy"), "int8 sqnr_db 18 became not judged (noisy)"),
        (Limit(cosine=0.99, sqnr_db=18, outputs={"logits": Limit(sqnr_db=9)}), "int8 logits sqnr_db 18 became 9"),
    ],
)
def test_a_loosened_limit_fails_and_a_tightened_one_passes(limit: Limit, said: str, twin: Path, base: Path) -> None:
    found = manifest.read(twin)
    remade(twin, limits={**found.limits, "int8": limit})
    assert said in failed(compared(twin, base))["limits against base"]
    remade(twin, limits={**found.limits, "int8": Limit(cosine=0.995, sqnr_db=20.0)})
    assert "limits against base" not in failed(compared(twin, base))


def test_another_choice_is_told_of_and_a_lost_engine_fails(twin: Path, base: Path) -> None:
    found = manifest.read(twin)
    remade(twin, chosen=1, fallback=None)
    chosen = row(compared(twin, base), "chosen against base")
    assert (chosen.outcome, chosen.notice) == ("passed", True)
    assert chosen.detail.startswith("onnxruntime int8 became onnxruntime fp32.")
    int8 = replace(found.candidates[0], status="failed", file=None, reason="cosine 0.9, limit 0.99")
    remade(twin, candidates=(int8, found.candidates[1]))
    assert failed(compared(twin, base))["engines against base"] == (
        "no longer shipped: onnxruntime int8 (failed: cosine 0.9, limit 0.99)"
    )
    refused = replace(int8, status="refused", reason="this processor has no bf16")
    remade(twin, candidates=(refused, found.candidates[1]))
    engines = row(compared(twin, base), "engines against base")
    assert (engines.outcome, engines.notice) == ("passed", True)


def test_other_golden_samples_are_answered_by_the_new_engine_where_the_weights_are_the_same(
    tmp_path: Path, base: Path
) -> None:
    other = tiny_int8.write(tmp_path / "other", seed=5)
    drift = row(compared(other, base), f"drift against base: {INT8}")
    assert drift.outcome == "passed"
    assert drift.verdicts[0].value == row(compared(base, base), drift.name).verdicts[0].value
    remade(other, provenance=replace(manifest.read(other).provenance, weights_sha256="1" * 64))
    drift = row(compared(other, base), drift.name)
    assert [verdict.output for verdict in drift.verdicts] == 3 * ["held-out logits"]
    assert drift.detail.endswith("golden samples not compared: both the golden samples and the weights are others")
    calibration = Calibration(False, 9, 9, "auto", "2" * 64)
    remade(other, provenance=replace(manifest.read(other).provenance, calibration=calibration))
    drift = row(compared(other, base), drift.name)
    assert drift.outcome == "not run"
    assert drift.detail.endswith("held-out drift not compared: it was measured on other samples")


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": [{}]}', b'{"a": 1}', b"[" * 100_000])
def test_a_table_of_layers_that_cannot_be_read_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "layers.json").write_bytes(content)
    with pytest.raises(DeployError, match="is no table of layers"):
        layers(tmp_path)


def test_json_carries_the_values_of_both(twin: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(twin), "--against", str(base), "--no-time", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["bundles"][0]["rows"]
    (drift,) = (row for row in rows if row["name"] == f"drift against base: {INT8}")
    assert drift["candidate"] == INT8
    assert {verdict["metric"] for verdict in drift["verdicts"]} == {"sqnr_db", "max_relative", "agreement"}


def test_several_bundles_are_each_compared(twin: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(twin), str(base), "--against", str(base), "--no-time"]) == 0
    assert capsys.readouterr().out.count("the same weights, the same calibration") == 2


def test_float_rounding_is_no_regression(twin: Path, base: Path) -> None:
    found = manifest.read(twin)
    (drift,) = found.candidates[1].drift
    rounded = replace(drift, sqnr_db=drift.sqnr_db - 12, max_relative=drift.max_relative * 4)
    remade(twin, candidates=(found.candidates[0], replace(found.candidates[1], drift=(rounded,))))
    result = compared(twin, base)
    assert failed(result) == {}
    assert ": float rounding)" in row(result, "drift against base: onnxruntime fp32").detail
    off = replace(drift, sqnr_db=85.0, max_relative=5e-5)  # within the limits, and no rounding
    remade(twin, candidates=(found.candidates[0], replace(found.candidates[1], drift=(off,))))
    assert list(failed(compared(twin, base))) == ["drift against base: onnxruntime fp32"]
