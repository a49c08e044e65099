"""docs/bundle.md names every field that a manifest carries."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from deploy_runtime import evidence, spec

PAGE = (Path(__file__).parents[2] / "docs" / "bundle.md").read_text()
CARRIED: set[type] = {value for module in (evidence, spec) for value in vars(module).values() if is_dataclass(value)}


@pytest.mark.parametrize("kind", sorted(CARRIED, key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_every_field_is_documented(kind: type) -> None:
    named = set(re.findall(r"`([a-z0-9_]+)`", PAGE))
    assert [f.name for f in fields(kind) if f.name not in named] == []
