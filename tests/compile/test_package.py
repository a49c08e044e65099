"""One archive for one target: the same bytes twice, only what the target needs, and it works where it lands."""

import ast
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from deploy_compile import device_files, device_install, edge_wheel
from deploy_compile.__main__ import main
from deploy_compile.package import Packaged, package
from deploy_compile.report_html import page
from deploy_compile.results import Layer
from deploy_compile.targets import get
from deploy_runtime import load
from deploy_runtime import manifest as manifests
from deploy_runtime.__main__ import main as runtime
from deploy_runtime.archive import unpack
from deploy_runtime.check import check
from deploy_runtime.data import encode
from deploy_runtime.errors import DeployError, UsageError
from deploy_runtime.evidence import Candidate, Manifest, Repair
from deploy_runtime.spec import Batch, State, Tensor
from tests.runtime import tiny_bundle

ROOT = Path(__file__).parents[2]
NETS = ROOT / "tests" / "tiny_nets.py"
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


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle for a CPU, two kinds of RTX and a Jetson, through the whole pipeline."""
    place = tmp_path_factory.mktemp("package")
    targets = [word for name in ("cpu", "rtx", "rtx-turing", "jetson-jp6") for word in ("--target", name)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOY_CACHE", str(place / "cache"))
        words = ["recipe", f"{NETS}:tiny", "--int8", *targets, "--out", str(place / "bundle")]
        patch.setattr(sys, "argv", ["deploy-compile", *words])
        main()
    return place / "bundle"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOY_CACHE", str(tmp_path / "device cache"))


Unpacked = Callable[[str], Path]


@pytest.fixture(scope="module")
def unpacked(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Unpacked:
    """The root folder of the package for a target, made once."""
    made: dict[str, Path] = {}

    def of(target: str) -> Path:
        if target not in made:
            place = tmp_path_factory.mktemp(target)
            made[target] = unpack(package(bundle, target, place / "a.tar.gz").archive, place)
        return made[target]

    return of


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
        rows = [row for row in manifests.read(bundle).candidates if row.precision.endswith("bf16")]
        assert {row.status for row in rows} <= {"passed", "refused"}
        names = [*names, *(row.name for row in rows if row.status == "passed")]
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


@pytest.mark.parametrize(
    ("target", "kind", "wrong", "fix"),
    [
        ("jetson", UsageError, "there is no target 'jetson'", "jetson-jp6"),
        ("cuda", DeployError, "has nothing for cuda: it was compiled for cpu, rtx", "--target cuda"),
        ("rtx-turing", DeployError, "has nothing for rtx-turing", "--target rtx-turing"),
    ],
)
def test_a_target_that_cannot_be_served_is_told_with_the_command(
    tmp_path: Path, target: str, kind: type[DeployError], wrong: str, fix: str
) -> None:
    whole = tiny_bundle.write(tmp_path / "bundle")
    with pytest.raises(kind) as caught:
        package(whole, target)
    assert wrong in caught.value.message
    assert fix in caught.value.fix
    assert files(tmp_path) == {f"bundle/{path}" for path in files(whole)}


def test_a_bundle_for_cpus_alone_says_how_to_serve_a_jetson(tmp_path: Path) -> None:
    whole = tiny_bundle.write(tmp_path / "whole")
    copy = changed(whole, tmp_path / "copy", lambda found: replace(found, candidates=found.candidates[:2]))
    with pytest.raises(DeployError, match="it was compiled for cpu") as caught:
        package(copy, "jetson-jp6")
    assert caught.value.fix.endswith("--target jetson-jp6")


def test_a_damaged_bundle_is_refused(tmp_path: Path) -> None:
    whole = tiny_bundle.write(tmp_path / "bundle")
    (whole / "graphs" / "fp32.onnx").write_bytes(b"other")
    with pytest.raises(DeployError, match="instead of"):
        package(whole, "cpu")


def test_an_archive_never_lands_in_its_own_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tiny_bundle.write(tmp_path / "bundle")
    with pytest.raises(DeployError, match="lies in the bundle"):
        package(whole, "cpu", whole / "graphs" / "a.tar.gz")
    monkeypatch.chdir(whole)
    assert package(Path(), "cpu").archive == tmp_path / "toy-cpu.tar.gz"
    manifests.verify_files(whole, manifests.read(whole))


def test_another_file_is_replaced_only_with_force(tmp_path: Path) -> None:
    whole = tiny_bundle.write(tmp_path / "bundle")
    out = tmp_path / "toy.tar.gz"
    out.write_bytes(b"mine")
    with pytest.raises(DeployError, match="holds something else"):
        package(whole, "cpu", out)
    assert out.read_bytes() == b"mine"
    first: Packaged = package(whole, "cpu", out, force=True)
    assert first.written
    assert not package(whole, "cpu", out).written
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["toy.tar.gz", "toy.tar.gz.sha256"]


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


@pytest.mark.parametrize("target", ["cpu", "rtx", "jetson-jp6"])
def test_the_bill_of_materials_is_valid_and_names_everything(unpacked: Unpacked, target: str) -> None:
    root = unpacked(target)
    text = (root / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    found, made = json.loads(text), manifests.read(root / "bundle")
    parts = {part["bom-ref"]: part for part in found["components"]}
    (wheel,) = (root / "wheels").iterdir()
    assert parts["runtime"]["hashes"][0]["content"] == manifests.sha256(wheel)
    assert parts["model"]["type"] == "machine-learning-model"
    sums = {one["name"].removeprefix("bundle/"): one["hashes"][0]["content"] for one in parts["model"]["components"]}
    assert sums == {file.path: file.sha256 for file in made.files}
    versions = {name.removeprefix("library:"): one.get("version") for name, one in parts.items() if ":" in name}
    measured = made.provenance.versions
    assert all(version == measured.get(name) for name, version in versions.items())
    assert {"cpu": "openvino", "rtx": "tensorrt_rtx_cu13", "jetson-jp6": "tensorrt"}[target] in versions
    assert found["metadata"]["timestamp"] == made.provenance.created


def test_the_wheel_is_that_of_the_tree_and_no_place_is_named(unpacked: Unpacked, bundle: Path) -> None:
    root = unpacked("jetson-jp6")
    (wheel,) = (root / "wheels").iterdir()
    with zipfile.ZipFile(wheel) as packed:
        held = {name for name in packed.namelist() if name.startswith("deploy_runtime/")}
        contents = [packed.read(name) for name in packed.namelist()]
    source = ROOT / "runtime"
    wanted = {*(path.name for path in source.glob("*.py")), *edge_wheel.NEEDS}
    assert held == {f"deploy_runtime/{name}" for name in wanted}
    assert (source / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    contents += [path.read_bytes() for path in root.rglob("*") if path.is_file()]
    for place in (ROOT, bundle.parent, root.parent, Path.home() / ".", Path(sys.prefix)):
        assert not any(f"{place}/".encode() in content for content in contents), place


def test_trtexec_is_told_every_shape(tmp_path: Path) -> None:
    """The script's lines, run with a trtexec that writes its arguments down and refuses the first form of a graph."""
    whole = tiny_bundle.write(tmp_path / "bundle")
    row = Candidate("tensorrt", "int8", "igx", "to_build", file="graphs/a.onnx", also=("graphs/b.onnx",))
    tensors = (Tensor("frames", ("batch", 6, 3, 16, 16), layout="NTCHW"), Tensor("h", ("batch", 1, 32), layout="NLC"))
    made = replace(
        manifests.read(whole), inputs=tensors, state=(State("h", "h_after"),), batch=Batch(1, 4, 16), candidates=(row,)
    )
    (tmp_path / "build_engine.sh").write_text(device_files.build_script(made))
    fake = tmp_path / "trtexec"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@" ">" >> told\ncase $1 in *a.onnx) exit 3; esac\n')
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["sh", str(tmp_path / "build_engine.sh")]
    done = subprocess.run(command, env=environment, check=False, cwd="/")
    assert done.returncode == 0
    first, second = [call.split() for call in (tmp_path / "told").read_text().split(">\n")[:-1]]
    assert first[0] == "--onnx=bundle/graphs/a.onnx"
    assert second == [
        "--onnx=bundle/graphs/b.onnx",
        "--stronglyTyped",
        "--saveEngine=engines/int8.engine",
        "--minShapes=frames:1x1x3x16x16,h:1x1x32",
        "--optShapes=frames:4x6x3x16x16,h:4x1x32",
        "--maxShapes=frames:16x6x3x16x16,h:16x1x32",
        "--timingCacheFile=engines/timing.cache",
        "--profilingVerbosity=detailed",
        "--exportLayerInfo=engines/int8.layers.json",
    ]


