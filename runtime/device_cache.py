"""This machine's own folder for what it compiles, measures and proves: never part of a bundle, safe to delete.

Everything is written to a temporary name, flushed to the disk and renamed, so that a reader finds a whole file or none,
whatever is killed when. The trap: the folder may be shared over a network or be read-only; `writable` says so, and
the runtime then works without it, only starts slower.
"""

import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy_runtime.errors import DeployError

VARIABLE = "DEPLOY_CACHE"
NAME = "deploy-compile"


def folder() -> Path:
    """Return the cache folder: $DEPLOY_CACHE, else `deploy-compile` in the user's cache folder; made on first use."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen).expanduser().absolute()
    try:
        return _users() / NAME
    except RuntimeError as error:  # Path.home() where neither HOME nor a user entry says
        raise DeployError("this user has no home folder for a cache", f"Set {VARIABLE} to a folder.") from error


def _users() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return chosen if chosen.is_absolute() else Path.home() / ".cache"  # the XDG standard ignores relative ones


def writable(*parts: str) -> Path | None:
    """Return the subfolder `parts` of the cache, made if need be, or None where it cannot be written."""
    place = folder().joinpath(*parts)
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=place):
            pass  # permissions alone do not tell: a read-only disk, a full one
    except OSError:
        return None
    return place


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all. Raises OSError."""
    with replacing(path) as partial:
        partial.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; what was written there becomes `path` when the block ends well.

    Raises OSError; nothing is left behind then.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _sync_folder(path: Path) -> None:
    """Make a rename last through a power cut; Windows has no such call and needs none."""
    if sys.platform == "win32":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
