"""This machine's own record that an engine nobody had run before gave the right answers here.

An engine built on a machine without its GPU is `built_not_run`: `load` takes it only after `verify` ran the golden
samples through it on the machine in question. The record names bundle, engine, library version and machine; where one
of them changes it says nothing any more.
"""

import hashlib
import json
from pathlib import Path

from deploy_runtime import backends, device_cache, machine
from deploy_runtime.errors import DeployError
from deploy_runtime.evidence import Candidate

FOLDER = "verified"


def keep(bundle_digest: str, candidate: Candidate) -> None:
    """Record that a candidate passed here. Raises DeployError where the cache cannot be written."""
    facts = _facts(bundle_digest, candidate)
    if device_cache.writable(FOLDER) is None:
        raise DeployError(
            f"{candidate.name} passed, and {device_cache.folder()} cannot be written to remember it",
            f"Set {device_cache.VARIABLE} to a folder that can, and verify again.",
        )
    device_cache.write(_path(facts), json.dumps(facts, sort_keys=True, indent=1).encode())


def kept(bundle_digest: str, candidate: Candidate) -> bool:
    """Whether this machine has verified this candidate of this bundle with the library it has now."""
    facts = _facts(bundle_digest, candidate)
    try:
        return bool(json.loads(_path(facts).read_bytes()) == facts)
    except (OSError, ValueError):
        return False


def _path(facts: dict[str, str]) -> Path:
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    return device_cache.folder() / FOLDER / f"{name}.json"


def _facts(bundle_digest: str, candidate: Candidate) -> dict[str, str]:
    return {
        "bundle": bundle_digest,
        "file": candidate.file or "",
        "backend": candidate.backend,
        "precision": candidate.precision,
        "version": backends.get(candidate.backend).version(),
        "machine": machine.fingerprint(),
    }
