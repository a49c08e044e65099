"""This machine's own choice among a bundle's candidates, as `reselect` measured it here.

A bundle's choice was measured on the machine that built it. The record is of one bundle, and names the machine and the
versions of its libraries; where one of them changes it says nothing any more. It lives in this machine's cache, never
in the bundle.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy_runtime import backends, device_cache, machine
from deploy_runtime.data import decode, encode
from deploy_runtime.errors import DeployError
from deploy_runtime.evidence import Candidate

FOLDER = "reselected"


@dataclass(frozen=True)
class Timed:
    """One candidate's median on this machine, and its time over the fastest one's with the 95 % interval."""

    candidate: str
    milliseconds: float
    lag: float
    lag_low: float
    lag_high: float


@dataclass(frozen=True)
class Preference:
    """What `reselect` found: the chosen candidate's name, and every one that was timed, the fastest first."""

    chosen: str
    threads: int
    date: str
    timed: tuple[Timed, ...]


@dataclass(frozen=True)
class _Record:
    machine: str
    versions: dict[str, str]
    preference: Preference


def keep(bundle_digest: str, rows: Sequence[Candidate], found: Preference) -> Path:
    """Remember a choice. Raises DeployError where the cache cannot be written."""
    if device_cache.writable(FOLDER) is None:
        raise DeployError(
            f"{device_cache.folder()} cannot be written to remember the choice",
            f"Set {device_cache.VARIABLE} to a folder that can.",
        )
    record = _Record(machine.fingerprint(), _versions(rows), found)
    device_cache.write(_path(bundle_digest), json.dumps(encode(record), sort_keys=True, indent=1).encode())
    return _path(bundle_digest)


def kept(bundle_digest: str, rows: Sequence[Candidate]) -> Preference | None:
    """Return what was chosen here for a bundle; None where nothing was, or where it no longer holds."""
    try:
        record = decode(_Record, json.loads(_path(bundle_digest).read_bytes()), "reselection")
    except (OSError, ValueError, DeployError):  # absent, or another version's: as if nothing had been chosen
        return None
    valid = record.machine == machine.fingerprint() and record.versions == _versions(rows)
    return record.preference if valid else None


def _path(bundle_digest: str) -> Path:
    return device_cache.folder() / FOLDER / f"{bundle_digest[:32]}.json"


def _versions(rows: Sequence[Candidate]) -> dict[str, str]:
    """Return the version of every library that is here and that one of the candidates needs."""
    names = sorted({row.backend for row in rows})
    return {name: backends.get(name).version() for name in names if backends.get(name).missing() is None}