def test_install_is_python_3_10_and_its_standard_library() -> None:
    tree = ast.parse(Path(device_install.__file__).read_text(), feature_version=(3, 8))  # old ones are told to go
    named = [node.names[0].name if isinstance(node, ast.Import) else node.module for node in ast.walk(tree)
             if isinstance(node, (ast.Import, ast.ImportFrom))]  # fmt: skip
    assert {str(name).partition(".")[0] for name in named} <= sys.stdlib_module_names | {"__future__"}
    extras = (ROOT / "runtime" / "pyproject.toml").read_text()
    assert all(f"\n{name} = [" in extras for name in device_install.EXTRAS)


def test_install_says_in_two_lines_what_the_machine_lacks(
    unpacked: Unpacked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = unpacked("jetson-jp6")
    monkeypatch.setattr(device_install, "HERE", root)
    monkeypatch.setattr(device_install, "BUNDLE", root / "bundle")

    def lines(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["install.py", *words])
        code = device_install.main()
        wrong, fix = capsys.readouterr().err.splitlines()
        assert wrong.startswith("error: ")
        assert fix.startswith("  fix: ")
        return code, wrong, fix

    with monkeypatch.context() as patch:
        patch.setattr(sys, "version_info", (3, 9, 1))
        assert lines()[1] == "error: this is Python 3.9.1"
    with monkeypatch.context() as patch:
        patch.setattr(device_install, "ROOM", 2**60)
        assert "are needed" in lines()[1]
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda _: None)
        code, wrong, fix = lines("--venv", str(tmp_path / "venv"))
        assert (code, "ensurepip" in wrong, "apt install python3-venv" in fix) == (1, True, True)
    with monkeypatch.context() as patch:
        patch.setattr(device_install, "BUNDLE", tmp_path)
        assert "no whole bundle" in lines()[1]
    assert not (root / "venv").exists()


