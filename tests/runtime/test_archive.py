"""An archive is unpacked whole or not at all, and only where `deploy-compile package` could have made it."""

import gzip
import io
import shutil
import stat
import tarfile
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy_runtime import archive as archives
from deploy_runtime import manifest
from deploy_runtime.__main__ import main
from deploy_runtime.archive import unpack
from deploy_runtime.errors import DeployError

ROOT = "toy-cpu"
Usage = namedtuple("Usage", "total used free")


def entry(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, size: int | None = None) -> bytes:
    """One header with what follows it; `size` is what the header claims."""
    info = tarfile.TarInfo("placeholder")
    info.size, info.type, info.linkname = len(content) if size is None else size, kind, "/etc/passwd"
    info.mode = 0o6755
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    raw = name.encode("utf-8", "surrogateescape")
    header[:100] = raw[:100].ljust(100, b"\0")
    if len(raw) > 100:
        header[:100], header[345:500] = raw[-100:], raw[:-101][-155:].ljust(155, b"\0")
        header[257:265] = b"ustar\x0000"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def packed(path: Path, *entries: bytes, end: bytes = bytes(2 * tarfile.BLOCKSIZE)) -> Path:
    path.write_bytes(gzip.compress(b"".join(entries) + end, mtime=0))
    return path


@pytest.fixture
def good(tmp_path: Path, bundle: Path) -> Path:
    """A whole archive of the tiny bundle, as tarfile writes one."""
    path = tmp_path / "toy-cpu.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.USTAR_FORMAT) as stream:
        for file in sorted(file for file in bundle.rglob("*") if file.is_file()):
            stream.add(file, f"{ROOT}/bundle/{file.relative_to(bundle).as_posix()}")
        info = tarfile.TarInfo(f"{ROOT}/install.py")
        info.mode, info.size = 0o6755, 4
        stream.addfile(info, io.BytesIO(b"pass"))
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "place"


def refused(path: Path, place: Path, **limits: int) -> DeployError:
    """The one error of an archive that is not unpacked; nothing is left behind."""
    with pytest.raises(DeployError) as caught:
        unpack(path, place, **limits)
    assert not place.exists() or list(place.iterdir()) == []
    assert "\n" not in caught.value.message
    assert caught.value.fix
    return caught.value


def test_a_whole_one_is_unpacked_and_verified(good: Path, place: Path, bundle: Path) -> None:
    made = unpack(good, place)
    assert made == place / ROOT
    assert manifest.digest(made / "bundle") == manifest.digest(bundle)
    manifest.verify_files(made / "bundle", manifest.read(made / "bundle"))
    assert stat.S_IMODE((made / "install.py").stat().st_mode) == 0o755  # no setuid
    assert stat.S_IMODE((made / "bundle" / "manifest.json").stat().st_mode) == 0o644
    assert [path.name for path in place.iterdir()] == [ROOT]


def test_what_stands_there_is_left_alone(good: Path, place: Path) -> None:
    (place / ROOT).mkdir(parents=True)
    (place / ROOT / "mine").write_text("mine")
    with pytest.raises(DeployError, match="is there already"):
        unpack(good, place)
    assert (place / ROOT / "mine").read_text() == "mine"


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd", "../out", f"{ROOT}/../../out", f"{ROOT}/./x", f"{ROOT}//x", "..", ".", "", f"{ROOT}\\x",
        "C:/x", f"{ROOT}/a:b", f"{ROOT}/a\nb", f"{ROOT}/a\x1bb", f"{ROOT}/.hidden", f"{ROOT}/-rf", f"{ROOT}/end.",
        f"{ROOT}/a b", f"{ROOT}/\u202egpj", f"{ROOT}/\udcff", f"{ROOT}/{'x' * 250}", "alone",
    ],
)  # fmt: skip
def test_a_name_that_is_no_plain_path_is_refused(tmp_path: Path, place: Path, name: str) -> None:
    path = packed(tmp_path / "a.tar.gz", entry(f"{ROOT}/ok", b"1"), entry(name, b"2"))
    error = refused(path, place)
    assert "not a plain path" in error.message or "outside its folder" in error.message or "no whole" in error.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"6", b"7", b"S", b"L", b"K", b"x", b"g", b"Z"])
def test_only_files_and_folders_are_taken(tmp_path: Path, place: Path, kind: bytes) -> None:
    path = packed(tmp_path / "a.tar.gz", entry(f"{ROOT}/ok", b"1"), entry(f"{ROOT}/link", b"", kind))
    assert "which is " in refused(path, place).message


def test_an_extension_header_of_any_size_is_never_read(tmp_path: Path, place: Path) -> None:
    path = packed(tmp_path / "a.tar.gz", entry(f"{ROOT}/pax", b"", b"x", size=2**40))
    assert "no plain file" in refused(path, place).message


@pytest.mark.parametrize(
    "entries",
    [
        (entry(f"{ROOT}/a", b"1"), entry(f"{ROOT}/a", b"2")),
        (entry(f"{ROOT}/a", b"1"), entry(f"{ROOT}/A", b"2")),
        (entry(f"{ROOT}/a", b"1"), entry(f"{ROOT}/a/b", b"2")),
        (entry(f"{ROOT}/a/b", b"1"), entry(f"{ROOT}/a", b"2")),
        (entry(f"{ROOT}/a", b"", tarfile.DIRTYPE), entry(f"{ROOT}/a", b"2")),
        (entry(f"{ROOT}/a", b"1"), entry("other/b", b"2")),
        (entry(ROOT, b"1"),),
        (entry(f"{ROOT}/a", b"12", tarfile.DIRTYPE),),
    ],
)
def test_nothing_stands_there_twice_or_elsewhere(tmp_path: Path, place: Path, entries: tuple[bytes, ...]) -> None:
    path = packed(tmp_path / "a.tar.gz", *entries)
    assert "writes no such archive" in refused(path, place).fix


