"""Writing so that nothing is half-written, and saying so when it cannot be done."""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from deploy_runtime.errors import DeployError


def told(error: OSError, where: Path) -> DeployError:
    """Say a failed write as a person should hear it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DeployError(
            f"the disk is full: writing under {where.parent} failed",
            "Free some space, or set DEPLOY_CACHE and --out to another disk. Nothing half-written was left.",
        )
    return DeployError(
        f"{error.filename or where}: {error.strerror}", "Check that it exists and may be read and written."
    )


def sync(folder: Path) -> None:
    """Force a folder's files, and the folder, to the disk, so that a rename after it publishes whole files."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target` that takes its place, whole, when the block ends without an error.

    Raises DeployError where the disk does not allow it; nothing half-written is left.
    """
    partial = target.with_name(f".{target.name}.tmp-{secrets.token_hex(4)}")
    old = partial.with_name(f"{partial.name}-old")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for stale in target.parent.glob(f".{target.name}.tmp-*"):
            shutil.rmtree(stale, ignore_errors=True)  # a killed run's
        partial.mkdir()
        yield partial
        sync(partial)
        if target.exists():
            target.rename(old)
        try:
            partial.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)  # what stood there stays
            raise
    except OSError as error:
        raise told(error, target) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
