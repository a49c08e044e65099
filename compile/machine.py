"""Plain facts of this machine, for provenance and for cache keys. Never a host name, a user name or an address."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from deploy_runtime.machine import memory, physical_cores

# Instruction sets that decide which INT8 and bf16 kernels a library picks, by the kernel's names for them.
ISA_FLAGS = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "amx_tile",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
GIB = 1 << 30


def versions(*packages: str) -> dict[str, str]:
    """Return the installed version of each package; one that is not installed is left out."""
    found: dict[str, str] = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def identity() -> Mapping[str, str]:
    """Return what decides how code compiled for this machine behaves: processor, instruction sets, system, GPU."""
    info = _cpuinfo()
    return {
        "cpu": info.get("model name") or info.get("cpu model") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "instructions": " ".join(instructions()),
        "cores": str(physical_cores()),
        "system": platform.system(),
        "python": platform.python_version(),
        "gpu": _gpu(),
    }


def facts() -> Mapping[str, str]:
    """Return `identity` and what is worth reading beside a timing: the memory of the machine in GiB, or "unknown"."""
    bytes_ = memory()
    return {**identity(), "memory_gib": "unknown" if bytes_ is None else f"{bytes_ / GIB:.1f}"}


def instructions() -> tuple[str, ...]:
    """Return the instruction sets of interest that this processor has; empty where the system does not tell."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return tuple(flag for flag in ISA_FLAGS if flag in flags)


@cache
def _cpuinfo() -> dict[str, str]:
    """Return the first processor's block of /proc/cpuinfo; empty elsewhere than on Linux."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    lines = path.read_text().split("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _gpu() -> str:
    """Return the NVIDIA GPUs and their driver as nvidia-smi tells them, or "none"."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "none"
    return "; ".join(line.strip() for line in told.splitlines() if line.strip()) or "none"
