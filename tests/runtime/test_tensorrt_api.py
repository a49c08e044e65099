"""Every name of TensorRT that our code touches exists in every release that it says it runs on."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import deploy_runtime
from tests.runtime.trt_names import DUMPS, api, look

RUNTIME = Path(deploy_runtime.__file__).parent
FULL = ("tensorrt-10.3.0", "tensorrt-10.16.1.11", "tensorrt-11.0.0.114", "tensorrt-11.4.0.106")
RTX = ("tensorrt_rtx-1.7.1",)
SERVES = {
    "tensorrt_build.py": (*FULL, *RTX),
    "tensorrt_run.py": (*FULL, *RTX),
    "tensorrt_contexts.py": (*FULL, *RTX),
    "tensorrt_layers.py": FULL,
    "backend_tensorrt.py": FULL,
    "backend_tensorrt_rtx.py": RTX,
}
PAIRS = [(module, release) for module, releases in SERVES.items() for release in releases]
SEEN = {  # what must be found, or the search is blind
    "tensorrt_build.py": {
        "trt.Builder", "Builder.create_network", "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "Builder.error_recorder",
        "OnnxParser.parse_from_file", "ParserError.node_operator", "IBuilderConfig.profiling_verbosity",
        "IBuilderConfig.add_optimization_profile", "IOptimizationProfile.set_shape", "ITensor.shape", "ILayer.name",
        "Builder.build_serialized_network", "IErrorRecorder.report_error", "IProgressMonitor.step_complete",
        "ILogger.log", "HardwareCompatibilityLevel.AMPERE_PLUS", "BuilderFlag.VERSION_COMPATIBLE",
    },
    "tensorrt_run.py": {"IExecutionContext.execute_async_v3"},
    "tensorrt_contexts.py": {
        "IExecutionContext.set_tensor_address", "IExecutionContext.set_input_shape",
        "IExecutionContext.set_optimization_profile_async", "ICudaEngine.num_optimization_profiles",
        "ICudaEngine.get_tensor_profile_shape",
    },
    "tensorrt_layers.py": {"ICudaEngine.create_engine_inspector", "LayerInformationFormat.JSON"},
    "backend_tensorrt.py": {"Runtime.deserialize_cuda_engine", "ICudaEngine.create_execution_context"},
    "backend_tensorrt_rtx.py": {"Runtime.get_engine_validity", "IRuntimeConfig.set_runtime_cache"},
}  # fmt: skip


@pytest.mark.parametrize(("module", "release"), PAIRS)
def test_every_name_exists(module: str, release: str) -> None:
    found = look((RUNTIME / module).read_text(), api(release))
    assert SEEN[module] <= found.touched
    assert not found.missing, f"{release} has no {', '.join(sorted(found.missing))}"
    assert not found.keywords, f"names of arguments may change: {', '.join(sorted(found.keywords))}"
    assert not found.unknown, f"say in RETURNS what {', '.join(sorted(found.unknown))} gives"


def test_every_release_is_looked_at() -> None:
    assert {release for releases in SERVES.values() for release in releases} == {f.stem for f in DUMPS.glob("*.json")}


def test_no_other_module_touches_tensorrt() -> None:
    touching = re.compile(r"(?<!\.)\btrt\.|\bhandle\.|import tensorrt")
    assert {path.name for path in RUNTIME.glob("*.py") if touching.search(path.read_text())} == SERVES.keys()


@pytest.mark.parametrize(
    ("line", "name", "where"),
    [
        ("config.set_flag(trt.BuilderFlag.FP16)", "BuilderFlag.FP16", ("11.0", "11.4", "rtx")),
        ("config.int8_calibrator = None", "IBuilderConfig.int8_calibrator", ("11.0", "11.4", "rtx")),
        ("fast = builder.platform_has_fast_int8", "Builder.platform_has_fast_int8", ("11.0", "11.4", "rtx")),
        (
            "config.num_compute_capabilities = 1",
            "IBuilderConfig.num_compute_capabilities", ("10.3", "10.16", "11.0", "11.4"),
        ),
        (
            "level = trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY",
            "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY", ("10.3",),
        ),
        ("network.get_layer(0).precision = 1", "ILayer.precision", ("11.0", "11.4", "rtx")),
        ("trt.IInt8EntropyCalibrator2()", "trt.IInt8EntropyCalibrator2", ("11.0", "11.4", "rtx")),
    ],
)  # fmt: skip
def test_a_name_that_a_release_lacks_is_caught(line: str, name: str, where: tuple[str, ...]) -> None:
    source = f"def build(trt, builder, network, config):\n    {line}\n"
    caught = {release for release in (*FULL, *RTX) if look(source, api(release)).missing == {name}}
    assert caught == {release for release in (*FULL, *RTX) if any(f"{version}" in release for version in where)}


def test_a_name_behind_a_guard_is_looked_at_only_where_it_is() -> None:
    source = (
        "def build(trt, config):\n"
        "    if hasattr(config, 'set_compute_capability'):\n"
        "        config.num_compute_capabilities = 1\n"
        "    else:\n"
        "        config.int8_calibrator = None\n"
        "    return trt.ComputeCapability.SM80 if hasattr(trt, 'ComputeCapability') else None\n"
    )
    assert {release: look(source, api(release)).missing for release in ("tensorrt-10.3.0", *RTX, FULL[-1])} == {
        "tensorrt-10.3.0": set(),
        "tensorrt_rtx-1.7.1": set(),
        "tensorrt-11.4.0.106": {"IBuilderConfig.int8_calibrator"},
    }


def test_a_call_by_keyword_is_caught() -> None:
    source = "def build(trt, network):\n    network.get_layer(index=0)\n"
    assert look(source, api(FULL[0])).keywords == {"network.get_layer(index=)"}


def test_the_names_of_the_installed_release_are_those_on_record(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "scripts" / "tensorrt_names"
    subprocess.run([sys.executable, str(script), "tensorrt_rtx", str(tmp_path)], check=True, capture_output=True)
    (written,) = tmp_path.glob("tensorrt_rtx-1.7.1*.json")
    installed, kept = json.loads(written.read_text()), api(RTX[0])
    assert {name: installed.get(name) for name in kept} == kept
