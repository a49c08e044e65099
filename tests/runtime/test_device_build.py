"""What a device does with the graphs of a bundle, with stand-ins for TensorRT and CUDA: no GPU runs in these tests."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest

from deploy_runtime import (
    DeployError,
    backend_tensorrt,
    device_audit,
    device_build,
    engine_key,
    load,
    manifest,
)
from deploy_runtime.__main__ import main
from deploy_runtime.check import check, verify
from deploy_runtime.errors import GateError
from deploy_runtime.evidence import Candidate, Manifest, Precision
from deploy_runtime.spec import Batch, Limit
from deploy_runtime.tensorrt_build import Settings
from tests.runtime import tiny_bundle
from tests.runtime.fake_cuda import Array, FakeCuda
from tests.runtime.fake_tensorrt import Fake

RELEASE = "tensorrt-10.3.0"
NODES = ("/stem/Conv", "/head/Gemm")
TOLD = json.dumps({"Layers": [
    {"Name": node, "LayerType": "CaskConvolution", "Metadata": f"[ONNX Layer: {node}]",
     "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP32"}]} for node in NODES
]})  # fmt: skip


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    """Give a machine that says it has a GPU and TensorRT, whose engines answer as the toy's graph does."""
    graph = onnx.reference.ReferenceEvaluator(onnx.load(tiny_bundle.write(tmp_path / "twin") / "graphs" / "fp32.onnx"))

    def runs(given: dict[str, Array]) -> dict[str, Array]:
        return {"logits": np.asarray(graph.run(None, given)[0])}  # type: ignore[index]

    fake = Fake(RELEASE, inputs=(("image", (-1, 3, 16, 16)),), told=TOLD, runs=runs)
    monkeypatch.setattr(backend_tensorrt, "missing", lambda: None)
    monkeypatch.setattr(backend_tensorrt, "libraries", lambda: (fake.module(), fake.cuda))
    return fake


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """Write a bundle of which a device builds int8 and fp32; layers.json says what TensorRT-RTX made of them."""
    folder = tiny_bundle.write(tmp_path / "shipped")
    return with_rows(folder, "fp32", "int8")


def with_rows(folder: Path, *precisions: Precision, also: tuple[str, ...] = ()) -> Path:
    found = manifest.read(folder)
    rows = [row for row in found.candidates if row.target == "cpu"]
    for precision in precisions:
        (folder / "graphs" / f"{precision}.onnx").write_bytes((folder / "graphs" / "fp32.onnx").read_bytes() + b"")
        changes: dict[str, Any] = {"backend": "tensorrt", "target": "igx", "status": "to_build", "coverage": None}
        rows.append(replace(rows[0], **changes, precision=precision, file=f"graphs/{precision}.onnx", also=also))
    tables = {"tensorrt_rtx fp32": [{"node": node, "op": "Conv", "precision": "fp32"} for node in NODES]}
    (folder / "layers.json").write_text(json.dumps(tables))
    loose = {"int8": Limit(cosine=0.9), "fp32": found.limits["fp32"]}
    manifest.write(folder, replace(found, candidates=tuple(rows), limits=loose))
    return folder


def here(fake: Fake) -> device_build.Apart:
    """Build in this process, with the stand-in."""

    def build(
        graph: Path, form: str, engine: Path, row: Candidate, found: Manifest, settings: Settings, said: Any
    ) -> str:
        nodes = tuple(device_audit.expected(graph.parents[1], row.precision))
        try:
            device_build.made_in(fake.module(), graph, form, engine, nodes, found, settings, said)
        except DeployError as error:
            return error.message
        return ""

    return build


def built(folder: Path, fake: Fake, every: bool = False) -> tuple[list[tuple[str, str]], list[str]]:
    heard: list[str] = []
    rows = device_build.build(folder, Settings(), every, heard.append, here(fake))
    return [(row.name, row.outcome) for row in rows], heard


def test_the_fastest_form_is_built_proved_and_then_loaded(shipped: Path, device: Fake) -> None:
    rows, _ = built(shipped, device)
    assert [row for row in rows if not row[0].startswith("audit")] == [("tensorrt int8 on igx", "passed")]
    with load(shipped) as model:
        assert (model.backend, model.precision) == ("tensorrt", "int8")
        answers = np.load(shipped / "golden" / "outputs.npz")["logits"]
        image = np.load(shipped / "golden" / "inputs.npz")["image"]
        for _ in range(3):  # plain, captured, launched again
            np.testing.assert_allclose(model.run({"image": image[:1]})["logits"], answers[:1], atol=1e-5)


def test_a_second_start_builds_nothing(shipped: Path, device: Fake) -> None:
    built(shipped, device)
    device.calls.clear()
    _, heard = built(shipped, device)
    assert "its engine stands here" in heard[0]
    assert not any("build_serialized_network" in call for call in device.calls)


def test_every_precision_is_built_where_that_is_asked_for(shipped: Path, device: Fake) -> None:
    rows, _ = built(shipped, device, every=True)
    assert {name for name, outcome in rows if outcome == "passed"} >= {"tensorrt int8 on igx", "tensorrt fp32 on igx"}


def test_a_changed_engine_is_not_run_and_is_built_again(shipped: Path, device: Fake) -> None:
    built(shipped, device)
    engine = engine_key.place(shipped / "graphs" / "int8.onnx", "10.3.0", Batch(1, 1, 1))
    engine.write_bytes(b"other")
    with pytest.raises(DeployError, match="was changed since it was built"):
        load(shipped, "tensorrt")
    _, heard = built(shipped, device)
    assert "built again" in heard[0]


