"""What a device sends back after `verify --report FILE`: what it is, what passed on it and how fast, as one JSON file.

docs/device-report.schema.json says what stands in it; docs/devices.md is where reports of real hardware are kept.
Nothing in it names the machine's user, its network name or a path.
"""

import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from deploy_runtime import __version__, backends, cuda, engine_key, engine_process, manifest
from deploy_runtime.data import encode
from deploy_runtime.evidence import Candidate, Manifest
from deploy_runtime.machine import memory, physical_cores, processor
from deploy_runtime.model import usual_threads
from deploy_runtime.result import Result
from deploy_runtime.timing import MS, P99_RUNS

FORMAT = 1
SECONDS = 20.0  # of timing, for all candidates that passed


def report(bundle: str | Path, result: Result, seconds: float = SECONDS) -> dict[str, Any]:
    """Return the report of a bundle that was just verified here; what passed is timed for `seconds` in all."""
    folder = Path(bundle)
    found = manifest.read(folder)
    passed = {row.candidate for row in result.rows if row.candidate and row.outcome == "passed"}
    rows = {row.name: row for row in found.candidates if row.name in passed and row.file is not None}
    times, failed = engine_process.times(
        {name: (folder, found, row) for name, row in rows.items()}, usual_threads(found), seconds
    )
    return {
        "format": FORMAT,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "bundle": {"name": found.name, "recipe": found.recipe, "manifest_sha256": result.digest},
        "machine": _machine(),
        "versions": _versions(found),
        "passed": result.passed,
        "rows": [{key: encode(row)[key] for key in ("name", "outcome", "detail", "seconds")} for row in result.rows],
        "engines": [built for row in rows.values() if (built := _built(folder, found, row))],
        "times": [_time(name, own) for name, own in times.items()],
        "not_timed": dict(failed),
    }


def _machine() -> dict[str, Any]:
    capability = cuda.compute_capability()
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "processor": processor(),
        "cores": physical_cores(),
        "memory_bytes": memory(),
        "gpu": cuda.gpu(),
        "compute_capability": None if capability is None else ".".join(map(str, capability)),
        "multiprocessors": cuda.multiprocessors(),
        "cuda_driver": cuda.driver_version(),
    }


def _versions(found: Manifest) -> dict[str, str]:
    names = dict.fromkeys(row.backend for row in found.candidates if row.file is not None)
    versions = {"deploy-runtime": __version__, "python": platform.python_version(), "numpy": np.__version__}
    versions.update((name, backends.get(name).version()) for name in names if backends.get(name).missing() is None)
    return versions


def _built(folder: Path, found: Manifest, row: Candidate) -> dict[str, Any] | None:
    if row.backend != "tensorrt":
        return None
    made = engine_key.made(engine_key.place(folder / str(row.file), backends.get("tensorrt").version(), found.batch))
    return None if made is None else {"candidate": row.name, **encode(made)}


def _time(name: str, seconds: np.ndarray[Any, Any]) -> dict[str, Any]:
    own = seconds * MS
    p50, p90, p99 = (float(np.quantile(own, share)) for share in (0.5, 0.9, 0.99))
    return {
        "candidate": name, "runs": len(own), "p50_ms": p50, "p90_ms": p90,
        "p99_ms": p99 if len(own) >= P99_RUNS else None,
    }  # fmt: skip
