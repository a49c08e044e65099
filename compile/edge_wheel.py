"""The edge wheel, built from the installed runtime itself: what a package gives a device is what judged the bundle.

Setuptools builds it in a process of its own, in a temporary copy, without network. Reproducible: fixed times, modes
and order, so that the same versions give the same bytes. The trap: only what is named is copied, since beside the
runtime of a checkout lie its caches and build folders.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import deploy_runtime
from deploy_runtime.errors import DeployError

EPOCH = 315_532_800  # seconds: 1980-01-01, the first day that a zip can hold
NEEDS = ("pyproject.toml", "LICENSE", "py.typed")  # beside the modules
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
SHOWN = 300  # characters of setuptools' last words


def build(folder: Path) -> Path:
    """Build `deploy_runtime-<version>-py3-none-any.whl` into `folder`, made if need be. Raises DeployError."""
    source = Path(deploy_runtime.__file__).parent
    if missing := [name for name in NEEDS if not (source / name).is_file()]:
        raise DeployError(f"the installed runtime lacks {', '.join(missing)}", "Install deploy-compile again.")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "runtime"
        copy.mkdir()
        for path in (*sorted(source.glob("*.py")), *(source / name for name in NEEDS)):
            shutil.copyfile(path, copy / path.name)
            (copy / path.name).chmod(0o644)
        # -I: modules of the copy (data, errors, ...) must not hide anybody else's
        command = [sys.executable, "-I", "-c", BUILD, str(folder.absolute())]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)}
        mask = -1 if sys.platform == "win32" else 0o022  # modes get into the wheel
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, check=False, umask=mask
        )
    if done.returncode:
        said = " ".join(done.stderr.split())[-SHOWN:]
        raise DeployError(
            f"the edge wheel could not be built: {said}", "Install setuptools again: pip install -U setuptools"
        )
    return folder / done.stdout.split()[-1]
