"""Killed at any moment, then the same command: a correct bundle each time, and nothing half-written beside it."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy_runtime import manifest

NETS = Path(__file__).parents[1] / "tiny_nets.py"
LATEST_S = 12.0  # a moment is drawn between the start and this; later than the end of the build counts as none
MOMENTS = 4  # each takes a killed run and a whole one


def command(place: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            sys.executable, "-m", "deploy_compile", "recipe", f"{NETS}:tiny", "--int8",
            "--target", "cpu", "--out", str(place / "out" / "bundle"),
        ],
        env={**os.environ, "DEPLOY_CACHE": str(place / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_random_moments(tmp_path: Path) -> None:
    moments = random.Random(20).sample(range(int(LATEST_S * 1000)), MOMENTS)
    killed = 0
    for i, moment in enumerate(moments):
        place = tmp_path / str(i)
        with command(place) as victim:
            try:
                victim.wait(moment / 1000)
            except subprocess.TimeoutExpired:
                os.kill(victim.pid, signal.SIGKILL)  # the parent only: its workers must end by themselves
                killed += 1
        with command(place) as again:
            assert again.wait(300) == 0
        bundle = place / "out" / "bundle"
        manifest.verify_files(bundle, manifest.read(bundle))
        assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]
        assert not list((place / "cache").rglob("*.tmp-*"))
    assert 2 * killed >= MOMENTS


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    with command(tmp_path) as victim:
        time.sleep(8)
        os.kill(victim.pid, signal.SIGKILL)
    time.sleep(2)
    left = subprocess.run(["pgrep", "-s", str(victim.pid)], capture_output=True, text=True, check=False).stdout.split()
    assert left == []
