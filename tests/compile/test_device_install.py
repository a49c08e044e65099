"""install.py, as a device without any of our libraries runs it."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy_compile import device_install
from deploy_compile.package import package
from deploy_runtime.data import encode
from tests.compile.conftest import Unpacked

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("cache")


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
