"""Unpack what `deploy-compile package` wrote, trusting none of it: plain files in one folder, whole or not at all.

An archive comes over networks and USB sticks. The traps: tarfile follows links, has no filter on Python 3.10, and reads
extension headers of any stated size into memory; gzip turns a small file into a large one. So the blocks are read here
one by one, in the oldest format (ustar, no extensions), twice: what is refused is refused before a byte is written.
"""

import errno
import gzip
import os
import re
import secrets
import shutil
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from deploy_runtime import manifest
from deploy_runtime.errors import DeployError

BUNDLE = "bundle"  # the folder of an archive's root that holds the bundle
SUM = ".sha256"  # after an archive's name: the file beside it that sha256sum -c reads
MOST_MEMBERS = 10_000  # a package holds some dozens
MOST_BYTES = 16 * 2**30  # of all files together, as they come out
MOST_NAME = 255  # characters of a member's whole path
FILL_BYTES = 2 * tarfile.RECORDSIZE  # zeros that may follow the end of an archive
CHUNK_BYTES = 2**20
_PART = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._+-]*[A-Za-z0-9_+-])?")  # a name that every system takes as it is
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}
_AGAIN = "Copy it again from where it came, with its .sha256 beside it; nothing was written."

Write = Callable[["Member", "Reader"], None]


@dataclass(frozen=True)
class Member:
    """One file of an archive: its path from the root folder on, its size, and whether it is a command."""

    path: str
    bytes: int
    command: bool


@dataclass
class Found:
    """What an archive holds, as far as it was read. `names` are in lower case, since not every disk tells case."""

    root: str = ""
    members: list[Member] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)  # "file", "folder", or "above" what was named

    @property
    def bytes(self) -> int:
        """The size of all files together."""
        return sum(member.bytes for member in self.members)


