"""What importing the runtime costs and pulls in, seen from a fresh interpreter."""

import json
import subprocess
import sys
from pathlib import Path

SECONDS = 0.15  # the most that `import deploy_runtime` may take
HEAVY = {"torch", "onnx", "onnxruntime", "openvino", "tensorrt_rtx", "cuda", "click", "rich", "polygraphy", "av", "PIL"}
MODULES = sorted(path.stem for path in Path(__file__).parents[2].joinpath("runtime").glob("*.py"))


def fresh(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_the_import_is_quick() -> None:
    code = "import time; t = time.perf_counter(); import deploy_runtime; print(time.perf_counter() - t)"
    assert min(float(fresh(code)) for _ in range(3)) <= SECONDS


def test_no_module_pulls_in_an_engine_library_or_anything_heavy() -> None:
    names = ", ".join(f"deploy_runtime.{name}" for name in MODULES if not name.startswith("__"))
    loaded = fresh(f"import json, sys, {names}; print(json.dumps([m.split('.')[0] for m in sys.modules]))")
    assert not HEAVY & set(json.loads(loaded))


def test_the_front_door_offers_what_it_says() -> None:
    code = "import deploy_runtime as d; print([getattr(d, name).__name__ for name in d.__all__ if name[0] != '_'])"
    assert fresh(code).strip() == "['DeployError', 'GateError', 'Model', 'UsageError', 'load']"
