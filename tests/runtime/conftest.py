"""Every test has a device cache of its own, and a tiny bundle when it asks for one."""

from pathlib import Path

import pytest

from deploy_runtime import backend_tensorrt_rtx
from tests.runtime import tiny_bundle


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "device cache"
    monkeypatch.setenv("DEPLOY_CACHE", str(folder))
    return folder


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_tensorrt_rtx, "missing", lambda: "no NVIDIA driver found")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny_bundle.write(tmp_path / "bundle")
