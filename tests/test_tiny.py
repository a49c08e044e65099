"""The public promise in one place: a small net goes from a recipe to a bundle to an answer, on the CPU."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploy_compile.__main__ import main
from deploy_compile.report_html import page
from deploy_compile.results import Layer
from deploy_runtime import load
from deploy_runtime import manifest as manifests

NETS = Path(__file__).parent / "tiny_nets.py"
COMMAND = ["deploy-compile", "recipe", f"{NETS}:tiny", "--int8", "--out"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, stages: Path) -> Path:
    """`deploy-compile recipe tiny_nets.py:tiny --int8`."""
    place = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOY_CACHE", str(stages))
        patch.setattr(
            sys, "argv", ["deploy-compile", "recipe", f"{NETS}:tiny", "--int8", "--out", str(place / "bundle")]
        )
        main()
    return place / "bundle"


def test_the_bundle_answers_as_pytorch_did(bundle: Path) -> None:
    golden_in = np.load(bundle / "golden" / "inputs.npz")["image"]
    golden_out = np.load(bundle / "golden" / "outputs.npz")["logits"]
    with load(bundle) as model:
        got = np.concatenate([model.run({"image": image[None]})["logits"] for image in golden_in])
    error, signal = got - golden_out, golden_out
    assert np.vdot(error, error) < 10 ** (-1.8) * np.vdot(signal, signal)  # the int8 limit, 18 dB


def test_its_gates_pass_again_without_pytorch(bundle: Path) -> None:
    code = "import sys; sys.modules.update(torch=None, onnx=None, click=None); " + (
        "from deploy_runtime.__main__ import main; sys.exit(main(['check', sys.argv[1], '--json']))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(bundle)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["passed"] is True


def test_the_same_again_does_no_work(
    bundle: Path, stages: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (bundle / "manifest.json").read_bytes()
    monkeypatch.setenv("DEPLOY_CACHE", str(stages))
    monkeypatch.setattr(sys, "argv", [*COMMAND, str(bundle)])
    main()
    assert "is up to date, nothing to do" in " ".join(capsys.readouterr().out.split())
    assert (bundle / "manifest.json").read_bytes() == before


def test_every_candidate_has_its_evidence(bundle: Path) -> None:
    rows = {(r["backend"], r["precision"]): r for r in json.loads((bundle / "manifest.json").read_text())["candidates"]}
    assert rows["openvino", "int8"]["coverage"]["layers"] == {"int8": 4}
    assert rows["openvino", "fp32"]["coverage"]["layers"] == {"fp32": 4}
    assert rows["tensorrt_rtx", "int8"]["status"] == "built_not_run"
    assert all(v["passed"] for row in rows.values() for v in row["verdicts"] if row["status"] == "passed")


def test_the_report_is_listed_and_can_be_written_again(bundle: Path) -> None:
    found = manifests.read(bundle)
    layers = json.loads((bundle / "layers.json").read_text())
    tables = {name: [Layer(**layer) for layer in table] for name, table in layers.items()}
    assert page(found, tables) == (bundle / "report.html").read_text(encoding="utf-8")
    listed = {file.path: file.sha256 for file in found.files}
    assert listed["report.html"] == manifests.sha256(bundle / "report.html")


def test_diagnose_names_the_layer_whose_scale_is_broken_first(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    (graph,) = {row.file for row in manifests.read(bundle).candidates if row.name == "openvino int8" and row.file}
    break_scale(broken / graph, "/block/block.3/Conv")
    manifests.write(broken, manifests.read(broken))  # its digests are whole: only the numbers are wrong
    monkeypatch.setattr(
        sys, "argv", ["deploy-compile", "diagnose", str(broken), "--json", "--chart", str(tmp_path / "chart.png")]
    )
    main()
    found = json.loads(capsys.readouterr().out)["sensitivity"]
    assert found["layers"][0]["module"] == "block.3"
    assert {layer["module"] for layer in found["layers"]} == {"stem.0", "block.0", "block.3", "head"}
    worst, *others = found["layers"]
    assert worst["own_db"] < 6 < min(layer["own_db"] for layer in others)
    assert worst["without_db"] > found["whole_db"]
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def break_scale(path: Path, node: str) -> None:
    """Halve the scale of a node's input, so that most of what it reads saturates."""
    model = onnx.load(path)
    made = {output: one for one in model.graph.node for output in one.output}
    heavy = next(one for one in model.graph.node if one.name == node)
    scale = made[heavy.input[0]].input[1]
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == scale)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / np.float32(8), scale))
    onnx.save(model, path)


def test_diagnose_reads_real_samples_and_says_what_it_looked_at(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for place in range(3):
        np.save(images / f"{place}.npy", rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    ref = f"{NETS}:tiny"
    for given, synthetic in (((), True), (("--samples", str(images), "--recipe", ref), False)):
        monkeypatch.setattr(sys, "argv", ["deploy-compile", "diagnose", str(bundle), *given])
        main()
        told = " ".join(capsys.readouterr().out.split())
        assert ("measured on the synthetic golden samples" in told) is synthetic
        assert ("over 3 samples" in told) is not synthetic
        assert "block.3" in told
