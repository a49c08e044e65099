"""docs/bundle.md names every field that a manifest carries."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from deploy_runtime import spec

PAGE = (Path(__file__).parents[2] / "docs" / "bundle.md").read_text()
CARRIED = [
    spec.Manifest, spec.Tensor, spec.Preprocess, spec.Batch, spec.Limit, spec.Candidate, spec.Coverage, spec.Drift,
    spec.Verdict, spec.Speed, spec.Golden, spec.Provenance, spec.Calibration, spec.File,
]  # fmt: skip


@pytest.mark.parametrize("kind", CARRIED, ids=lambda kind: kind.__name__)
def test_every_field_is_documented(kind: type) -> None:
    named = set(re.findall(r"`([a-z0-9_]+)`", PAGE))
    assert [f.name for f in fields(kind) if f.name not in named] == []
