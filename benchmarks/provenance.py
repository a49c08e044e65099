"""Which code a result was measured with."""

import subprocess

CODE = ("compile", "runtime", "recipes", "benchmarks/*.py")


def commit() -> str:
    """The commit that is measured, `-dirty` where the code differs from it; results and pages do not count."""
    said = subprocess.run(["git", "describe", "--always"], capture_output=True, text=True, check=True).stdout.strip()
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", *CODE], check=False).returncode
    return f"{said}-dirty" if changed else said
