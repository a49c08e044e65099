"""What this machine can build and run, and what is missing for the rest, each with its fix. Runs nothing heavy."""

import os
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy_compile.fingerprint import LIBRARIES
from deploy_compile.machine import facts, versions
from deploy_compile.targets import get, names
from deploy_runtime import backends, cuda, device_cache

BUILD_NEEDS = {"tensorrt_rtx": "tensorrt_rtx_cu13"}  # the package without which nothing is built, by backend


def examine(targets: Sequence[str]) -> dict[str, Any]:
    """Look at the machine, the libraries, the cache and each target; all of them where none is named."""
    machine = dict(facts())
    return {
        "machine": machine,
        "versions": versions("deploy-compile", *LIBRARIES),
        "cache": _cache(),
        "targets": [_target(name, machine) for name in targets or names()],
    }


def _cache() -> dict[str, Any]:
    folder = device_cache.folder()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = os.statvfs(there).f_bavail * os.statvfs(there).f_frsize if hasattr(os, "statvfs") else 0
    return {"folder": str(folder), "writable": os.access(there, os.W_OK), "free_gib": round(free / 2**30, 1)}


def _target(name: str, machine: dict[str, str]) -> dict[str, Any]:
    target, found = get(name), []
    no_gpu = None if target.name == "cpu" else cuda.driver()
    for backend, precisions in target.precisions.items():
        missing = backends.get(backend).missing()
        package = BUILD_NEEDS.get(backend, backend)
        builds = bool(versions(package, f"{package}-gpu")) and not (target.needs_driver and no_gpu)
        found.append(
            {
                "backend": backend,
                "precisions": list(precisions),
                "builds": builds,
                "runs": missing is None and no_gpu is None,
                "why_not": missing or no_gpu or "",
            }
        )
    notes = [target.note] if target.note and cuda.driver() else []
    if name == "cpu":
        notes += _cpu_notes(machine.get("instructions", "").split(), machine.get("architecture", ""))
    return {"target": name, "about": target.about, "backends": found, "notes": notes}


def _cpu_notes(flags: list[str], architecture: str) -> list[str]:
    int8 = [flag for flag in flags if "vnni" in flag or flag in ("amx_int8", "asimddp", "i8mm")]
    half = [flag for flag in flags if "bf16" in flag]
    notes = [
        f"INT8 instructions: {', '.join(int8)}"
        if int8
        else "no INT8 instructions (VNNI): INT8 runs at about twice the speed of fp32 at best",
        f"bf16 instructions: {', '.join(half)}" if half else "no bf16 instructions: bf16 runs as fp32 and is rejected",
    ]
    return notes if architecture in ("x86_64", "AMD64", "aarch64", "arm64") else [f"{architecture} was never tried"]


def print_examined(console: Console, examined: dict[str, Any]) -> None:
    """Show what `examine` found."""
    machine = examined["machine"]
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, GPU: {machine['gpu']}",
        highlight=False,
    )
    cache = examined["cache"]
    state = "writable" if cache["writable"] else "[red]not writable: set DEPLOY_CACHE to a folder that is[/]"
    console.print(f"cache {cache['folder']}: {state}, {cache['free_gib']} GiB free", highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("target", "backend", "builds here", "runs here", "precisions", "why not"):
        table.add_column(heading)
    for target in examined["targets"]:
        for row in target["backends"]:
            table.add_row(
                target["target"],
                row["backend"],
                "[green]yes[/]" if row["builds"] else "[red]no[/]",
                "[green]yes[/]" if row["runs"] else "[yellow]no[/]",
                " ".join(row["precisions"]),
                escape(row["why_not"]),
            )
    console.print(table)
    for target in examined["targets"]:
        for note in target["notes"]:
            console.print(f"{target['target']}: {escape(note)}", highlight=False)
    told = ", ".join(f"{name} {version}" for name, version in examined["versions"].items())
    console.print(f"[dim]{told}[/]", highlight=False)