def unpack(archive: Path, place: Path, most_bytes: int = MOST_BYTES, most_members: int = MOST_MEMBERS) -> Path:
    """Unpack into a new folder of `place`, named as the archive says, and compare the bundle's files with its manifest.

    Returns that folder. Raises DeployError, and then leaves nothing behind: for an archive that is cut short, changed,
    or holds anything but plain files; for a bundle that is damaged; where the folder stands already.
    """
    if not archive.is_file():
        raise DeployError(f"there is no archive at {archive}", "Give the .tar.gz that `deploy-compile package` wrote.")
    _compare_sum(archive)
    found = _walk(archive, most_bytes, most_members, _skip)
    target = place / found.root
    if target.exists() or target.is_symlink():
        raise DeployError(f"{target} is there already", "Give another folder, or move that one away first.")
    partial = place / f".{found.root}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        place.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(place).free) < found.bytes:
            raise OSError(errno.ENOSPC, f"{found.bytes >> 20} MiB are needed and {free >> 20} MiB are free")
        partial.mkdir()
        _walk(archive, most_bytes, most_members, lambda member, reader: _write(partial, member, reader))
        _verify(archive, partial)
        partial.rename(target)
    except OSError as error:
        raise DeployError(
            f"{archive.name} cannot be unpacked into {place}: {error.strerror}",
            "Give a folder that can be written and has room. Nothing was left there.",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


class Reader:
    """The bytes of an archive, decompressed, in exact pieces. Raises DeployError where they end or are damaged."""

    def __init__(self, archive: Path, stream: BinaryIO) -> None:
        self._archive, self._stream = archive, stream

    def exactly(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        content = self.most(count)
        if len(content) < count:
            raise DeployError(f"{self._archive.name} is cut short", _AGAIN)
        return content

    def most(self, count: int) -> bytes:
        """Return the next `count` bytes, fewer at the end."""
        try:
            return self._stream.read(count)
        except EOFError as error:
            raise DeployError(f"{self._archive.name} is cut short", _AGAIN) from error
        except (OSError, zlib.error) as error:  # gzip's own complaints are OSErrors
            raise DeployError(f"{self._archive.name} is no whole .tar.gz: {error}", _AGAIN) from error


def _walk(archive: Path, most_bytes: int, most_members: int, use: Write) -> Found:
    """Read the archive once, check every header, and give each file's member and bytes to `use`."""
    found = Found()
    with _opened(archive) as stream:
        reader = Reader(archive, stream)
        while any(block := reader.exactly(tarfile.BLOCKSIZE)):
            member = _member(archive, block, found)
            if len(found.names) > most_members:
                raise _refusal(archive, f"more than {most_members:,} entries")
            if member is None:
                continue
            found.members.append(member)
            if found.bytes > most_bytes:
                raise _refusal(archive, f"more than {most_bytes / 2**30:.3g} GiB of files")
            use(member, reader)
            reader.exactly(-member.bytes % tarfile.BLOCKSIZE)
        rest = reader.most(FILL_BYTES + 1)
        if any(rest) or len(rest) > FILL_BYTES:
            raise _refusal(archive, "something after its end")
    if not found.members:
        raise DeployError(f"{archive.name} holds nothing", _AGAIN)
    return found


def _opened(archive: Path) -> BinaryIO:
    try:
        return cast(BinaryIO, gzip.open(archive))
    except OSError as error:
        raise DeployError(f"{archive} cannot be read: {error.strerror}", "Check that it may be read.") from error


def _member(archive: Path, block: bytes, found: Found) -> Member | None:
    """Read and check a header; None for a folder."""
    try:
        info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
    except (tarfile.TarError, ValueError) as error:
        raise DeployError(f"{archive.name} is no whole .tar.gz: {error}", _AGAIN) from error
    shown = repr(info.name[:80])
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
        raise _refusal(archive, f"{shown}, which is {_KINDS.get(info.type, 'no plain file')}")
    parts = info.name.split("/")
    if len(info.name) > MOST_NAME or not all(_PART.fullmatch(part) for part in parts):
        raise _refusal(archive, f"{shown}, which is not a plain path inside it")
    folder = info.type == tarfile.DIRTYPE
    if info.size < 0 or (folder and info.size):
        raise _refusal(archive, f"{shown} with a size of {info.size}")
    found.root = found.root or parts[0]
    if parts[0] != found.root or (len(parts) == 1 and not folder):
        raise _refusal(archive, f"{shown} outside its folder {found.root}")
    _note(archive, found, info.name.lower(), "folder" if folder else "file")
    return None if folder else Member("/".join(parts[1:]), info.size, bool(info.mode & 0o100))


def _note(archive: Path, found: Found, name: str, kind: str) -> None:
    """Remember a name and the folders above it; refuse one that stands there twice, or is a file and a folder."""
    parts = name.split("/")
    for place in range(1, len(parts)):
        above = "/".join(parts[:place])
        if found.names.setdefault(above, "above") == "file":
            raise _refusal(archive, f"{above!r} as a file and as a folder")
    before = found.names.get(name)
    if before is not None and (before, kind) != ("above", "folder"):
        raise _refusal(archive, f"{name!r} twice")
    found.names[name] = kind


def _refusal(archive: Path, what: str) -> DeployError:
    return DeployError(
        f"{archive.name} holds {what}",
        "`deploy-compile package` writes no such archive: find out where it comes from. Nothing was written.",
    )


def _skip(member: Member, reader: Reader) -> None:
    for size in _pieces(member.bytes):
        reader.exactly(size)


def _write(folder: Path, member: Member, reader: Reader) -> None:
    path = folder / member.path
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        for size in _pieces(member.bytes):
            file.write(reader.exactly(size))
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o755 if member.command else 0o644)


def _pieces(count: int) -> list[int]:
    return [CHUNK_BYTES] * (count // CHUNK_BYTES) + [count % CHUNK_BYTES]


def _compare_sum(archive: Path) -> None:
    """Compare the archive with the `.sha256` beside it, where there is one."""
    beside = archive.with_name(archive.name + SUM)
    if not beside.is_file():
        return
    try:
        with beside.open(encoding="ascii") as file:
            words = file.read(2 * MOST_NAME).split()
    except (OSError, ValueError) as error:
        raise DeployError(f"{beside} cannot be read: {error}", _AGAIN) from error
    if not words or not re.fullmatch("[0-9a-f]{64}", words[0]):
        raise DeployError(f"{beside} holds no sha256", _AGAIN)
    if manifest.sha256(archive) != words[0]:
        raise DeployError(f"{archive.name} was changed or cut short: its sha256 is not that of {beside.name}", _AGAIN)


def _verify(archive: Path, partial: Path) -> None:
    try:
        manifest.verify_files(partial / BUNDLE, manifest.read(partial / BUNDLE))
    except DeployError as error:
        said = error.message.replace(str(partial), archive.name)
        raise DeployError(f"the bundle in {archive.name} is damaged: {said}", _AGAIN) from error