def test_another_tensorrt_graph_or_batch_is_another_engine(shipped: Path) -> None:
    graphs = shipped / "graphs"
    (graphs / "fp32.onnx").write_bytes(b"another")
    places = {
        engine_key.place(graph, version, batch)
        for graph in (graphs / "int8.onnx", graphs / "fp32.onnx")
        for version in ("10.3.0", "10.16.2")
        for batch in (Batch(1, 1, 1), Batch(1, 4, 16))
    }
    assert len(places) == 8


def test_a_form_that_is_refused_gives_way_to_the_next(tmp_path: Path, device: Fake) -> None:
    folder = tiny_bundle.write(tmp_path / "forms")
    (folder / "graphs" / "other.onnx").write_bytes((folder / "graphs" / "fp32.onnx").read_bytes())
    with_rows(folder, "int8", also=("graphs/other.onnx",))
    seen: list[str] = []

    def apart(graph: Path, form: str, engine: Path, *rest: Any) -> str:
        seen.append(form)
        return "Q/DQ with fp16 scales" if form == "graphs/int8.onnx" else here(device)(graph, form, engine, *rest)

    device_build.build(folder, Settings(), False, lambda _: None, apart)
    assert seen == ["graphs/int8.onnx", "graphs/other.onnx"]
    made = engine_key.made(engine_key.place(folder / "graphs" / "int8.onnx", "10.3.0", Batch(1, 1, 1)))
    assert made is not None
    assert made.graph == "graphs/other.onnx"


def test_a_refused_precision_gives_way_to_the_next(shipped: Path, device: Fake) -> None:
    def apart(graph: Path, form: str, engine: Path, row: Candidate, *rest: Any) -> str:
        return "no int8 here" if row.precision == "int8" else here(device)(graph, form, engine, row, *rest)

    rows = device_build.build(shipped, Settings(), False, lambda _: None, apart)
    assert [(row.name, row.outcome) for row in rows if row.name == row.candidate] == [
        ("tensorrt int8 on igx", "failed"),
        ("tensorrt fp32 on igx", "passed"),
    ]
    assert "no int8 here" in rows[0].detail


def test_an_engine_that_answers_wrongly_is_not_loaded(shipped: Path, device: Fake) -> None:
    device.runs = lambda given: {"logits": np.zeros((len(given["image"]), 5), np.float32)}
    with pytest.raises(GateError, match="no engine of toy was built here that passes"):
        built(shipped, device)
    with load(shipped) as model:
        assert model.backend != "tensorrt"


def test_the_device_audits_what_it_built(shipped: Path, device: Fake) -> None:
    built(shipped, device, every=True)
    rows = {row.name: row for row in check(shipped).rows}
    assert rows["audit: tensorrt fp32 on igx"].outcome == "passed"
    assert rows["audit: tensorrt int8 on igx"].outcome == "failed", "the inspector tells of fp32"
    assert "/stem/Conv" in rows["audit: tensorrt int8 on igx"].detail


def test_without_an_engine_nothing_is_claimed(shipped: Path, device: Fake) -> None:
    rows = {row.name: row for row in check(shipped).rows}
    assert rows["tensorrt int8 on igx"].outcome == "not run"
    assert "no engine was built here" in rows["tensorrt int8 on igx"].detail
    assert rows["audit: tensorrt int8 on igx"].outcome == "not run"


def test_without_a_driver_it_says_so(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(shipped)]) == 1
    assert "NVIDIA driver" in capsys.readouterr().err


def test_a_bundle_without_graphs_for_a_device_says_how_to_make_one(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(bundle)]) == 1
    assert "deploy-compile package" in capsys.readouterr().err


@pytest.mark.parametrize("version", ["8.6.1", "10.2.0", "12.0.0"])
def test_another_tensorrt_is_refused(
    shipped: Path, device: Fake, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(backend_tensorrt, "version", lambda: version)
    with pytest.raises(DeployError, match=f"TensorRT {version} is installed"):
        built(shipped, device)


@pytest.mark.parametrize("what", ["memory", "disk"])
def test_too_little_room_is_said_before_the_build_begins(
    shipped: Path, device: Fake, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if what == "memory":
        monkeypatch.setattr(device_build, "free_memory", lambda: 2**20)
    else:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    with pytest.raises(DeployError, match=f"MiB of {what}, and 1 are free"):
        built(shipped, device)
    assert not any("build_serialized_network" in call for call in device.calls)


def test_the_plan_is_copied_for_a_server(shipped: Path, device: Fake, tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="no engine stands here"):
        device_build.plan(shipped, tmp_path / "model.plan")
    built(shipped, device)
    device_build.plan(shipped, tmp_path / "model.plan")
    assert (tmp_path / "model.plan").read_bytes() == b"engine of tensorrt-10.3.0"


def test_a_library_that_dies_in_its_process_is_a_reason(shipped: Path) -> None:
    """The real process: without a driver it says so; what dies without a word is told by its exit code."""
    row = manifest.read(shipped).candidates[-1]
    found = manifest.read(shipped)
    engine = shipped.parent / "x.engine"
    graph = shipped / "graphs" / "int8.onnx"
    told = device_build.built_apart(graph, "graphs/int8.onnx", engine, row, found, Settings(), lambda _: None)
    assert "NVIDIA driver" in told
    assert not engine.exists()


def test_where_a_run_cannot_be_captured_it_is_enqueued_each_time(shipped: Path, device: Fake) -> None:
    device.cuda = FakeCuda(captures=False)
    built(shipped, device)
    assert "cudaGraphLaunch" not in device.cuda.calls
    assert verify(shipped, "tensorrt").passed
    assert not device.cuda.memory, "all memory is given back"
