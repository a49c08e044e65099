"""Which candidates of a bundle this machine may open, best first, and why the others not.

A candidate that passed when the bundle was built may be opened wherever its library is. One that was only built may
be opened where this machine's own verify passed, and then it comes first: it was built for the GPU that is here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from deploy_runtime import backends, preference, proof
from deploy_runtime.errors import DeployError
from deploy_runtime.evidence import Candidate, Manifest

# Least that can go wrong first: fp32 needs nothing, bf16 needs no calibration, int8 needs calibration data.
SIMPLEST_FIRST = ("fp32", "bf16", "fp16", "int8_bf16", "int8_fp16", "int8")


@dataclass(frozen=True)
class Order:
    """Candidates to try in turn, and a short sentence for each one passed over."""

    usable: tuple[Candidate, ...]
    skipped: tuple[str, ...]


def order(manifest: Manifest, bundle_digest: str, backend: str | None = None) -> Order:
    """Return what may be opened here: of `backend` where one is asked for, else of all.

    Raises DeployError where nothing may, with each reason.
    """
    shipped = runnable(manifest, backend)
    usable: list[Candidate] = []
    skipped: dict[str, str] = {}
    for row in shipped:
        if reason := backends.get(row.backend).missing():
            engines = "TensorRT engines" if row.backend.startswith("tensorrt") else row.name
            skipped.setdefault(engines, f"{reason.partition(':')[0]}: {engines} skipped")
        elif row.unrun and not proof.kept(bundle_digest, row):
            skipped[row.name] = f"{row.name} was never run on this machine: skipped until verify passes here"
        else:
            usable.append(row)
    if not usable:
        raise _nothing(manifest, list(skipped.values()), shipped)
    usable.sort(key=lambda row: row.status == "passed")  # stable: what was proved here comes first
    timed = preference.kept(bundle_digest, usable) if backend is None else None
    if timed is not None and any(row.name == timed.chosen for row in usable):
        usable.sort(key=lambda row: row.name != timed.chosen)
        return Order(tuple(usable), (*skipped.values(), f"{timed.chosen} was the best here on {timed.date}"))
    return Order(tuple(usable), tuple(skipped.values()))


def simplest(precisions: Mapping[str, str], lags: Mapping[str, float]) -> str:
    """Return, among candidates that are as fast within the noise, the one that needs least trust, then the faster."""
    return min(precisions, key=lambda name: (SIMPLEST_FIRST.index(precisions[name]), lags[name]))


def runnable(manifest: Manifest, backend: str | None = None) -> list[Candidate]:
    """Return what ships and passed or was never run, best first: of `backend` where one is asked for.

    Raises DeployError where that one ships nothing or cannot be used here.
    """
    found = [row for row in ranked(manifest) if row.file is not None and (row.status == "passed" or row.unrun)]
    return found if backend is None else _asked(manifest, found, backend)


def ranked(manifest: Manifest) -> list[Candidate]:
    """Return all candidates: the chosen one, the fallback, then the others by their speed when they were measured."""
    rows = manifest.candidates
    first = [manifest.chosen] if manifest.fallback in (None, manifest.chosen) else [manifest.chosen, manifest.fallback]
    rest = [i for i in range(len(rows)) if i not in first]
    rest.sort(key=lambda i: -(speed.ratio if (speed := rows[i].speed) else 0.0))
    return [rows[i] for i in (*first, *rest) if i is not None]


def _asked(manifest: Manifest, shipped: list[Candidate], backend: str) -> list[Candidate]:
    reason = backends.get(backend).missing()
    found = [row for row in shipped if row.backend == backend]
    if not found:
        names = ", ".join(sorted({row.backend for row in shipped})) or "nothing that runs"
        raise DeployError(f"{manifest.name} ships no engine for {backend}", f"It ships {names}: ask for one of those.")
    if reason:
        why, _, install = reason.partition(": ")
        raise DeployError(
            f"{backend} cannot be used here: {why}",
            f"{install or 'Run it on a machine that has one'}, or load without naming a backend.",
        )
    return found


def _nothing(manifest: Manifest, reasons: list[str], shipped: list[Candidate]) -> DeployError:
    said = "; ".join(reasons) or "it ships no engine"
    here = [row for row in shipped if backends.get(row.backend).missing() is None]
    if here:
        build = "`python -m deploy_runtime build BUNDLE` and then " if here[0].status == "to_build" else ""
        return DeployError(
            f"nothing of {manifest.name} may run here: {said}",
            f"Run {build}`python -m deploy_runtime verify BUNDLE` on this machine: what passes may be loaded from then "
            "on.",
        )
    commands = [backends.get(row.backend).missing() or "" for row in shipped if row.target == "cpu"]
    targets = ", ".join(sorted({row.target for row in shipped}))
    otherwise = f"It ships engines for {targets} only: run it there, or build the bundle for this machine."
    command = next((text.partition(": ")[2] for text in commands), otherwise)
    return DeployError(f"nothing of {manifest.name} can run here: {said}", command)
