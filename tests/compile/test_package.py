"""One archive for one target: the same bytes twice, only what the target needs, and it works where it lands."""

import hashlib
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deploy_compile import device_files, edge_wheel
from deploy_compile.__main__ import main
from deploy_compile.package import package
from deploy_compile.report_html import page
from deploy_compile.results import Layer
from deploy_compile.targets import get
from deploy_runtime import load
from deploy_runtime import manifest as manifests
from deploy_runtime.__main__ import main as runtime
from deploy_runtime.archive import unpack
from deploy_runtime.check import check
from deploy_runtime.errors import DeployError
from deploy_runtime.evidence import Manifest, Repair
from tests.compile.conftest import Unpacked
from tests.runtime import tiny_bundle

BESIDE = {
    "LICENSES/Apache-2.0.txt",
    "LICENSES/NOTICE.txt",
    "MODEL_CARD.md",
    "README.txt",
    "install.py",
    "sbom.cdx.json",
}
ALWAYS = {
    "golden/inputs.npz", "golden/outputs.npz", "layers.json", "manifest.json", "ranges.json", "report.html",
    "report.json",
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("cache")


def changed(bundle: Path, copy: Path, change: Callable[[Manifest], Manifest]) -> Path:
    """A copy of a bundle with another manifest, whole again."""
    shutil.copytree(bundle, copy)
    manifests.write(copy, change(manifests.read(copy)))
    return copy


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_the_same_bundle_gives_the_same_bytes_anywhere(bundle: Path, tmp_path: Path) -> None:
    first = package(bundle, "jetson-jp6", tmp_path / "a" / "one.tar.gz")
    copy = tmp_path / "another place" / "of another name"
    shutil.copytree(bundle, copy)
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))
    before = os.umask(0o077)
    try:
        second = package(copy, "jetson-jp6", tmp_path / "b" / "other.tar.gz")
    finally:
        os.umask(before)
    assert first.archive.read_bytes() == second.archive.read_bytes()
    beside = second.archive.with_name("other.tar.gz.sha256").read_text()
    assert beside == f"{hashlib.sha256(second.archive.read_bytes()).hexdigest()}  other.tar.gz\n"
    with tarfile.open(first.archive) as stream:
        members = stream.getmembers()
    names = [member.name for member in members]
    assert names == sorted(names)
    assert {name.partition("/")[0] for name in names} == {"tiny-int8-jetson-jp6"}
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(edge_wheel.EPOCH, 0, 0, "", "")}
    assert {m.name.rpartition("/")[2] for m in members if m.mode == 0o755} == set(device_files.COMMANDS)
    assert first.archive.read_bytes()[3:10] == bytes(5) + b"\0\xff" or first.archive.read_bytes()[4:8] == bytes(4)


