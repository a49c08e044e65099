"""The two wheels hold every module of the tree: a folder that setuptools was not told of is left out without a word."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {"deploy_compile": "compile", "deploy_recipes": "recipes", "deploy_runtime": "runtime"}

pytestmark = pytest.mark.slow


def built(source: Path, to: Path) -> Path:
    """Build a wheel from a copy, so that the tree stays clean, with the setuptools that is here."""
    copy = to / "source"
    litter = shutil.ignore_patterns(
        "*.egg-info", "build", "__pycache__", ".*", "artifacts", "benchmarks", "tests", "typings"
    )
    shutil.copytree(source, copy, ignore=litter)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(to), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = to.glob("*.whl")
    return wheel


def modules(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as packed:
        return {name for name in packed.namelist() if name.endswith((".py", "py.typed"))}


def tree(package: str) -> set[str]:
    folder = ROOT / FOLDERS[package]
    files = [*folder.rglob("*.py"), *folder.rglob("py.typed")]
    return {f"{package}/{path.relative_to(folder).as_posix()}" for path in files if "build" not in path.parts}


def test_the_edge_wheel_holds_the_runtime_and_verifies_a_bundle_by_itself(tmp_path: Path, bundle: Path) -> None:
    wheel = built(ROOT / "runtime", tmp_path / "edge")
    assert wheel.name.startswith("deploy_runtime-")
    assert modules(wheel) == tree("deploy_runtime")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "installed")
        (facts,) = [packed.read(name).decode() for name in packed.namelist() if name.endswith("METADATA")]
    assert "Requires-Dist: numpy>=1.22" in facts
    assert [line for line in facts.splitlines() if line.startswith("Requires-Dist") and "extra" not in line] == [
        "Requires-Dist: numpy>=1.22"
    ]
    # A path in front of the editable install; only that the files come from there proves anything.
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    code = "import deploy_runtime, sys; print(deploy_runtime.__file__)"
    for command in (["-c", code], ["-m", "deploy_runtime", "verify", str(bundle)]):
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert str(tmp_path / "installed") in done.stdout or "passed   openvino fp32" in done.stdout


def test_the_root_wheel_holds_all_three_packages(tmp_path: Path) -> None:
    wheel = built(ROOT, tmp_path / "root")
    wanted = set().union(*(tree(package) for package in FOLDERS))
    assert modules(wheel) == wanted


def test_the_edge_wheel_is_the_same_built_from_an_installed_root_wheel(tmp_path: Path) -> None:
    """`deploy-compile package` builds it from what is installed: a checkout and a wheel give the same bytes."""
    with zipfile.ZipFile(built(ROOT, tmp_path / "root")) as packed:
        packed.extractall(tmp_path / "installed")
    code = (
        "import sys; from pathlib import Path; import deploy_compile; from deploy_compile.edge_wheel import build\n"
        "print(deploy_compile.__file__, build(Path(sys.argv[1])))"
    )
    wheels = []
    for name, place in (("installed", tmp_path / "installed"), ("checkout", ROOT / "typings")):
        command = [sys.executable, "-c", code, str(tmp_path / name)]
        environment = {**os.environ, "PYTHONPATH": str(place)}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
        assert done.stdout.startswith(str(place))
        wheels.append(Path(done.stdout.split()[-1]))
    assert wheels[0].read_bytes() == wheels[1].read_bytes()
    with zipfile.ZipFile(wheels[0]) as packed:
        assert {"deploy_runtime/pyproject.toml", "deploy_runtime/LICENSE"} <= set(packed.namelist())
