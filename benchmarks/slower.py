"""Does `check --against` find a bundle that is a fifth slower, on a real machine, and let its twin pass?

    python benchmarks/slower.py            ResNet-18, INT8
    python benchmarks/slower.py resnet50   another image network

A recipe is compiled for the CPU (seeded weights, --int8). Copies of its bundle get 1, 2, 3 ... more convolutions, each
of which multiplies by one: the same answers, later. Every copy, and one copied as it is, goes through
`python -m deploy_runtime check COPY --against BUNDLE`, until one is 1.3 times as slow: the exit codes and what it says
are the result, in benchmarks/results/slower.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import kept
import numpy as np
import onnx
from compiled import compiled
from onnx import helper, numpy_helper

from deploy_runtime import manifest
from deploy_runtime.data import encode

RESULTS = Path(__file__).parent / "results" / "slower"
ENOUGH, MOST = 1.3, 12  # times the base's latency; convolutions
RATIO = re.compile(r"(\d+\.\d+)x \((\d+\.\d+) to (\d+\.\d+)\)")


def measure(name: str) -> dict[str, Any]:
    """Compile one recipe, and check its twin and ever slower copies against it."""
    rows = list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        if failed := compiled(name, base, {}):
            return {"recipe": name, "failed": failed, "copies": rows}
        for count in range(MOST + 1):
            copy = Path(folder) / f"slower-{count}"
            shutil.copytree(base, copy)
            if count:
                slow_down(copy, count)
            rows.append({"convolutions": count, **checked(copy, base)})
            print(f"  {rows[-1]}", flush=True)
            shutil.rmtree(copy)
            if (rows[-1]["ratio"] or [0.0])[0] >= ENOUGH:
                break
    return {"recipe": name, "copies": rows}


def slow_down(bundle: Path, count: int) -> None:
    """Put convolutions that multiply by one behind the first activation of the graph that the bundle chose."""
    found = manifest.read(bundle)
    row = found.candidates[found.chosen]
    assert row.file is not None
    model = onnx.load(bundle / row.file)
    graph = model.graph
    place, node = next((i, node) for i, node in enumerate(graph.node) if node.op_type == "Relu")
    weights = next(one for one in graph.initializer if len(one.dims) == 4)  # of the stem, in Q/DQ form too
    channels = weights.dims[0]
    one = np.eye(channels, dtype=np.float32)[:, :, None, None]
    graph.initializer.append(numpy_helper.from_array(one, "times_one"))
    names = [f"{node.output[0]}_late_{step}" for step in range(count)] + [node.output[0]]
    node.output[0] = names[0]
    for step in range(count):
        late = helper.make_node("Conv", [names[step], "times_one"], [names[step + 1]], f"/late/{step}/Conv")
        graph.node.insert(place + 1 + step, late)
    onnx.save(model, bundle / row.file)
    manifest.write(bundle, replace(found, files=()))


def checked(copy: Path, base: Path) -> dict[str, Any]:
    """Return the exit code of `check --against`, what failed, and the ratio of latencies with its interval."""
    ran = subprocess.run(
        [sys.executable, "-m", "deploy_runtime", "check", str(copy), "--against", str(base), "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    (result,) = json.loads(ran.stdout)["bundles"]
    rows = {row["name"]: row for row in result["rows"]}
    said = rows["latency against base"]
    ratio = RATIO.search(said["detail"])
    return {
        "exit": ran.returncode,
        "failed": [name for name, row in rows.items() if row["outcome"] == "failed"],
        "latency": said["outcome"],
        "ratio": encode([float(value) for value in ratio.groups()]) if ratio else None,
        "detail": said["detail"],
    }


def main() -> None:
    kept.run(__doc__, "RECIPE", RESULTS, ("resnet18",), measure)


if __name__ == "__main__":
    main()
