"""What of this machine decides how fast an engine runs and whether a compiled one still fits."""

import hashlib
import os
import platform
from pathlib import Path

from deploy_runtime import cuda

CPUINFO = Path("/proc/cpuinfo")
MEMINFO = Path("/proc/meminfo")
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # what a container may use: "200000 100000" is two cores


def physical_cores() -> int:
    """Return how many physical cores this process may use: its affinity and its container's quota count."""
    found = _allowed_cores()
    return max(1, min(found, _quota() or found))


def takes_every_core(threads: int) -> bool:
    """Whether so many threads leave no physical core of this process's affinity free, whatever its quota of time."""
    return threads >= _allowed_cores()


def _allowed_cores() -> int:
    allowed = _affinity()
    return len({core for processor, core in _cores().items() if processor in allowed}) or len(allowed)


def processor() -> str:
    """Return the processor's name; on ARM, where the system has none, its kind."""
    lines = _cpuinfo().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def memory() -> int | None:
    """Return the bytes of memory of this machine; None where the system does not say."""
    return _meminfo("MemTotal:")


def free_memory() -> int | None:
    """Return the bytes of memory that a new process may use, as Linux estimates them; None where it does not say."""
    return _meminfo("MemAvailable:")


def _meminfo(key: str) -> int | None:
    try:
        lines = MEMINFO.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def fingerprint() -> str:
    """Return 16 hexadecimal digits that change with the processor, the GPU or the system: what compiled code fits."""
    facts = [platform.system(), platform.machine(), cuda.gpu(), str(cuda.compute_capability())]
    for line in _cpuinfo().splitlines():
        key = line.split(":")[0].strip().lower()
        if key in ("model name", "cpu family", "model", "stepping", "flags", "features", "cpu part", "cpu implementer"):
            facts.append(line)
        if not line.strip():
            break  # the first processor stands for all
    else:
        facts.append(platform.processor())
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _cores() -> dict[int, tuple[str, str]]:
    """Return the physical core (socket, core) of each logical processor; empty where the system does not say."""
    cores: dict[int, tuple[str, str]] = {}
    for block in _cpuinfo().split("\n\n"):
        facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())}
        if facts.get("processor", "").isdigit() and "core id" in facts:
            cores[int(facts["processor"])] = (facts.get("physical id", "0"), facts["core id"])
    return cores


def _cpuinfo() -> str:
    try:
        return CPUINFO.read_text(errors="replace")
    except OSError:
        return ""  # not Linux


def _quota() -> int | None:
    try:
        quota, period = QUOTA.read_text().split()[:2]
    except (OSError, ValueError):
        return None
    return None if not (quota.isdigit() and period.isdigit()) else max(1, round(int(quota) / int(period)))
