"""The composite action: its own steps, run under bash as GitHub runs them, in a checkout and a runner of a test's."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml  # type: ignore[import-untyped]

from tests.runtime import tiny_int8

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github" / "actions" / "check"
ACTION: dict[str, Any] = yaml.safe_load((FOLDER / "action.yml").read_text())
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"] if "run" in step}
EXPRESSION = re.compile(r"\$\{\{ *([a-z.-]+) *\}\}")
BASH = ("bash", "--noprofile", "--norc", "-eo", "pipefail")  # what `shell: bash` is


@pytest.fixture
def runner(tmp_path: Path) -> Path:
    """A runner's temporary folder whose environment is this one: what the install step would have left."""
    python = tmp_path / "runner" / "deploy-compile-check" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return tmp_path / "runner"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    tiny_int8.write(folder / "bundle")
    tiny_int8.write(folder / "base dir")
    return folder


def run(
    name: str, checkout: Path, runner: Path, inputs: dict[str, str], action: Path = FOLDER
) -> subprocess.CompletedProcess[str]:
    """Run one step with its inputs, the defaults where none is given."""
    step, given = STEPS[name], {key: value.get("default", "") for key, value in ACTION["inputs"].items()}
    known = {f"inputs.{key}": value for key, value in {**given, **inputs}.items()}
    known["steps.python.outputs.python-path"] = sys.executable
    variables = {key: EXPRESSION.sub(lambda found: known[found[1]], value) for key, value in step["env"].items()}
    variables |= {
        "RUNNER_TEMP": str(runner),
        "GITHUB_ACTION_PATH": str(action),
        "GITHUB_STEP_SUMMARY": str(runner / "summary.md"),
    }
    return subprocess.run(
        [*BASH, "-c", step["run"]],
        cwd=checkout,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_inputs_reach_the_scripts_as_variables_only() -> None:
    assert ACTION["runs"]["using"] == "composite"
    assert set(STEPS) == {"Install deploy-runtime and its engine", "Check"}
    for step in STEPS.values():
        assert step["shell"] == "bash"
        assert "${{" not in step["run"]
        for variable in step["env"]:
            assert f'"${variable}"' in step["run"] or f"${variable}]" in step["run"]  # quoted where it is used
    used = {name for step in ACTION["runs"]["steps"] for name in EXPRESSION.findall(str(step))}
    assert {name.removeprefix("inputs.") for name in used if name.startswith("inputs.")} == set(ACTION["inputs"])


def test_the_check_step_passes_a_twin_and_leaves_every_report(checkout: Path, runner: Path) -> None:
    done = run("Check", checkout, runner, {"bundle": "bundle\n./base dir\n", "against": "base dir", "time": "false"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("::stop-commands::")
    assert "::notice title=deploy-compile check::bundle: passed, 1 not run" in done.stdout.splitlines()
    suites = ElementTree.parse(checkout / "deploy-compile-check.xml").getroot()
    assert [suite.attrib["name"] for suite in suites] == ["bundle", "base dir"]
    assert "## deploy-compile check: passed" in (runner / "summary.md").read_text()


def test_the_check_step_fails_what_became_worse_and_a_release_that_is_none(checkout: Path, runner: Path) -> None:
    tiny_int8.write(checkout / "worse", kept=["/block/depthwise/Conv"])
    done = run("Check", checkout, runner, {"bundle": "worse", "against": "base dir", "time": "false"})
    assert done.returncode == 3
    assert (
        "::error title=deploy-compile check%3A coverage%3A onnxruntime int8 against base::worse: 3 heavy" in done.stdout
    )
    done = run("Check", checkout, runner, {"bundle": "bundle", "strict": "true"})
    assert done.returncode == 3
    assert "::error title=deploy-compile check%3A weights::bundle: seeded" in done.stdout
    assert "::error title=deploy-compile check%3A calibration::" in done.stdout


@pytest.mark.parametrize("words", ["$(touch hacked)", "`touch hacked`", '"; touch hacked; "', "--help", "x\n--strict"])
def test_words_of_a_pull_request_are_never_run(words: str, checkout: Path, runner: Path) -> None:
    for given in ({"bundle": words}, {"bundle": "bundle", "against": words}):
        done = run("Check", checkout, runner, given)
        assert done.returncode == 1
        assert "does not exist" in done.stderr
    done = run("Install deploy-runtime and its engine", checkout, runner, {"engine": words})
    assert done.returncode == 2
    assert done.stdout.startswith("::error title=deploy-compile check::the input engine is")
    assert not (checkout / "hacked").exists()


def test_a_module_in_the_checkout_is_not_imported(checkout: Path, runner: Path) -> None:
    (checkout / "numpy.py").write_text("raise SystemExit(0)\n")
    (checkout / "deploy_runtime.py").write_text("raise SystemExit(0)\n")
    assert run("Check", checkout, runner, {"bundle": "nowhere"}).returncode == 1


@pytest.mark.slow
def test_both_steps_run_with_the_edge_wheel_and_one_engine_only(checkout: Path, tmp_path: Path) -> None:
    runner = tmp_path / "bare runner"
    runner.mkdir()
    copy = tmp_path / "action's own"  # pip builds where the source lies
    shutil.copytree(ROOT / "runtime", copy / "runtime", ignore=shutil.ignore_patterns("*.egg-info", "build"))
    action = shutil.copytree(FOLDER, copy / FOLDER.relative_to(ROOT))
    done = run("Install deploy-runtime and its engine", checkout, runner, {"engine": "onnxruntime"}, action)
    assert done.returncode == 0, done.stdout + done.stderr
    python = runner / "deploy-compile-check" / "bin" / "python"
    listed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    installed = {line.split()[0].lower() for line in listed.splitlines()[2:]}
    assert {"deploy-runtime", "numpy", "onnxruntime"} <= installed
    assert not {"deploy-compile", "openvino", "torch", "onnx", "click"} & installed
    done = run("Check", checkout, runner, {"bundle": "bundle", "against": "base dir"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ms, base onnxruntime int8" in done.stdout
    shutil.rmtree(runner)
