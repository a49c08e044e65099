"""The peak memory of a command with all its workers: proportional set sizes read from /proc (Linux only).

The trap: the kernel walks every page of a process to answer, a seventh of a second for a few GiB, and the process waits
meanwhile. So it is asked seldom enough to take no more than a fiftieth of the time.
"""

import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EVERY_S = 0.2
SHARE = 50


def watched(process: "subprocess.Popen[str]") -> tuple[str, str, float]:
    """Wait for a process; return what it printed to both streams and the largest sum over it and its children, GiB."""
    with peak_of(process.pid) as peak:
        printed, said = process.communicate()
    return printed, said, peak.gib


class Peak:
    """The largest sum seen so far."""

    def __init__(self) -> None:
        self.bytes = 0

    @property
    def gib(self) -> float:
        """The same in GiB, to two digits."""
        return round(self.bytes / 2**30, 2)


@contextmanager
def peak_of(pid: int) -> Iterator[Peak]:
    """Watch a process and its children while the block runs."""
    peak, done = Peak(), threading.Event()

    def watch() -> None:
        pause = EVERY_S
        while not done.wait(pause):
            begun = time.perf_counter()
            peak.bytes = max(peak.bytes, sum(map(_proportional_bytes, _descendants(pid))))
            pause = max(EVERY_S, SHARE * (time.perf_counter() - begun))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def _descendants(pid: int) -> list[int]:
    found = [pid]
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = tasks.read_text().split()
        except OSError:
            continue
        for child in children:
            found += _descendants(int(child))
    return found


def _proportional_bytes(pid: int) -> int:
    try:
        told = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it ended meanwhile
        return 0
    match = re.search(r"^Pss:\s+(\d+) kB", told, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0
