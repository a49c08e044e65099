"""`python -m deploy_runtime`: what is in a bundle, is it whole, does it still say what PyTorch said.

    info BUNDLE                  what it is, what it takes and gives, what was measured
    verify BUNDLE [--backend B]  every file's digest, and the golden samples through every engine that can run here
    check BUNDLE... [--strict]   verify, and the gates on what the manifest records; for CI
    reselect BUNDLE              time what the bundle ships here, and let `load` take the best of it from then on

Exit codes: 0 done, 1 cannot do it, 2 wrong usage, 3 a gate failed.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deploy_runtime import __version__
from deploy_runtime.errors import DeployError, GateError

if TYPE_CHECKING:
    from deploy_runtime.check import Result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors go to standard error in two lines."""
    given = _parser().parse_args(arguments)
    try:
        if given.command == "info":
            return info(given.bundle, given.json)
        if given.command == "verify":
            return verify_bundle(given.bundle, given.backend, given.junit, given.json)
        if given.command == "reselect":
            return reselect_bundle(given.bundle, given.threads, given.seconds, given.json)
        return check_bundles(given.bundles, given.strict, given.backend, given.junit, given.json)
    except DeployError as error:
        return _refused(error)


def info(bundle: Path, as_json: bool = False) -> int:
    """Print what the manifest says. Compares no digests."""
    from deploy_runtime import manifest
    from deploy_runtime.data import encode

    found = manifest.read(bundle)
    if as_json:
        _print_json({"digest": manifest.digest(bundle), "manifest": encode(found)})
        return 0
    facts = [
        f"{found.name}: {found.recipe} ({found.family}), manifest sha256 {manifest.digest(bundle)[:16]}",
        f"  {found.verdict}",
        *(f"  input   {tensor.name} {list(tensor.shape)} {tensor.dtype} {tensor.layout}" for tensor in found.inputs),
        *(f"  output  {tensor.name} {list(tensor.shape)} {tensor.dtype}" for tensor in found.outputs),
        f"  batch   {found.batch.least} to {found.batch.most}",
        f"  weights {found.provenance.weights}, {found.provenance.parameters:,} parameters",
        f"  made    {found.provenance.created}",
    ]
    for i, row in enumerate(found.candidates):
        mark = {found.chosen: "chosen", found.fallback: "fallback"}.get(i, "shipped" if row.file else "")
        speed = f"{row.speed.p50_ms:.1f} ms, {row.speed.ratio:.2f}x PyTorch" if row.speed else ""
        facts.append(f"  {mark:8s} {row.name:24s} {row.target:5s} {row.status:13s} {speed} {row.reason}".rstrip())
    print("\n".join(facts))
    return 0


def verify_bundle(bundle: Path, backend: str | None = None, junit: Path | None = None, as_json: bool = False) -> int:
    """Verify a bundle on this machine and print the result; 3 where something fails."""
    from deploy_runtime.check import verify

    return _tell([verify(bundle, backend)], junit, as_json)


def reselect_bundle(bundle: Path, threads: int | None = None, seconds: float = 20.0, as_json: bool = False) -> int:
    """Time the candidates of a bundle here and print which one `load` takes from now on."""
    from deploy_runtime.data import encode
    from deploy_runtime.reselect import reselect, said

    found, failed = reselect(bundle, threads, seconds)
    if as_json:
        _print_json({**encode(found), "passed_over": dict(failed)})
    else:
        print("\n".join(said(found, failed)))
    return 0


def check_bundles(
    bundles: Sequence[Path],
    strict: bool = False,
    backend: str | None = None,
    junit: Path | None = None,
    as_json: bool = False,
) -> int:
    """Check bundles and print the results; 1 where one cannot be read, else 3 where a gate fails.

    A bundle that cannot be read is a failed row too, so that the JUnit file and the JSON object are whole.
    """
    checked = [_checked(bundle, strict, backend) for bundle in bundles]
    told = _tell([result for result, _ in checked], junit, as_json)
    return next((code for _, code in checked if code), told)


def _checked(bundle: Path, strict: bool, backend: str | None) -> tuple["Result", int]:
    from deploy_runtime.check import Result, Row, check

    try:
        return check(bundle, strict, backend), 0
    except DeployError as error:
        row = Row("files", "failed", f"{error.message}. {error.fix}")
        return Result(str(bundle), "", (row,)), _refused(error)


def _tell(results: Sequence["Result"], junit: Path | None, as_json: bool) -> int:
    from deploy_runtime import device_cache, report_formats

    if junit is not None:
        try:
            device_cache.write(junit, report_formats.junit(results))
        except OSError as error:
            raise DeployError(
                f"{junit} cannot be written: {error.strerror}", "Give --junit a path that can."
            ) from error
    if as_json:
        _print_json(report_formats.as_json(results))
    else:
        print("\n\n".join(report_formats.text(result) for result in results))
    return 0 if all(result.passed for result in results) else GateError.exit_code


def _refused(error: DeployError) -> int:
    print(f"error: {error.message}\n  fix: {error.fix}", file=sys.stderr)
    return error.exit_code


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=1, sort_keys=True, allow_nan=False))


def _count(text: str) -> int:
    """Read a number of threads."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of threads: give 1 or more")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deploy_runtime",
        description="Look at, verify and check deploy-compile bundles: numpy and one engine library, no PyTorch.",
        epilog="Exit codes: 0 done, 1 cannot do it, 2 wrong usage, 3 a gate failed.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="info|verify|check|reselect")
    for name, about in (
        ("info", "what a bundle is, takes, gives, and what was measured of it"),
        ("verify", "compare every file with its digest and run the golden samples on this machine"),
        ("check", "verify, and judge what the manifest records; for CI"),
        ("reselect", "time the shipped candidates on this machine and let load take the best of them"),
    ):
        command = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
        if name == "check":
            command.add_argument("bundles", metavar="BUNDLE", nargs="+", type=Path, help="the folder of a bundle")
            command.add_argument(
                "--strict", action="store_true", help="also refuse INT8 calibrated on synthetic samples"
            )
        else:
            command.add_argument("bundle", metavar="BUNDLE", type=Path, help="the folder of a bundle")
        if name == "reselect":
            command.add_argument("--threads", metavar="N", type=_count, help="CPU threads (default: physical cores)")
            command.add_argument("--seconds", metavar="S", type=float, default=20.0, help="time to spend (default: 20)")
        elif name != "info":
            command.add_argument("--backend", metavar="B", help="only the engines of this backend")
            command.add_argument("--junit", metavar="FILE", type=Path, help="write the result as JUnit XML")
        command.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    return parser


if __name__ == "__main__":
    sys.exit(main())
