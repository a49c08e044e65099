"""`doctor BUNDLE`: what will and will not work on a device, said before anyone walks there."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy_compile import memory
from deploy_compile.__main__ import main
from deploy_compile.doctor_bundle import examine_bundle, judge
from deploy_compile.targets import names
from deploy_runtime import manifest as manifests
from deploy_runtime.errors import DeployError, GateError
from deploy_runtime.evidence import Candidate
from deploy_runtime.spec import Batch
from tests.runtime import tiny_bundle, tiny_stream
from tests.runtime.tiny_bundle import changed, for_device


def doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    """Run the command; return its exit code, what it printed on one line, and its errors."""
    monkeypatch.setattr(sys, "argv", ["deploy-compile", "doctor", *words])
    code = 0
    try:
        main()
    except SystemExit as stopped:
        code = int(str(stopped.code))
    said = capsys.readouterr()
    return code, " ".join(said.out.split()), said.err


def one(bundle: Path, target: str) -> dict[str, Any]:
    (found,) = examine_bundle(bundle, (target,))["targets"]
    assert found["target"] == target
    return dict(found)


def states(found: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(row["backend"], row["precision"]): row["state"] for row in found["precisions"]}


def said(found: dict[str, Any], level: str) -> str:
    return "\n".join(finding["text"] for finding in found["findings"] if finding["level"] == level)


def with_row(bundle: Path, row: Candidate) -> Path:
    return changed(bundle, candidates=(*manifests.read(bundle).candidates, row))


def test_what_ran_here_will_work(tmp_path: Path) -> None:
    found = one(tiny_bundle.write(tmp_path / "bundle"), "cpu")
    assert found["served"]
    assert found["run_on_hardware"]
    assert states(found)["openvino", "fp32"] == states(found)["onnxruntime", "fp32"] == "passed"
    assert states(found)["openvino", "int8"] == "missing"
    assert "--int8 --target cpu" in said(found, "note")


def test_what_was_only_built_is_never_said_to_have_run(tmp_path: Path) -> None:
    found = one(tiny_bundle.write(tmp_path / "bundle"), "rtx")
    assert found["served"]
    assert not found["run_on_hardware"]
    assert states(found)["tensorrt_rtx", "fp32"] == "built_not_run"
    assert found["proof"] == "python -m deploy_runtime verify BUNDLE"
    assert found["building"] is None
    assert found["gpus"] == ["sm86", "sm89", "sm120"]


def test_engines_for_some_gpus_only_say_for_which(tmp_path: Path) -> None:
    bundle = tiny_bundle.write(tmp_path / "bundle")
    made = manifests.read(bundle).provenance
    changed(bundle, provenance=replace(made, options={"compute_capabilities": "sm89"}))
    assert one(bundle, "rtx")["gpus"] == ["sm89"]
    assert one(for_device(bundle), "jetson-jp6")["gpus"] == ["sm87"]


def test_a_device_is_told_what_it_needs_and_what_is_known_of_it(tmp_path: Path) -> None:
    found = one(for_device(tiny_bundle.write(tmp_path / "bundle"), "jetson-jp7-orin"), "jetson-jp7-orin")
    assert found["served"]
    assert not found["run_on_hardware"]
    assert (found["python"], found["library"]) == ("3.12", "TensorRT 10.16.2")
    assert found["proof"] == "python -m deploy_runtime build BUNDLE"
    graph = (tmp_path / "bundle" / "graphs" / "fp32.onnx").stat().st_size
    assert found["building"] == {"disk_bytes": 2 * graph + 2**29, "memory_bytes": 4 * graph + 2**29}
    assert states(found) == {
        ("tensorrt", "fp32"): "to_build",
        ("tensorrt", "fp16"): "missing",
        ("tensorrt", "int8"): "missing",
        ("tensorrt", "int8_fp16"): "to_build",
    }
    assert "refuses Q/DQ nodes with fp16 scales" in said(found, "known")
    assert "--fp16 --int8" in said(found, "note")
    assert said(found, "warning") == ""  # the tiny bundle's TensorRT-RTX engine was compiled


@pytest.mark.parametrize("status", ["refused", "rejected", "crashed"])
def test_what_the_real_parser_refused_is_an_error_for_rtx_and_a_doubt_for_tensorrt(tmp_path: Path, status: str) -> None:
    row = Candidate("tensorrt_rtx", "int8", "rtx", status, reason="Einsum /a: not supported")  # type: ignore[arg-type]
    bundle = with_row(for_device(tiny_bundle.write(tmp_path / "bundle")), row)
    rtx, jetson = one(bundle, "rtx"), one(bundle, "jetson-jp6")
    assert states(rtx)["tensorrt_rtx", "int8"] == status
    assert f"int8 {status}: Einsum /a: not supported" in said(rtx, "error")
    assert said(jetson, "error") == ""
    assert "Einsum /a: not supported" in said(jetson, "warning")
    assert "may take it" in said(jetson, "warning")


def test_graphs_that_no_parser_has_seen_are_a_doubt(tmp_path: Path) -> None:
    bundle = for_device(tiny_stream.write(tmp_path / "bundle"))
    assert "--target rtx" in said(one(bundle, "jetson-jp6"), "warning")


def test_what_failed_says_why(tmp_path: Path) -> None:
    bundle = with_row(
        tiny_bundle.write(tmp_path / "bundle"), Candidate("openvino", "int8", "cpu", "failed", reason="12 dB, limit 18")
    )
    found = one(bundle, "cpu")
    assert states(found)["openvino", "int8"] == "failed"
    assert "openvino int8 failed: 12 dB, limit 18" in said(found, "note")


def test_where_nothing_serves_the_gate_fails_with_the_command(tmp_path: Path) -> None:
    examined = examine_bundle(tiny_bundle.write(tmp_path / "bundle"), ("cpu", "rtx-turing"))
    assert [target["served"] for target in examined["targets"]] == [True, False]
    with pytest.raises(GateError, match="nothing in toy can serve rtx-turing") as error:
        judge(examined)
    assert "--target rtx-turing" in error.value.fix


def test_a_row_that_passed_nothing_serves_nothing(tmp_path: Path) -> None:
    bundle = with_row(
        tiny_bundle.write(tmp_path / "bundle"), Candidate("tensorrt", "fp32", "jetson-jp6", "to_build", emulated=True)
    )
    found = one(bundle, "jetson-jp6")
    assert not found["served"]
    assert states(found)["tensorrt", "fp32"] == "not_shipped"


def test_an_engine_that_was_not_asked_for_is_said_to_be_left_out(tmp_path: Path) -> None:
    row = Candidate("tensorrt_rtx", "int8", "rtx", "built_not_run", reason="built here, not run on hardware")
    found = one(with_row(tiny_bundle.write(tmp_path / "bundle"), row), "rtx")
    assert states(found)["tensorrt_rtx", "int8"] == "not_shipped"
    assert "tensorrt_rtx int8 was built and does not ship" in said(found, "note")


def test_the_targets_of_the_bundle_are_looked_at_where_none_is_named(tmp_path: Path) -> None:
    examined = examine_bundle(for_device(tiny_bundle.write(tmp_path / "bundle")), ())
    assert [target["target"] for target in examined["targets"]] == ["cpu", "rtx", "jetson-jp6"]


def test_batch_and_stream(tmp_path: Path) -> None:
    stream = examine_bundle(tiny_stream.write(tmp_path / "stream", Batch(1, 2, 4)), ())
    assert stream["streams"]
    assert stream["batch"] == {"least": 1, "best": 2, "most": 4}
    assert not examine_bundle(tiny_bundle.write(tmp_path / "whole"), ())["streams"]


def test_sizes_are_those_of_the_files_and_memory_grows_with_the_batch(tmp_path: Path) -> None:
    one_sample, four = (tiny_bundle.write(tmp_path / f"b{most}", batch=Batch(1, 1, most)) for most in (1, 4))
    examined = examine_bundle(one_sample, ("cpu",))
    assert examined["bytes"] == sum(path.stat().st_size for path in one_sample.rglob("*") if path.is_file())
    row = examined["targets"][0]["precisions"][0]
    graph = one_sample / "graphs" / "fp32.onnx"
    assert row["bytes"] == graph.stat().st_size
    assert examined["targets"][0]["disk_bytes"] == examined["bytes"] + row["bytes"]
    # the largest node is a convolution of 8 maps to 8 maps of 16 x 16, or the Add of two such: three of them
    assert memory.working_bytes(graph, 1) == 3 * 8 * 16 * 16 * 4
    exchanged = (3 * 16 * 16 + 5) * 4
    assert row["memory_bytes"] == row["bytes"] + exchanged + 3 * 8 * 16 * 16 * 4
    larger = examine_bundle(four, ("cpu",))["targets"][0]["precisions"][0]
    assert larger["memory_bytes"] - larger["bytes"] == 4 * (row["memory_bytes"] - row["bytes"])


def test_a_damaged_bundle_is_no_bundle(tmp_path: Path) -> None:
    bundle = tiny_bundle.write(tmp_path / "bundle")
    (bundle / "golden" / "inputs.npz").unlink()
    with pytest.raises(DeployError, match="lacks golden"):
        examine_bundle(bundle, ())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = str(for_device(tiny_bundle.write(tmp_path / "bundle")))
    code, told, _ = doctor(capsys, monkeypatch, bundle)
    assert code == 0
    assert "cpu: will work" in told
    proof = "the proof is `python -m deploy_runtime build BUNDLE` there"
    assert f"jetson-jp6: should work, not run on hardware: {proof}" in told
    assert "the device needs Python 3.10, TensorRT 10.3" in told
    assert "512.0 MiB of disk and 512.0 MiB of memory must be free" in told
    assert "seeded" in told
    code, told, errors = doctor(capsys, monkeypatch, bundle, "--target", "rtx-turing")
    assert code == 3
    assert "rtx-turing: nothing in the bundle can serve it" in told
    assert "error: nothing in toy can serve rtx-turing" in errors


def test_json_is_one_object_whatever_the_exit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = str(tiny_bundle.write(tmp_path / "bundle"))
    code, told, _ = doctor(capsys, monkeypatch, bundle, "--target", "rtx-turing", "--json")
    assert code == 3
    assert json.loads(told)["targets"][0]["served"] is False
    code, told, _ = doctor(capsys, monkeypatch, bundle, "--json")
    assert code == 0
    assert json.loads(told)["sha256"] == manifests.digest(Path(bundle))


def test_an_unknown_target_is_answered_with_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = str(tiny_bundle.write(tmp_path / "bundle"))
    code, _, errors = doctor(capsys, monkeypatch, bundle, "--target", "jetson")
    assert code == 2
    assert "there is no target 'jetson'" in errors


@pytest.mark.parametrize("command", ["doctor", "recipe"])
def test_the_help_lists_every_target(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["deploy-compile", command, "--help"])
    main()
    told = "".join(capsys.readouterr().out.split())  # a name may be broken at its hyphen
    assert all(name in told for name in names())


def test_a_device_is_served_by_the_graphs_of_another_gpu_and_is_told_so(tmp_path: Path) -> None:
    found = one(tiny_bundle.write(tmp_path / "bundle"), "igx")
    assert found["served"]
    assert states(found)["tensorrt", "fp32"] == "to_build"
    assert "fp32 from the graphs of another GPU: deploy-compile package BUNDLE --target igx" in said(found, "note")
