from pathlib import Path

import pytest

from deploy_compile.disk import replacing_folder
from deploy_runtime.errors import DeployError


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "there"
    for content in ("one", "two"):
        with replacing_folder(target) as partial:
            (partial / "file").write_text(content)
        assert (target / "file").read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_what_stood_there_stays_where_the_work_fails(tmp_path: Path) -> None:
    target = tmp_path / "there"
    target.mkdir()
    (target / "file").write_text("one")

    def work() -> None:
        with replacing_folder(target) as partial:
            (partial / "file").write_text("two")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        work()
    assert (target / "file").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_what_stood_there_stays_where_the_last_step_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, rename = tmp_path / "there", Path.rename
    target.mkdir()
    (target / "file").write_text("one")

    def failing(self: Path, to: Path) -> Path:
        if to == target and not self.name.endswith("-old"):
            raise PermissionError(13, "Permission denied", str(self))
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(DeployError, match="Permission denied"), replacing_folder(target) as partial:
        (partial / "file").write_text("two")
    assert (target / "file").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
