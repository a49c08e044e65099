"""The files of a package beside its bundle that a person on the device reads or runs.

`install.py` is `device_install.py` as it is, and needs nothing from here. `build_engine.sh` is for those who drive
trtexec themselves. The trap: 10.x builds in the graph's own types only with `--stronglyTyped`, which 11.x takes and
ignores; without it the quantized graph is built in types that nobody judged.
"""

import shlex
from collections.abc import Iterable
from pathlib import Path

import deploy_runtime
from deploy_compile import device_install
from deploy_compile.targets import Target
from deploy_runtime.archive import BUNDLE
from deploy_runtime.evidence import Candidate, Manifest
from deploy_runtime.spec import Tensor

COMMANDS = ("install.py", "build_engine.sh")  # the files that may be run
LIBRARIES = {
    "openvino": "OpenVINO, Apache-2.0",
    "onnxruntime": "ONNX Runtime, MIT",
    "tensorrt_rtx": "TensorRT-RTX, proprietary, NVIDIA's licence agreement",
    "tensorrt": "TensorRT, proprietary, NVIDIA's licence agreement",
}
SCRIPT = """#!/bin/sh
# The engines with trtexec alone, into engines/ beside the bundle: for Triton, Holoscan or a look at a layer. Never
# needed: install.py builds those that deploy_runtime loads. The graphs say every type themselves. Lock the clocks first
# (nvpmodel, jetson_clocks) where the times are to mean something. The exit code is 1 where a graph was refused.
cd "$(dirname "$0")" || exit 1
mkdir -p engines || exit 1
status=0
"""


def write(folder: Path, made: Manifest, target: Target) -> None:
    """Write `install.py`, `README.txt`, `LICENSES/` and, for TensorRT, `build_engine.sh` into a package's folder."""
    (folder / "install.py").write_bytes(Path(device_install.__file__).read_bytes())
    (folder / "README.txt").write_text(readme(made, target), encoding="utf-8")
    (folder / "LICENSES").mkdir()
    licence = Path(deploy_runtime.__file__).parent / "LICENSE"
    (folder / "LICENSES" / "Apache-2.0.txt").write_bytes(licence.read_bytes())
    (folder / "LICENSES" / "NOTICE.txt").write_text(notice(made), encoding="utf-8")
    if "tensorrt" in target.backends:
        (folder / "build_engine.sh").write_text(build_script(made), encoding="utf-8")


def readme(made: Manifest, target: Target) -> str:
    """Return five lines: what it is, and the one command."""
    first = made.verdict.partition(". ")[0].rstrip(".")
    lines = (
        f"{made.name}: {made.recipe} for {target.name}, {target.about}.",
        f"{first}.",
        "Set it up and prove it on this device: python3 install.py",
        f"Use it in Python: from deploy_runtime import load; model = load({BUNDLE!r}); model.run(...)",
        "What was measured and what not: MODEL_CARD.md, bundle/report.html. What is inside: sbom.cdx.json, LICENSES/.",
    )
    return "\n".join(lines) + "\n"


def notice(made: Manifest) -> str:
    """Return what is inside and under which licence, and what is not inside."""
    backends = sorted({row.backend for row in made.candidates})
    lines = [
        f"{made.name}",
        "",
        "wheels/, install.py, build_engine.sh: deploy-compile, Apache-2.0 (Apache-2.0.txt).",
        "bundle/: the model. Its weights, graphs, engines and samples belong to whoever made the model, under the",
        f"licence that they give it; this tool knows none of it. Weights: {made.provenance.weights}.",
        "",
        "Not inside, and installed on the device under licences of their own:",
        *(f"  {LIBRARIES[name]}" for name in backends),
        "  NumPy, BSD-3-Clause",
    ]
    if any((row.file or "").startswith("engines/") for row in made.candidates):
        lines += ["", "bundle/engines/ were compiled by TensorRT-RTX: NVIDIA's licence agreement applies to their use."]
    return "\n".join(lines) + "\n"


def build_script(made: Manifest) -> str:
    """Return the trtexec lines, one a graph; where a graph has other forms they are tried after it."""
    return SCRIPT + "".join(f"\n# {row.precision}\n{_tried(made, row)}" for row in made.candidates) + "\nexit $status\n"


def _tried(made: Manifest, row: Candidate) -> str:
    calls = [_trtexec(made, row, graph) for graph in (row.file, *row.also) if graph]
    return " ||\n".join((*calls, "status=1")) + "\n"


def _trtexec(made: Manifest, row: Candidate, graph: str) -> str:
    engine = f"engines/{row.precision}"
    words = [
        "trtexec",
        f"--onnx={BUNDLE}/{graph}",
        "--stronglyTyped",
        f"--saveEngine={engine}.engine",
        *(f"--{word}Shapes={shapes}" for word, shapes in _profile(made)),
        "--timingCacheFile=engines/timing.cache",
        "--profilingVerbosity=detailed",
        f"--exportLayerInfo={engine}.layers.json",
    ]
    return " \\\n    ".join(shlex.quote(word) for word in words)


def _profile(made: Manifest) -> Iterable[tuple[str, str]]:
    """Yield the sizes served: the batch, and for a stream its chunks from one frame up to a whole clip."""
    batch = made.batch
    for word, size in (("min", batch.least), ("opt", batch.best), ("max", batch.most)):
        tensors = [one.of_frames(1) if made.state and word == "min" else one for one in made.inputs]
        yield word, ",".join(_shape(tensor, size) for tensor in tensors)


def _shape(tensor: Tensor, batch: int) -> str:
    return f"{tensor.name}:{'x'.join(str(dim) for dim in tensor.at(batch))}"
