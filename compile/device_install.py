"""Set up this package on the device: an environment, the runtime, engines, and the proof that it answers as PyTorch.

    python3 install.py [--venv DIR] [--with LIBRARY] [--report FILE]

Python 3.10 and its standard library. It may be run again. Exit codes are those of the step that failed: 1 it cannot
be done, 2 wrong usage, 3 a gate failed. `deploy-compile package` puts this file, as it is, into every package.
"""

from __future__ import annotations  # so that an older Python gets as far as being told

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BUNDLE = HERE / "bundle"
OLDEST = (3, 10)
ROOM = 2**28  # bytes that an environment with the runtime takes, and some more
GROWTH = 2  # an engine built here may be some times its graph
EXTRAS = ("openvino", "onnxruntime", "tensorrt_rtx", "tensorrt")  # of the wheel: what pip can install
MISSING = "import json, sys; from deploy_runtime import backends as b; " + (
    "print(json.dumps({name: b.get(name).missing() for name in sys.argv[1:]}))"
)


class StepError(Exception):
    """What is wrong, what to do about it, and the exit code."""

    def __init__(self, wrong: str, fix: str, code: int = 1) -> None:
        super().__init__(wrong)
        self.wrong, self.fix, self.code = wrong, fix, code


def main() -> int:
    """Run every step; an error is two lines."""
    parser = argparse.ArgumentParser(description="Set up this package on this device.")
    add = parser.add_argument
    add("--venv", metavar="DIR", type=Path, help="the environment to make or use (default: venv beside this file)")
    add("--with", dest="library", metavar="LIBRARY", help="let pip install an inference library, e.g. openvino")
    add(
        "--report",
        metavar="FILE",
        type=Path,
        default=HERE / "report.json",
        help="what this device measured, to send back (default: report.json beside this file)",
    )
    given = parser.parse_args()
    try:
        rows = read_rows()
        check_machine()
        python = environment(given.venv)
        backends = sorted({row["backend"] for row in rows})
        install(python, given.library, backends)
        check_libraries(python, backends)
        if any(row["status"] == "to_build" for row in rows):
            say("build", "engines for this device, some minutes each")
            run([python, "-m", "deploy_runtime", "build", BUNDLE], shown=True)
        verify(python, given.report)
        reselect(python)
    except StepError as stop:
        print(f"error: {stop.wrong}\n  fix: {stop.fix}", file=sys.stderr)
        return stop.code
    say("done", f"{python} -m deploy_runtime info {BUNDLE}")
    return 0


def say(step: str, what: str) -> None:
    """Print one line for a step."""
    print(f"{step:10s} {what}", flush=True)


