"""Time a bundle's candidates on the machine at hand, and choose again by the rule that the builder used.

Every candidate is opened in a process of its own, answers the golden samples there first, and is timed only where they
pass; then all take turns. A library that crashes takes its own process with it, and its candidate is passed over.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from deploy_runtime import engine_process, manifest, preference, selection, timing
from deploy_runtime.errors import GateError
from deploy_runtime.evidence import Candidate
from deploy_runtime.model import usual_threads
from deploy_runtime.preference import Preference, Timed

SECONDS = 20.0  # for all candidates together, once they are open


def reselect(
    bundle: str | Path, threads: int | None = None, seconds: float = SECONDS
) -> tuple[Preference, Mapping[str, str]]:
    """Choose again here and remember it; also return why candidates were passed over, by name.

    Takes `seconds`, and longer where it stays in doubt which candidate leads.
    Raises DeployError for a bundle that is damaged, and GateError where no candidate passes here.
    """
    folder = Path(bundle)
    found = manifest.read(folder)
    manifest.verify_files(folder, found)
    digest = manifest.digest(folder)
    rows = {row.name: row for row in selection.order(found, digest).usable}
    cores = threads or usual_threads(found)
    engines = {name: (folder, found, row) for name, row in rows.items()}
    times, failed = engine_process.times(engines, cores, seconds, patience=timing.PATIENCE)
    if not times:
        raise GateError(
            f"no candidate of {found.name} passes here",
            "; ".join(f"{name}: {reason}" for name, reason in failed.items()) or "Run verify to see why.",
        )
    chosen, timed = _choose(rows, times)
    preferred = Preference(chosen, cores, datetime.now(timezone.utc).date().isoformat(), timed)
    preference.keep(digest, list(rows.values()), preferred)
    return preferred, failed


def _choose(rows: Mapping[str, Candidate], times: Mapping[str, np.ndarray[Any, Any]]) -> tuple[str, tuple[Timed, ...]]:
    fastest = timing.fastest(times)
    timed = {
        name: Timed(name, float(np.median(own)) * timing.MS, *timing.lead(own, times[fastest]))
        for name, own in times.items()
    }
    order = sorted(timed.values(), key=lambda one: one.milliseconds)
    rivals = {one.candidate: one.lag for one in order if one.candidate == fastest or one.lag_low <= 1.0}
    chosen = selection.simplest({name: rows[name].precision for name in rivals}, rivals)
    return chosen, tuple(order)


def said(found: Preference, failed: Mapping[str, str]) -> Sequence[str]:
    """Return what a person reads: every candidate with its time, the chosen one marked, and what was passed over."""
    lines = [
        f"{'->' if one.candidate == found.chosen else '  '} {one.candidate:24s} {one.milliseconds:9.2f} ms  "
        f"{one.lag:.2f}x the fastest ({one.lag_low:.2f} to {one.lag_high:.2f})"
        for one in found.timed
    ]
    lines += [f"   {name:24s} passed over: {reason}" for name, reason in failed.items()]
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    return [*lines, f"{found.chosen} is what `load` takes on this machine from now on ({threads})"]
