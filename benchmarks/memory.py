"""The peak memory of a command with all its workers: proportional set sizes read from /proc (Linux only)."""

import re
import subprocess
import threading
from pathlib import Path

EVERY_S = 0.2


def watched(process: "subprocess.Popen[str]") -> tuple[str, str, float]:
    """Wait for a process; return what it printed to both streams and the largest sum over it and its children, GiB."""
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(EVERY_S):
            peak = max(peak, sum(map(_proportional_bytes, _descendants(process.pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        printed, said = process.communicate()
    finally:
        done.set()
        watcher.join()
    return printed, said, round(peak / 2**30, 2)


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
