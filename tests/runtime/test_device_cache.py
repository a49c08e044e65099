"""The device's cache: where it is, and that nothing half written is ever seen."""

import sys
from pathlib import Path

import pytest

from deploy_runtime import device_cache
from deploy_runtime.errors import DeployError


def test_the_variable_decides_then_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEPLOY_CACHE", str(tmp_path / "here"))
    assert device_cache.folder() == tmp_path / "here"
    monkeypatch.setenv("DEPLOY_CACHE", "")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/caches")
    assert device_cache.folder() == Path("/var/caches/deploy-compile")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert device_cache.folder() == Path("/home/someone/.cache/deploy-compile")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert device_cache.folder() == Path("/home/someone/Library/Caches/deploy-compile")
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert device_cache.folder() == Path("/local/deploy-compile")


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setenv("DEPLOY_CACHE", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(DeployError, match="no home folder") as caught:
        device_cache.folder()
    assert "DEPLOY_CACHE" in caught.value.fix


def write_half(path: Path) -> None:
    with device_cache.replacing(path) as partial:
        partial.write_bytes(b"half")
        raise ValueError("killed")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "record"
    device_cache.write(path, b"first")
    with pytest.raises(ValueError, match="killed"):
        write_half(path)
    assert path.read_bytes() == b"first"
    device_cache.write(path, b"second")
    assert path.read_bytes() == b"second"
    assert [file.name for file in tmp_path.iterdir()] == ["record"]


def test_a_writable_folder_is_made_for_this_user_only(cache: Path) -> None:
    made = device_cache.writable("compiled", "openvino")
    assert made is not None
    assert made == cache / "compiled" / "openvino"
    assert made.is_dir()
    assert made.stat().st_mode & 0o077 == 0
    assert list(made.iterdir()) == []
    (cache / "file").touch()
    assert device_cache.writable("file", "below") is None
