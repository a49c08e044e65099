"""The script that builds full-size networks with TensorRT-RTX, on a tiny one: audited, and polygraphy agrees."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def script() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return importlib.import_module("rtx_builds")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.mark.slow
def test_every_engine_is_built_for_a_range_of_batches_and_polygraphy_agrees(script: ModuleType) -> None:
    found = script.built(f"{ROOT / 'tests' / 'tiny_nets.py'}:tiny")
    rows = {row["name"].partition(" ")[2]: row for row in found["candidates"]}
    assert rows.keys() == {"fp32", "fp16", "int8", "int8_fp16"}
    assert found["batch"] == [1, 4, 16]
    for precision, row in rows.items():
        assert (row["status"], row["breaches"]) == ("built_not_run", []), row["reason"]
        assert row["bytes"] > 0
        ours, asked = row["golden_sqnr_db"]["logits"], row["polygraphy_sqnr_db"]["logits"]
        if precision == "int8":
            assert abs(ours - asked) < 1.0
        else:  # polygraphy's runner computes fp16 in wider types
            assert asked > ours - 3.0
    assert rows["int8"]["layers"] == {"int8": 4}
    assert script._line({"recipe": "tiny", "commit": "0"}, rows["int8"]).startswith(
        "| `tiny` | tensorrt_rtx int8 | built |"
    )
