"""The model that the README speaks of, full size: what every heavy layer ran in, and that the gates pass again."""

import json
import sys
from pathlib import Path

import onnx
import pytest

from deploy_compile.__main__ import main
from deploy_runtime.check import verify

HEAVY = {"x3d_s": (116, 1)}  # convolutions; and one matrix product, the head
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module", params=sorted(HEAVY))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """`deploy-compile recipe NAME --int8 --fp16`, in a fresh cache."""
    place = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOY_CACHE", str(place / "cache"))
        words = ["recipe", request.param, "--int8", "--fp16", "--out", str(place / "bundle")]
        patch.setattr(sys, "argv", ["deploy-compile", *words])
        main()
    return request.param, place / "bundle"


def test_every_layer_ran_in_the_precision_asked_for(made: tuple[str, Path]) -> None:
    name, bundle = made
    convolutions, products = HEAVY[name]
    ops = [node.op_type for node in onnx.load(bundle / "graphs" / "fp32.onnx").graph.node]
    assert (ops.count("Conv"), ops.count("Gemm") + ops.count("MatMul")) == (convolutions, products)
    rows = json.loads((bundle / "manifest.json").read_text())["candidates"]
    for row in rows:
        if row["status"] == "refused":
            assert "bf16" in row["precision"]
            assert "no bf16" in row["reason"]
        elif "_" not in row["precision"]:
            assert row["coverage"]["layers"] == {row["precision"]: convolutions + products}, row["backend"]
        assert row["status"] in ("passed", "built_not_run", "refused"), row["reason"]


def test_the_gates_pass_again(made: tuple[str, Path]) -> None:
    result = verify(made[1])
    assert result.passed
    ran = {row.name for row in result.rows if row.outcome == "passed"}
    assert ran >= {"openvino fp32", "openvino int8", "onnxruntime fp32", "onnxruntime int8"}
