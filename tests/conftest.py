"""Tests run side by side (`-n` in pyproject.toml), so each has one thread, and all share what the stages made."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch is imported, which reads it then


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of every test that compiles a tiny network: one of the run's own, for all its processes."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "stages"
