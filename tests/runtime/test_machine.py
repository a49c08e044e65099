"""How many cores may be used, read from what Linux says of several machines."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from deploy_runtime import machine

HYPERTHREADED = "\n\n".join(
    f"processor\t: {i}\nmodel name\t: X\nphysical id\t: {i // 4}\ncore id\t\t: {i % 4 // 2}" for i in range(8)
)
ARM = "\n\n".join(f"processor\t: {i}\nFeatures\t: asimd" for i in range(6))


@pytest.fixture
def on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Iterable[int], str], None]:
    """Make this process one on a machine of that /proc/cpuinfo, with such an affinity and such a quota."""

    def pretend(cpuinfo: str, affinity: Iterable[int], quota: str) -> None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
        (tmp_path / "cpu.max").write_text(quota)
        monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
        monkeypatch.setattr(machine, "QUOTA", tmp_path / "cpu.max")
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(affinity))

    return pretend


@pytest.mark.parametrize(
    ("cpuinfo", "affinity", "quota", "cores"),
    [
        (HYPERTHREADED, range(8), "max 100000", 4),
        (HYPERTHREADED, {0, 1, 2}, "max 100000", 2),
        (HYPERTHREADED, range(8), "150000 100000", 2),
        (HYPERTHREADED, range(8), "20000 100000", 1),
        (ARM, range(6), "max 100000", 6),
        ("", range(3), "", 3),
        ("nonsense", {5}, "x y", 1),
    ],
)
def test_physical_cores(
    cpuinfo: str, affinity: Iterable[int], quota: str, cores: int, on: Callable[[str, Iterable[int], str], None]
) -> None:
    on(cpuinfo, affinity, quota)
    assert machine.physical_cores() == cores


@pytest.mark.parametrize(
    ("affinity", "quota", "threads", "every"),
    [
        (range(8), "max 100000", 4, True),
        (range(8), "max 100000", 3, False),
        (range(8), "200000 100000", 2, False),  # two cores' worth of time, anywhere: another container has it too
        ({0, 1, 2, 3}, "max 100000", 2, True),
        ({5}, "20000 100000", 1, True),
    ],
)
def test_whether_threads_take_every_core(
    affinity: Iterable[int], quota: str, threads: int, every: bool, on: Callable[[str, Iterable[int], str], None]
) -> None:
    on(HYPERTHREADED, affinity, quota)
    assert machine.takes_every_core(threads) is every


def test_the_fingerprint_changes_with_the_processor_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine.fingerprint()
    assert here == machine.fingerprint()
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    seen = set()
    for name, megahertz in (("X", "2000"), ("X", "3000"), ("Y", "3000")):
        (tmp_path / "cpuinfo").write_text(f"processor : 0\nmodel name : {name}\ncpu MHz : {megahertz}\n\n")
        seen.add(machine.fingerprint())
    assert len(seen) == 2
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "nowhere")
    assert len(machine.fingerprint()) == 16
