"""The wheel in a package: the tree's runtime, nothing else, and no place where it was made."""

import sys
import zipfile
from pathlib import Path

from deploy_compile import edge_wheel
from tests.compile.conftest import Unpacked

ROOT = Path(__file__).parents[2]


def test_the_wheel_is_that_of_the_tree_and_no_place_is_named(unpacked: Unpacked, bundle: Path) -> None:
    root = unpacked("jetson-jp6")
    (wheel,) = (root / "wheels").iterdir()
    with zipfile.ZipFile(wheel) as packed:
        held = {name for name in packed.namelist() if name.startswith("deploy_runtime/")}
        contents = [packed.read(name) for name in packed.namelist()]
    source = ROOT / "runtime"
    wanted = {*(path.name for path in source.glob("*.py")), *edge_wheel.NEEDS}
    assert held == {f"deploy_runtime/{name}" for name in wanted}
    assert (source / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    contents += [path.read_bytes() for path in root.rglob("*") if path.is_file()]
    for place in (ROOT, bundle.parent, root.parent, Path.home() / ".", Path(sys.prefix)):
        assert not any(f"{place}/".encode() in content for content in contents), place
