"""Writing so that nothing is half-written, and saying so when it cannot be done."""

import errno
import os
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