OPENVINO_FORM = "graphs/int8.openvino.onnx"
TARGETS: dict[str, tuple[set[str], list[str]]] = {
    "cpu": (
        {"graphs/fp32.onnx", "graphs/int8.cpu.onnx", "graphs/int8.onnxruntime.onnx"},
        ["openvino fp32", "openvino int8", "onnxruntime fp32", "onnxruntime int8"],
    ),
    "rtx": ({"engines/int8_fp16.tensorrt_rtx.engine"}, ["tensorrt_rtx int8_fp16"]),
    "rtx-turing": ({"engines/fp16.tensorrt_rtx.rtx-turing.engine"}, ["tensorrt_rtx fp16 on rtx-turing"]),
    **{
        name: (
            {f"graphs/{name}.onnx" for name in ("int8_fp16", "int8_fp16.fp32_scales", "int8", "fp16", "fp32")},
            [f"tensorrt {precision}{of}" for precision in ("int8_fp16", "int8", "fp16", "fp32")],
        )
        for name, of in (("jetson-jp6", " on jetson-jp6"), ("igx", " on igx"), ("tensorrt", ""))
    },
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_package_holds_what_its_target_needs_and_nothing_else(bundle: Path, unpacked: Unpacked, target: str) -> None:
    root = unpacked(target)
    wanted, names = TARGETS[target]
    if target == "cpu":  # a processor that has bf16 serves the same graphs in two ways more
        rows = {row.name: row for row in manifests.read(bundle).candidates if row.target == "cpu"}
        wide = {name: row for name, row in rows.items() if row.precision.endswith("bf16")}
        assert {row.status for row in wide.values()} <= {"passed", "refused"}
        names = [*names, *(name for name, row in wide.items() if row.status == "passed")]
        if rows["openvino int8"].file == OPENVINO_FORM:  # where sums in INT8 are faster on the machine at hand
            wanted = wanted - {"graphs/int8.cpu.onnx"} | {OPENVINO_FORM}
    (wheel,) = (root / "wheels").iterdir()
    script = {"build_engine.sh"} if "tensorrt" in get(target).backends else set()
    inner = {f"bundle/{path}" for path in wanted | ALWAYS}
    assert files(root) == BESIDE | script | inner | {f"wheels/{wheel.name}"}
    found = manifests.read(root / "bundle")
    manifests.verify_files(root / "bundle", found)
    assert sorted(row.name for row in found.candidates) == sorted(names)
    assert {row.target for row in found.candidates} == {target}
    assert {path for row in found.candidates for path in (row.file, *row.also)} == wanted
    assert set(found.limits) == {row.precision for row in found.candidates}
    assert found.provenance.options["packaged_for"] == target
    assert found.candidates[found.chosen].file
    tables = json.loads((root / "bundle" / "layers.json").read_text())
    rtx = {f"tensorrt_rtx {row.precision}" for row in found.candidates if row.status == "to_build"} & set(tables)
    assert set(tables) == {row.name for row in found.candidates} | rtx  # a device holds its engine against them
    assert bool(rtx) == (found.candidates[0].status == "to_build")
    layers = {name: [Layer(**one) for one in table] for name, table in tables.items()}
    assert page(found, layers) == (root / "bundle" / "report.html").read_text(encoding="utf-8")
    lines = (root / "README.txt").read_text().splitlines()
    assert len(lines) == 5
    assert "python3 install.py" in lines[2]


def test_no_graph_is_in_a_bundle_twice(bundle: Path) -> None:
    digests = [file.sha256 for file in manifests.read(bundle).files if file.path.startswith("graphs/")]
    assert len(digests) == len(set(digests)) > 3


def test_rows_of_another_gpu_stand_in_for_a_device_without_its_own(unpacked: Unpacked, bundle: Path) -> None:
    own = manifests.read(unpacked("jetson-jp6") / "bundle").candidates
    derived = manifests.read(unpacked("igx") / "bundle").candidates
    assert [row.precision for row in own] == ["int8_fp16", "int8", "fp16", "fp32"]
    assert [replace(row, target="jetson-jp6") for row in derived] == list(own)
    alone = [row for row in manifests.read(bundle).candidates if row.target not in ("jetson-jp6", "rtx-turing")]
    assert [row.precision for row in alone if row.backend == "tensorrt_rtx"] == ["fp32", "int8", "int8_fp16"]
    for row in own:
        assert (row.status, row.speed, row.coverage, row.emulated) == ("to_build", None, None, True)
        assert row.drift
        assert row.golden
        assert row.verdicts


def test_what_never_ran_says_so_wherever_it_is_read(unpacked: Unpacked, capsys: pytest.CaptureFixture[str]) -> None:
    root = unpacked("jetson-jp6")
    found = manifests.read(root / "bundle")
    assert "nothing of this package was run on hardware" in found.verdict
    assert (found.chosen, found.fallback) == (0, 1)
    assert runtime(["info", str(root / "bundle")]) == 0
    assert "chosen   tensorrt int8_fp16 on jetson-jp6" in capsys.readouterr().out
    rows = {row.name: row.outcome for row in check(root / "bundle").rows}
    assert rows["chosen"] == "not run"
    assert {rows[row.name] for row in found.candidates} == {"not run"}
    with pytest.raises(DeployError, match="can run here: no NVIDIA driver found") as caught:
        load(root / "bundle")
    assert "jetson-jp6" in caught.value.fix
    card = (root / "MODEL_CARD.md").read_text()
    assert card.index("Seeded weights: random") < card.index("## Intended use")
    assert "Left to whoever signs" in card
    assert "tensorrt fp32 on jetson-jp6: the device builds it; drift emulated on the CPU, speed unknown" in card
    assert "Not measured for this target" in card
    assert "| ≥ 18.0 dB | passed |" in card


def test_the_package_of_a_cpu_keeps_the_choice_and_its_figures(
    unpacked: Unpacked, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, whole = unpacked("cpu"), manifests.read(bundle)
    found = manifests.read(root / "bundle")
    assert found.candidates[found.chosen] == whole.candidates[whole.chosen]
    assert found.verdict == whole.verdict
    assert found.provenance.options["packaged_from"] == manifests.digest(bundle)
    assert runtime(["check", str(root / "bundle")]) == 0
    assert "not run" not in capsys.readouterr().out
    card = (root / "MODEL_CARD.md").read_text()
    assert f"{found.provenance.machine['cpu']}" in card
    assert "Nothing: every engine here was run" in card


def test_what_failed_never_enters(bundle: Path, tmp_path: Path) -> None:
    def failing(found: Manifest) -> Manifest:
        bad = {("rtx", "int8_fp16"), ("jetson-jp6", "int8_fp16"), ("jetson-jp6", "fp32"), ("cpu", "int8")}
        rows = [
            replace(row, status="failed", file=None) if (row.target, row.precision) in bad else row
            for row in found.candidates
        ]
        chosen = next(i for i, row in enumerate(rows) if row.name == "onnxruntime fp32")
        return replace(found, candidates=tuple(rows), chosen=chosen, fallback=None)

    copy = changed(bundle, tmp_path / "copy", failing)
    made = package(copy, "jetson-jp6", tmp_path / "a.tar.gz").manifest
    assert [row.precision for row in made.candidates] == ["int8", "fp16"]
    made = package(copy, "igx", tmp_path / "b.tar.gz").manifest
    assert "int8_fp16" not in [row.precision for row in made.candidates]
    with pytest.raises(DeployError, match="nothing that passed ships") as caught:
        package(copy, "rtx", tmp_path / "c.tar.gz")
    assert "deploy-compile recipe" in caught.value.fix
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(("c", "."))] == ["copy"]


def test_what_a_gpu_of_the_builder_ran_is_built_again_on_the_device(bundle: Path, tmp_path: Path) -> None:
    """A bundle compiled beside a driver, with a row of full TensorRT that passed there and was chosen."""

    def ran(found: Manifest) -> Manifest:
        speed = found.candidates[found.chosen].speed
        row = next(row for row in found.candidates if row.name == "tensorrt int8_fp16 on jetson-jp6")
        row = replace(row, target="tensorrt", status="passed", emulated=False, speed=speed, reason="")
        rows = (row, *found.candidates)
        repairs = {"rtx": Repair(("/block/block.0/Conv",), 4, 10.0, 20.0, 1.1)}
        return replace(found, candidates=rows, chosen=0, fallback=found.chosen + 1, repairs=repairs)

    copy = changed(bundle, tmp_path / "copy", ran)
    made = package(copy, "tensorrt", tmp_path / "a.tar.gz").manifest
    assert {(row.status, row.speed) for row in made.candidates} == {("to_build", None)}
    assert made.candidates[0].emulated is False
    assert "Drift is another engine's" in made.verdict
    assert set(made.repairs) == {"tensorrt"}
    cpu = package(copy, "cpu", tmp_path / "b.tar.gz").manifest  # its own choice is not for this target
    assert cpu.candidates[cpu.chosen].target == "cpu"
    assert "x PyTorch here, and it passes" in cpu.verdict
    assert cpu.repairs == {}


def test_weights_beside_a_graph_and_its_other_forms_go_with_it(tmp_path: Path) -> None:
    def more(found: Manifest) -> Manifest:
        gpu = replace(found.candidates[2], backend="tensorrt", target="igx", status="to_build", also=("graphs/b.onnx",))
        return replace(found, candidates=(*found.candidates, replace(gpu, file="graphs/fp32.onnx")))

    whole = tiny_bundle.write(tmp_path / "bundle")
    for name in ("fp32.onnx.data", "b.onnx", "b.onnx.data", "unused.onnx", "unused.onnx.data"):
        (whole / "graphs" / name).write_bytes(name.encode())
    root = unpack(package(changed(whole, tmp_path / "copy", more), "igx", tmp_path / "a.tar.gz").archive, tmp_path)
    wanted = {"fp32.onnx", "fp32.onnx.data", "b.onnx", "b.onnx.data"}
    assert {path.name for path in (root / "bundle" / "graphs").iterdir()} == wanted
    assert "graphs/b.onnx" in (root / "build_engine.sh").read_text()


def test_the_command_prints_one_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tiny_bundle.write(tmp_path / "bundle")
    monkeypatch.setattr(sys, "argv", ["deploy-compile", "package", str(whole), "--target", "cpu", "--json"])
    main()
    told = json.loads(capsys.readouterr().out)
    assert told["root"] == "toy-cpu"
    assert Path(told["archive"]) == tmp_path / "toy-cpu.tar.gz"
    assert told["sha256"] == hashlib.sha256((tmp_path / "toy-cpu.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setattr(sys, "argv", ["deploy-compile", "package", str(whole), "--target", "cpu"])
    main()
    assert "is up to date, nothing to do" in capsys.readouterr().out