def test_a_bomb_is_refused_before_a_byte_is_written(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_write", None)
    zeros = bytes(2**22)
    several = packed(tmp_path / "a.tar.gz", *(entry(f"{ROOT}/{i}", zeros) for i in range(4)))
    assert several.stat().st_size < 2**16
    assert "GiB of files" in refused(several, place, most_bytes=2**23).message
    claimed = packed(tmp_path / "b.tar.gz", entry(f"{ROOT}/a", b"", size=2**50))
    assert "GiB of files" in refused(claimed, place).message
    short = packed(tmp_path / "c.tar.gz", entry(f"{ROOT}/a", b"1", size=2**20))
    assert "cut short" in refused(short, place).message
    many = packed(tmp_path / "d.tar.gz", *(entry(f"{ROOT}/{i}", b"") for i in range(20)))
    assert "more than 10 entries" in refused(many, place, most_members=10).message
    after = packed(tmp_path / "e.tar.gz", entry(f"{ROOT}/a", b"1"), end=bytes(2**24))
    assert "something after its end" in refused(after, place).message
    hidden = packed(tmp_path / "f.tar.gz", entry(f"{ROOT}/a", b"1"), end=bytes(1024) + entry("../out", b"2"))
    assert "something after its end" in refused(hidden, place).message


def test_room_is_looked_for_first(good: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, 100))
    assert "are free" in refused(good, place).message


@pytest.mark.parametrize(
    "content",
    [b"", b"\x1f\x8b", b"garbage" * 100, gzip.compress(b"", mtime=0), gzip.compress(b"x" * 2000, mtime=0)],
    ids=["empty", "two bytes", "garbage", "nothing compressed", "no archive compressed"],
)
def test_garbage_is_one_sentence(tmp_path: Path, place: Path, content: bytes) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(content)
    assert "a.tar.gz is" in refused(path, place).message


def test_what_is_no_file_is_one_sentence(tmp_path: Path, place: Path) -> None:
    assert "there is no archive" in refused(tmp_path, place).message
    assert "there is no archive" in refused(tmp_path / "none.tar.gz", place).message


def test_a_wrong_sum_beside_it_is_told(good: Path, place: Path) -> None:
    beside = good.with_name(good.name + ".sha256")
    beside.write_text(f"{'0' * 64}  {good.name}\n")
    assert "was changed or cut short" in refused(good, place).message
    beside.write_text("no sum\n")
    assert "holds no sha256" in refused(good, place).message
    beside.write_text(f"{manifest.sha256(good)}  {good.name}\n")
    assert unpack(good, place).is_dir()


def test_a_damaged_bundle_in_a_whole_archive_is_not_left_there(tmp_path: Path, bundle: Path, place: Path) -> None:
    files = {file.relative_to(bundle).as_posix(): file.read_bytes() for file in bundle.rglob("*") if file.is_file()}
    files["graphs/fp32.onnx"] = files["graphs/fp32.onnx"][:-1] + b"!"
    path = packed(tmp_path / "a.tar.gz", *(entry(f"{ROOT}/bundle/{name}", own) for name, own in files.items()))
    error = refused(path, place)
    assert "its sha256 is not the manifest's" in error.message
    assert ".tmp" not in error.message
    del files["manifest.json"]
    path = packed(tmp_path / "b.tar.gz", *(entry(f"{ROOT}/bundle/{name}", own) for name, own in files.items()))
    assert "holds no manifest.json" in refused(path, place).message


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_an_error_or_does_no_harm(good: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Cut anywhere, or with bytes changed, compressed or not: one DeployError and nothing left, or the same files."""
    content = good.read_bytes()
    inner = data.draw(st.booleans(), label="inside the gzip stream")
    content = gzip.decompress(content) if inner else content
    changed = bytearray(content[: data.draw(st.integers(0, len(content)), label="cut at")])
    for place in data.draw(st.lists(st.integers(0, max(0, len(changed) - 1)), max_size=3), label="bytes changed at"):
        if changed:
            changed[place] ^= data.draw(st.integers(1, 255))
    path, folder = tmp_path / "changed.tar.gz", tmp_path / "changed"
    path.write_bytes(gzip.compress(bytes(changed), 1) if inner else bytes(changed))
    shutil.rmtree(folder, ignore_errors=True)
    try:
        made = unpack(path, folder)
    except DeployError:
        assert not folder.exists() or list(folder.iterdir()) == []
    else:
        manifest.verify_files(made / "bundle", manifest.read(made / "bundle"))


def test_the_command_says_what_it_made_or_two_lines(
    good: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["unpack", str(good), str(place)]) == 0
    told = capsys.readouterr().out
    assert "every sha256 as in the manifest" in told
    assert f"python3 {place / ROOT / 'install.py'}" in told
    assert main(["unpack", str(good), str(place)]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ")
    assert second.startswith("  fix: ")