def test_a_failing_step_gives_its_own_words_and_code(tmp_path: Path) -> None:
    script = tmp_path / "step.py"
    script.write_text("import sys; print('noise\\nerror: it is full\\n  fix: empty it', file=sys.stderr); sys.exit(3)")
    with pytest.raises(device_install.StepError) as caught:
        device_install.run([sys.executable, script])
    assert (caught.value.wrong, caught.value.fix, caught.value.code) == ("it is full", "empty it", 3)


@pytest.mark.slow
def test_the_package_of_a_cpu_runs_in_an_environment_of_numpy_and_openvino(bundle: Path, tmp_path: Path) -> None:
    """Unpacked with tar alone, installed, verified and timed by install.py; PyTorch and ours are not to be had."""
    made = package(bundle, "cpu", tmp_path / "tiny.tar.gz")
    subprocess.run(["tar", "xzf", "tiny.tar.gz"], cwd=tmp_path, check=True)
    subprocess.run(["sha256sum", "-c", "tiny.tar.gz.sha256"], cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    (tmp_path / "libraries").mkdir()
    for library in ("numpy", "openvino"):
        spec = importlib.util.find_spec(library)
        assert spec is not None
        folder = Path(str(spec.origin)).parent
        for path in folder.parent.glob(f"{folder.name}*"):
            if path.name in (folder.name, f"{folder.name}.libs"):
                (tmp_path / "libraries" / path.name).symlink_to(path)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(f"{tmp_path / 'libraries'}\n")
    python = tmp_path / "venv" / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, tmp_path / made.root / "install.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd="/")
    assert done.returncode == 0, done.stderr
    steps = [line.split()[0] for line in done.stdout.splitlines()]
    assert steps == ["machine", "venv", "runtime", "libraries", "verify", "reselect", "done"]
    assert json.loads((tmp_path / made.root / "report.json").read_text())["passed"] is True
    code = (
        "import sys, importlib.util as u, numpy as np, deploy_runtime as d; b = sys.argv[1]\n"
        "assert not any(u.find_spec(name) for name in ('torch', 'onnx', 'deploy_compile', 'onnxruntime'))\n"
        "x = np.load(b + '/golden/inputs.npz')['image'][:1]\n"
        "with d.load(b) as model: print(model.backend, model.run({'image': x})['logits'].shape)"
    )
    inner = str(tmp_path / made.root / "bundle")
    answer = subprocess.run([python, "-c", code, inner], capture_output=True, text=True, check=True, env=environment)
    assert answer.stdout.split() == ["openvino", "(1,", "5)"]
    assert encode(made.manifest) == json.loads((Path(inner) / "manifest.json").read_text())
