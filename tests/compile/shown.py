"""Manifests for pages to show: everything, nothing, and one text wherever somebody may have put it."""

from collections.abc import Mapping
from dataclasses import replace

from deploy_compile.results import Layer
from deploy_runtime.drift import Drift, Verdict
from deploy_runtime.evidence import (
    Accuracy,
    Calibration,
    Candidate,
    ClassRecall,
    Coverage,
    Difference,
    Evaluation,
    Interval,
    Manifest,
    Repair,
    Speed,
)
from deploy_runtime.spec import Limit
from tests.runtime import tiny_bundle

HOSTILE = "<script>alert('x')</script>\"&amp;\x00\x1b[31m\u202e--><!--</style>"

DRIFT = Drift("logits", 16, 0.31, 0.04, 6.2, 0.05, 0.0065, 0.99871, 0.9971, 26.4, 3.2, 0.9375, 0.717, 0.989, 16, 1)
MAP = Drift("map", 16, 0.02, 0.001, 1.0, 0.02, 0.001, 0.9999, 0.9998, 41.75)
VERDICTS = (
    Verdict("logits", "cosine", 0.99871, 0.99, True),
    Verdict("logits", "sqnr_db", 26.4, 18.0, True),
    Verdict("logits", "agreement", 0.9375, 0.95, False, "95 % interval 0.717 to 0.989 over 16"),
    Verdict("map", "max_relative", 0.02, 0.05, True),
    Verdict("map", "fp64_ratio", 3.25, 10.0, True),
)
SPEED = Speed(4.392, 4.317, 4.463, 24.73, 26.11, 108.62, 1200, 2, p99_ms=31.87)
ROWS = (
    Candidate(
        "openvino", "int8", "cpu", "passed", file="graphs/int8.cpu.onnx",
        coverage=Coverage({"int8": 3, "fp32": 1}, {"int8": 0.931, "fp32": 0.069}),
        drift=(DRIFT, MAP), verdicts=VERDICTS, speed=SPEED,
    ),
    Candidate("onnxruntime", "fp32", "cpu", "passed", file="graphs/fp32.onnx", speed=replace(SPEED, p50_ms=97.15)),
    Candidate("openvino", "bf16", "cpu", "refused", "this processor has no bf16"),
    Candidate("tensorrt_rtx", "int8_fp16", "rtx", "built_not_run", "built here", verdicts=VERDICTS, emulated=True),
)  # fmt: skip
LAYERS = {
    "openvino int8": (
        Layer("/stem/stem.0/Conv", "Conv", "fp32"),
        Layer("/block/block.0/Conv", "Conv", "int8"),
        Layer("/block/block.3/Conv", "Conv", "int8"),
        Layer("/head/Gemm", "Gemm", "int8"),
    )
}


def accuracy(share: float) -> Accuracy:
    interval = Interval(share, share - 0.1, share + 0.05)
    return Accuracy(interval, (ClassRecall(12, interval), ClassRecall(0, None)), interval, None)


EVALUATION = Evaluation(
    "openvino int8", 240, 240, "c" * 64, accuracy(0.8625), accuracy(0.8583),
    Difference(Interval(-0.0042, -0.0125, 0.0), 2, 1, 1.0), 0.5,
)  # fmt: skip


def full() -> Manifest:
    """A manifest with everything that the page can show."""
    plain = tiny_bundle.manifest(ROWS)
    given = Calibration(False, 48, 12, "auto", "d" * 64, ("1 calibration sample only: one scene sets the INT8 ranges",))
    return replace(
        plain,
        name="clips-int8",
        labels=("rest", "tool"),
        limits={"int8": Limit(cosine=0.99, outputs={"map": Limit(cosine=0.9, reason="a map of few values")})},
        verdict="openvino int8: 4.4x PyTorch here, and it passes; 3.93x of onnxruntime fp32, the next best. And more",
        provenance=replace(plain.provenance, calibration=given, weights="file", options={"precisions": "fp32 int8"}),
        repairs={"cpu": Repair(("/stem/stem.0/Conv",), 4, 14.9, 27.35, 1.12)},
        evaluation=EVALUATION,
    )


def bare() -> Manifest:
    """A manifest of which nothing was measured."""
    plain = tiny_bundle.manifest((Candidate("openvino", "fp32", "cpu", "passed", file="graphs/fp32.onnx"),))
    return replace(plain, fallback=None, provenance=replace(plain.provenance, calibration=None, held_out=""))


def with_text(text: str) -> tuple[Manifest, Mapping[str, tuple[Layer, ...]]]:
    """A manifest that holds `text` wherever a recipe, a user, a library or a file may have put it."""
    manifest = full()
    noted = replace(ROWS[0], verdicts=(replace(VERDICTS[0], output=text, note=text, metric=text),), file=text)
    fallen = replace(ROWS[2], reason=text, drift=(replace(DRIFT, output=text),), verdicts=VERDICTS)
    assert manifest.provenance.calibration is not None
    made = replace(
        manifest.provenance,
        held_out=text, versions={text: text}, machine={"cpu": text, text: text}, options={text: text}, created=text,
        calibration=replace(manifest.provenance.calibration, warnings=(text,), algorithm=text, digest=text),
        weights=text, weights_sha256=text,
    )  # fmt: skip
    found = replace(
        manifest,
        name=text, recipe=text, family=text, params={text: text}, verdict=text, labels=(text, text), provenance=made,
        candidates=(noted, *ROWS[1:2], fallen), repairs={text: Repair((text,), 1, 1.0, 2.0, 1.0)},
        inputs=(replace(manifest.inputs[0], name=text, dtype=text, layout=text),),
        limits={"int8": Limit(reason=text, outputs={text: Limit(reason=text)})},
        evaluation=replace(EVALUATION, candidate=text, digest=text),
    )  # fmt: skip
    return found, {"openvino int8": (Layer(text, text, text),)}
