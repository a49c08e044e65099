"""The cache: kept by content, whole or absent, safe when killed and when two run at once."""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy_compile.cache import Stages
from deploy_compile.fingerprint import fingerprint, source_digest
from deploy_runtime.errors import DeployError


@dataclass(frozen=True)
class Made:
    """A toy result."""

    file: Path
    counted: Mapping[str, int]
    made_from: Path | None = None


CALLS: list[str] = []


def letters(out: Path, text: str, source: Path | None = None) -> Made:
    """A toy stage: counts letters."""
    CALLS.append(text)
    (out / "text.txt").write_text(text)
    return Made(out / "text.txt", {letter: text.count(letter) for letter in set(text)}, source)


def shout(out: Path, made: Made) -> Made:
    """A toy stage that reads what another one wrote."""
    (out / "text.txt").write_text(made.file.read_text().upper())
    return Made(out / "text.txt", made.counted, made.file)


def fails(out: Path, number: int) -> Made:
    """A toy stage that the disk fails."""
    (out / "half.txt").write_text("half")
    raise OSError(number, os.strerror(number), str(out / "half.txt"))


@pytest.fixture
def heard() -> list[tuple[str, bool]]:
    CALLS.clear()
    return []


@pytest.fixture
def run(tmp_path: Path, heard: list[tuple[str, bool]]) -> Stages:
    return Stages(tmp_path, lambda *_: None, lambda stage, _, seconds: heard.append((stage, seconds is None)))


def test_a_second_run_does_no_work_and_says_so(run: Stages, heard: list[tuple[str, bool]]) -> None:
    first = run(shout, run(letters, "abba"))
    second = run(shout, run(letters, "abba"))
    assert second == first
    assert second.file.read_text() == "ABBA"
    assert CALLS == ["abba"]
    assert heard == [("letters", False), ("shout", False), ("letters", True), ("shout", True)]


def test_another_argument_or_another_file_content_is_another_result(run: Stages, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("1")
    one = run(letters, "ab", source)
    source.write_text("2")
    assert run(letters, "ab", source).file != one.file
    assert run(letters, "ba", source).file != one.file


def test_two_caches_give_the_same_key(tmp_path: Path, run: Stages) -> None:
    other = Stages(tmp_path / "other", lambda *_: None, lambda *_: None)
    made, made_there = run(letters, "ab"), other(letters, "ab")
    assert run.key(shout, (made,)) == other.key(shout, (made_there,))


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "Permission denied")])
def test_a_failed_write_is_told_and_leaves_nothing(run: Stages, number: int, words: str) -> None:
    with pytest.raises(DeployError, match=words):
        run(fails, number)
    assert not [p for p in run.folder.iterdir() if p.is_dir()]


def test_an_unwritable_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeployError, match="cannot be made"):
        Stages(tmp_path / "file" / "cache", lambda *_: None, lambda *_: None)


def test_several_at_once_come_back_in_order(run: Stages) -> None:
    made = run.each(3, letters, [(text,) for text in ("a", "b", "c")])
    assert [m.counted for m in made] == [{"a": 1}, {"b": 1}, {"c": 1}]


SLOW = """
import sys, time
from pathlib import Path
from deploy_compile.cache import Stages
sys.path.insert(0, {here!r})
from slow_stage import slow
run = Stages(Path({cache!r}), lambda *a: print("started", flush=True), lambda *a: None)
print(run(slow, "x").name, flush=True)
"""
STAGE = """
import time
from pathlib import Path
def slow(out: Path, text: str) -> Path:
    (out / "a").write_text(text)
    time.sleep(1.5)
    (out / "b").write_text(text)
    return out / "b"
"""


def test_killed_in_the_middle_then_whole_and_two_at_once_make_it_once(tmp_path: Path) -> None:
    (tmp_path / "slow_stage.py").write_text(STAGE)
    command = [sys.executable, "-c", SLOW.format(here=str(tmp_path), cache=str(tmp_path / "cache"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"started\n"
        time.sleep(0.3)
        victim.kill()
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[0].split() for process in runs]
    assert sorted(said) == [["b"], ["started", "b"]]
    folders = [p for p in (tmp_path / "cache" / "stages").iterdir() if p.is_dir()]
    assert len(folders) == 1
    assert sorted(p.name for p in folders[0].iterdir()) == ["a", "b", "result.json"]


def test_fingerprints_follow_content(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "1.npy").write_bytes(b"1")
    before = fingerprint(tmp_path / "clips")
    (tmp_path / "clips" / "2.npy").write_bytes(b"2")
    assert fingerprint(tmp_path / "clips") != before


def test_a_source_digest_reaches_through_imports() -> None:
    assert source_digest("deploy_compile.parity") != source_digest("deploy_compile.choose")


USER = """
import sys
sys.path.insert(0, {here!r})
import nets
from deploy_compile.fingerprint import source_digest
print(source_digest("nets"))
"""


def digest_of_nets(folder: Path) -> str:
    command = [sys.executable, "-B", "-c", USER.format(here=str(folder))]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_users_file_counts_with_what_it_imports_from_beside_it(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text("import layers\n")
    said = []
    for body in ("a = 1\n", "a = 2\n", "a = 1\n"):
        (tmp_path / "layers.py").write_text(body)
        said.append(digest_of_nets(tmp_path))
    assert said[0] == said[2] != said[1]


def test_what_a_worker_is_told_to_run_counts_and_a_word_that_names_a_module_does_not(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text("RUN, KIND = 'layers:run', 'losses'\n")
    said = []
    for changed in ("", "losses", "layers"):
        for name in ("layers", "losses"):
            (tmp_path / f"{name}.py").write_text(f"a = {int(changed == name)}\n")
        said.append(digest_of_nets(tmp_path))
    assert said[0] == said[1] != said[2]