def run(words: list[str | Path], shown: bool = False) -> str:
    """Run a command and return what it printed; where it fails, stop with its own two lines and its exit code."""
    done = subprocess.run(
        [str(word) for word in words], stdout=None if shown else -1, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise failed(words, done)
    return done.stdout or ""


def failed(words: list[str | Path], done: subprocess.CompletedProcess[str]) -> StepError:
    """What to say of a command that failed: its own error and fix, or else its last line."""
    lines = [line.strip() for line in (done.stderr or "").splitlines() if line.strip()]
    wrong = next((line[7:] for line in lines if line.startswith("error: ")), lines[-1] if lines else "it said nothing")
    again = " ".join(str(word) for word in words)
    fix = next((line[5:] for line in lines if line.startswith("fix: ")), f"see all of it: {again}")
    return StepError(wrong, fix, done.returncode if done.returncode > 0 else 1)


def read_rows() -> list[dict[str, Any]]:
    """Return the candidates of the bundle."""
    try:
        rows: list[dict[str, Any]] = json.loads((BUNDLE / "manifest.json").read_text(encoding="utf-8"))["candidates"]
    except (OSError, ValueError, KeyError) as error:
        raise StepError(f"there is no whole bundle beside this file: {error}", "unpack the archive again") from None
    return rows


def check_machine() -> None:
    """Look at Python's version and the free disk."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info < OLDEST:
        raise StepError(f"this is Python {version}", "run it with Python 3.10 or newer, e.g. python3.10 install.py")
    size = sum(path.stat().st_size for path in HERE.rglob("*") if path.is_file())
    free, needed = shutil.disk_usage(HERE).free, ROOM + GROWTH * size
    if free < needed:
        raise StepError(f"{free >> 20} MiB are free here and {needed >> 20} MiB are needed", "free some space")
    say("machine", f"Python {version}, {free / 2**30:.1f} GiB free")


def environment(chosen: Path | None) -> Path:
    """Return the Python of the environment: this one inside a virtual environment, else that of a new one."""
    if chosen is None and sys.prefix != sys.base_prefix:
        say("venv", f"the one that this Python runs in: {sys.prefix}")
        return Path(sys.executable)
    folder = (chosen or HERE / "venv").absolute()
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if python.exists():
        say("venv", f"{folder}, which was there")
        return python
    if importlib.util.find_spec("ensurepip") is None:
        raise StepError(
            "this Python has no ensurepip, without which a virtual environment has no pip",
            "sudo apt install python3-venv, or run this with the Python of a virtual environment",
        )
    try:
        run([sys.executable, "-m", "venv", "--system-site-packages", folder])
    except StepError as stop:
        shutil.rmtree(folder, ignore_errors=True)
        raise StepError(
            f"no virtual environment can be made at {folder}: {stop.wrong}", "give --venv another folder"
        ) from stop
    say("venv", f"{folder}, with this system's packages")
    return python


def install(python: Path, library: str | None, backends: list[str]) -> None:
    """Install the runtime without network, and the library asked for with it."""
    pip: list[str | Path] = [python, "-m", "pip"]
    try:
        run([*pip, "--version"])
    except StepError:
        raise StepError(f"{python} has no pip", f"sudo apt install python3-venv, or {python} -m ensurepip") from None
    (wheel,) = (HERE / "wheels").glob("deploy_runtime-*.whl")
    quiet = ["install", "--quiet", "--disable-pip-version-check"]
    run([*pip, *quiet, "--no-deps", "--no-index", "--force-reinstall", wheel])
    say("runtime", wheel.name)
    if library is not None:
        if library not in EXTRAS:
            raise StepError(f"there is no library {library!r} to install", f"--with takes {', '.join(EXTRAS)}", 2)
        run([*pip, *quiet, f"{wheel}[{library}]"])
        say("library", f"{library} and numpy, by pip")
    try:
        run([python, "-c", "import numpy"])
    except StepError:
        raise StepError(
            f"{python} has no numpy",
            f"sudo apt install python3-numpy, or let pip install it: python3 install.py --with {backends[-1]}",
        ) from None


def check_libraries(python: Path, backends: list[str]) -> None:
    """Look whether one of the inference libraries that the bundle opens can be used here."""
    missing: dict[str, str | None] = json.loads(run([python, "-c", MISSING, *backends]))
    usable = [name for name, reason in missing.items() if reason is None]
    if not usable:
        name, reason = next(iter(missing.items()))
        told, _, how = str(reason).partition(": ")
        offer = [f"--with {name}" for name in missing if name in EXTRAS and "not installed" in str(missing[name])]
        here = f"{python} -m {how}" if how.startswith("pip ") else how
        fix = f"let pip install it: python3 install.py {offer[0]}" if offer else here or "run it where its GPU is"
        raise StepError(f"no inference library of this package can be used here: {name}: {told}", fix)
    say("libraries", ", ".join(usable))


def verify(python: Path, report: Path) -> None:
    """Compare every digest, run the golden samples, and write the report; stop where something failed."""
    words: list[str | Path] = [python, "-m", "deploy_runtime", "verify", BUNDLE, "--report", report, "--json"]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if not done.stdout.strip():
        raise failed(words, done)
    rows = json.loads(done.stdout)["bundles"][0]["rows"]
    if bad := [row for row in rows if row["outcome"] == "failed"]:
        told = "; ".join(f"{row['name']}: {row['detail']}" for row in bad)
        raise StepError(f"verify failed: {told}", f"see every row in {report}", done.returncode or 3)
    ran = [row["name"] for row in rows if row["candidate"] and row["outcome"] == "passed"]
    idle = sum(row["outcome"] == "not run" for row in rows)
    say("verify", f"passed: {', '.join(ran)}{f'; {idle} not run' if idle else ''}; {report}")


def reselect(python: Path) -> None:
    """Time what passed on this machine."""
    found = json.loads(run([python, "-m", "deploy_runtime", "reselect", BUNDLE, "--json"]))
    times = {one["candidate"]: f"{one['candidate']}, {one['milliseconds']:.2f} ms" for one in found["timed"]}
    others = [told for name, told in times.items() if name != found["chosen"]]
    say("reselect", "; ".join([f"{times[found['chosen']]}, is what load takes here", *others]))


if __name__ == "__main__":
    sys.exit(main())
