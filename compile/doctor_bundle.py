"""What will and will not work for a bundle on a target, said before anyone walks to the device. Runs no engine.

A target is served where a candidate for it ships that passed, or was never run and is to be verified there. The trap:
that a graph parses and that an engine was compiled says nothing of hardware; what was never run is said to be so.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from deploy_compile import memory
from deploy_compile.package_bundle import to_build
from deploy_compile.reproduce import command
from deploy_compile.targets import Target, get
from deploy_runtime import manifest as manifests
from deploy_runtime.data import encode
from deploy_runtime.errors import GateError
from deploy_runtime.evidence import Backend, Candidate, Manifest, Precision
from deploy_runtime.selection import runnable

PARSED_BADLY = ("refused", "rejected", "crashed")
SEEDED = "the weights are seeded: an architecture check, not a model to ship"
LEFT_OUT = "was built and does not ship: of engines that nobody ran only those asked for do"
VERIFY = "python -m deploy_runtime verify BUNDLE"
BUILD = "python -m deploy_runtime build BUNDLE"


def examine_bundle(bundle: Path, targets: Sequence[str]) -> dict[str, Any]:
    """Look at a bundle for each target; for those it was built for where none is named. Raises DeployError."""
    wanted = [get(name) for name in dict.fromkeys(targets)]
    found = manifests.read(bundle)
    manifests.verify_files(bundle, found)
    wanted = wanted or [get(name) for name in dict.fromkeys(row.target for row in found.candidates)]
    return {
        "bundle": found.name,
        "sha256": manifests.digest(bundle),
        "weights": found.provenance.weights,
        "bytes": _bytes(bundle, found),
        "batch": encode(found.batch),
        "streams": bool(found.state),
        "window": found.window,
        "rule": memory.RULE,
        "findings": [_finding("warning", SEEDED)] if found.provenance.weights == "seeded" else [],
        "targets": [_on(bundle, found, target) for target in wanted],
    }


def _bytes(bundle: Path, found: Manifest) -> int:
    return sum(file.bytes for file in found.files) + (bundle / manifests.NAME).stat().st_size


def judge(examined: dict[str, Any]) -> None:
    """Raise GateError where nothing in the bundle can serve one of the targets."""
    failed = [target for target in examined["targets"] if not target["served"]]
    if failed:
        names = ", ".join(target["target"] for target in failed)
        raise GateError(f"nothing in {examined['bundle']} can serve {names}", f"Build it: {failed[0]['command']}")


def _on(bundle: Path, whole: Manifest, target: Target) -> dict[str, Any]:
    derived = _derived(whole, target)
    found = replace(whole, candidates=(*whole.candidates, *derived))
    serving = [row for row in runnable(found) if row.target == target.name and row.backend in target.backends]
    precisions = [
        _precision(bundle, found, target, backend, precision)
        for backend, offered in target.precisions.items()
        for precision in offered
    ]
    missing = list(dict.fromkeys(one["precision"] for one in precisions if one["state"] == "missing"))
    sizes = [one["bytes"] for one in precisions if "bytes" in one]
    build = " ".join(_command(found, target, missing))
    ran = [row for row in serving if row.status == "passed" and not row.emulated]
    return {
        "target": target.name,
        "about": target.about,
        "served": bool(serving),
        "run_on_hardware": bool(ran),
        "proof": BUILD if "tensorrt" in target.backends else VERIFY,
        "building": memory.building(max(sizes)) if sizes and "tensorrt" in target.backends else None,
        "python": target.python or "3.10 or newer",
        "library": target.library or " or ".join(target.backends),
        "gpus": _gpus(found, target),
        "disk_bytes": _bytes(bundle, found) + max(sizes, default=0),
        "precisions": precisions,
        "command": build,
        "findings": [*_packaged(derived, target), *_findings(found, target, missing, build)],
    }


def _derived(found: Manifest, target: Target) -> list[Candidate]:
    """Return what a package for a device would take from another GPU's rows: the graph is the same."""
    if "tensorrt" not in target.backends:
        return []
    own = {row.precision for row in found.candidates if row.target == target.name}
    return [row for row in to_build(found, target) if row.precision not in own]


def _packaged(derived: Sequence[Candidate], target: Target) -> list[dict[str, str]]:
    if not derived:
        return []
    names = ", ".join(row.precision for row in derived)
    told = f"{names} from the graphs of another GPU: deploy-compile package BUNDLE --target {target.name}"
    return [_finding("note", told)]


def _gpus(found: Manifest, target: Target) -> list[str]:
    """Return the compute capabilities served: of TensorRT-RTX those that the engines were built for."""
    asked = found.provenance.options.get("compute_capabilities", "").split()
    return asked if asked and "tensorrt_rtx" in target.backends else list(target.compute_capabilities)


def _precision(bundle: Path, found: Manifest, target: Target, backend: Backend, precision: Precision) -> dict[str, Any]:
    wanted = (target.name, backend, precision)
    row = next((row for row in found.candidates if (row.target, row.backend, row.precision) == wanted), None)
    said: dict[str, Any] = {"backend": backend, "precision": precision, "state": "missing"}
    if row is not None and row.file is None:
        said["state"] = "not_shipped" if row.unrun else row.status
    elif row is not None and row.file is not None:
        said |= {
            "state": row.status,
            "file": row.file,
            "bytes": memory.stored(found, row.file),
            "memory_bytes": memory.estimate(bundle, found, row.precision, row.file),
        }
    return said


def _findings(found: Manifest, target: Target, missing: Sequence[str], build: str) -> list[dict[str, str]]:
    findings = []
    for row in found.candidates:
        if row.target == target.name and row.reason and row.file is None:
            level = "error" if row.backend == "tensorrt_rtx" and row.status in PARSED_BADLY else "note"
            told = f"{row.status}: {row.reason}" if not row.unrun else LEFT_OUT
            findings.append(_finding(level, f"{row.backend} {row.precision} {told}"))
    if "tensorrt" in target.backends:
        findings += _asked(found)
    if missing:
        are = "is" if len(missing) == 1 else "are"
        findings.append(_finding("note", f"{', '.join(missing)} could serve it too and {are} not built: {build}"))
    return findings + [_finding("known", remark) for remark in target.remarks]


def _asked(found: Manifest) -> list[dict[str, str]]:
    """Say what TensorRT-RTX made of the graphs: its parser is the only real one that can be asked without a GPU."""
    compiled = [row for row in found.candidates if row.backend == "tensorrt_rtx"]
    if not compiled:
        return [
            _finding("warning", "no real parser has seen these graphs: build with --target rtx too, on any machine")
        ]
    return [
        _finding(
            "warning",
            f"TensorRT-RTX {_did(row)} the {row.precision} graph ({row.reason}): full TensorRT takes more operators, "
            "and may take it",
        )
        for row in compiled
        if row.status in PARSED_BADLY
    ]


def _finding(level: str, text: str) -> dict[str, str]:
    return {"level": level, "text": text}


def _did(row: Candidate) -> str:
    return {"refused": "refused", "crashed": "crashed on", "rejected": "built otherwise than asked"}[row.status]


def _command(found: Manifest, target: Target, missing: Sequence[str]) -> list[str]:
    """Return the command that made the bundle, with what is missing for a target asked for too."""
    words = command(found)
    wanted = ["--fp16"] if "fp16" in missing else []
    wanted += ["--int8"] if any(name.startswith("int8") for name in missing) else []
    words += [option for option in wanted if option not in words]
    aimed = [value for option, value in pairwise(words) if option == "--target"]
    return words if target.name in aimed else [*words, "--target", target.name]
