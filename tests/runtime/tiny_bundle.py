"""A whole bundle of a tiny network, written in milliseconds: what the runtime's tests, and others', open and break.

The golden outputs come from onnx's reference evaluator, so that no engine judges itself.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference

from deploy_runtime import manifest as manifests
from deploy_runtime.evidence import Calibration, Candidate, Coverage, Golden, Manifest, Provenance
from deploy_runtime.judge import judge
from deploy_runtime.measure import measure
from deploy_runtime.spec import Batch, Classes, Limit, Preprocess, Tensor
from tests import toys

LIMITS = {"fp32": Limit(max_relative=1e-4, fp64_ratio=10.0, agreement=1.0), "int8": Limit(cosine=0.99, sqnr_db=18.0)}
SAMPLES = 3


def write(folder: Path, **changes: Any) -> Path:
    """Write a bundle that ships one fp32 graph for OpenVINO and ONNX Runtime, and an engine nobody has run.

    `changes` replaces fields of the manifest before it is written.
    """
    (folder / "graphs").mkdir(parents=True)
    (folder / "engines").mkdir()
    (folder / "golden").mkdir()
    graph = toys.conv_graph(folder / "graphs" / "fp32.onnx")
    (folder / "engines" / "fp32.tensorrt_rtx.engine").write_bytes(b"never run")
    samples = np.concatenate(toys.images(SAMPLES))
    golden = onnx.reference.ReferenceEvaluator(onnx.load(graph)).run(None, {"image": samples})
    assert isinstance(golden, list)
    answers = {"logits": np.asarray(golden[0])}
    np.savez(folder / "golden" / "inputs.npz", image=samples)
    np.savez(folder / "golden" / "outputs.npz", logits=answers["logits"])
    drift = measure(answers, answers, Classes(5))
    row = Candidate(
        "openvino",
        "fp32",
        "cpu",
        "passed",
        file="graphs/fp32.onnx",
        coverage=Coverage({"fp32": 4}, {"fp32": 1.0}),
        drift=drift,
        verdicts=judge(drift, LIMITS["fp32"]),
    )
    engine = replace(row, backend="tensorrt_rtx", target="rtx", status="built_not_run", emulated=True)
    rows = (
        row,
        replace(row, backend="onnxruntime"),
        replace(engine, file="engines/fp32.tensorrt_rtx.engine"),
    )
    manifests.write(folder, replace(manifest(rows), **changes))
    return folder


def manifest(rows: tuple[Candidate, ...]) -> Manifest:
    """Return the manifest of a tiny bundle, without its files."""
    return Manifest(
        format=manifests.FORMAT,
        name="toy",
        recipe="toy",
        family="toy",
        params={},
        inputs=(Tensor("image", ("batch", 3, 16, 16), layout="NCHW"),),
        outputs=(Tensor("logits", ("batch", 5)),),
        task=Classes(5),
        preprocess=Preprocess((16, 16), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "CHW", short_side=20),
        labels=("a", "b", "c", "d", "e"),
        batch=Batch(1, 1, 1),
        limits=LIMITS,
        candidates=rows,
        chosen=0,
        fallback=1,
        verdict="openvino fp32 is the fastest that passes",
        golden=Golden(SAMPLES, True, {"logits": 1e-7}),
        provenance=Provenance(
            weights="seeded",
            weights_sha256="0" * 64,
            parameters=1,
            calibration=Calibration(True, 8, 8, "percentile", "0" * 64),
            held_out="16 synthetic samples",
            versions={"deploy-compile": "0.1.0"},
            machine={"cpu": "a test"},
            options={},
            created="2026-01-01T00:00:00+00:00",
        ),
    )


def changed(bundle: Path, **changes: Any) -> Path:
    """Write the manifest again with fields replaced."""
    manifests.write(bundle, replace(manifests.read(bundle), **changes))
    return bundle


def for_device(bundle: Path, target: str = "jetson-jp6") -> Path:
    """Give a bundle the graphs that a device builds from, as the pipeline ships them."""
    found = manifests.read(bundle)
    rows = []
    for precision in ("fp32", "int8_fp16"):
        file = f"graphs/{precision}.onnx"
        if not (bundle / file).exists():
            shutil.copyfile(bundle / "graphs" / "fp32.onnx", bundle / file)
        rows.append(Candidate("tensorrt", precision, target, "to_build", file=file, emulated=True))
    limits = {**found.limits, "int8_fp16": Limit(cosine=0.99)}
    return changed(bundle, candidates=(*found.candidates, *rows), limits=limits)
