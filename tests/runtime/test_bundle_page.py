"""docs/bundle.md names every field that a manifest carries."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from deploy_runtime import drift, evidence, spec

PAGE = (Path(__file__).parents[2] / "docs" / "bundle.md").read_text()
VALUES = {**vars(drift), **vars(evidence), **vars(spec)}
CARRIED = {name: value for name, value in VALUES.items() if isinstance(value, type) and is_dataclass(value)}


@pytest.mark.parametrize("kind", CARRIED.values(), ids=CARRIED.keys())
def test_every_field_is_documented(kind: type) -> None:
    named = set(re.findall(r"`([a-z0-9_]+)`", PAGE))
    assert [f.name for f in fields(kind) if f.name not in named] == []
