"""What several tests share: a device cache of their own, a tiny bundle for four targets, and its packages."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy_compile.__main__ import main
from deploy_compile.package import package
from deploy_runtime.archive import unpack

ROOT = Path(__file__).parents[2]
NETS = ROOT / "tests" / "tiny_nets.py"

Unpacked = Callable[[str], Path]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device cache of the test's own."""
    monkeypatch.setenv("DEPLOY_CACHE", str(tmp_path / "device cache"))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, stages: Path) -> Path:
    """A tiny bundle for a CPU, two kinds of RTX and a Jetson, through the whole pipeline."""
    place = tmp_path_factory.mktemp("package")
    targets = [word for name in ("cpu", "rtx", "rtx-turing", "jetson-jp6") for word in ("--target", name)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOY_CACHE", str(stages))
        words = ["recipe", f"{NETS}:tiny", "--int8", *targets, "--out", str(place / "bundle")]
        patch.setattr(sys, "argv", ["deploy-compile", *words])
        main()
    return place / "bundle"


@pytest.fixture(scope="session")
def unpacked(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Unpacked:
    """The root folder of the package for a target, made once."""
    made: dict[str, Path] = {}

    def of(target: str) -> Path:
        if target not in made:
            place = tmp_path_factory.mktemp(target)
            made[target] = unpack(package(bundle, target, place / "a.tar.gz").archive, place)
        return made[target]

    return of
