"""`python -m deploy_runtime`: what is in a bundle, is it whole, does it still say what PyTorch said.

    info BUNDLE                  what it is, what it takes and gives, what was measured
    verify BUNDLE [--backend B]  every file's digest, and the golden samples through every engine that can run here
    check BUNDLE... [--against BASE] [--strict]
                                 verify, and the gates on what the manifest records and on what became worse; for CI
    build BUNDLE                 on a device: build its TensorRT engine once, prove it on the golden samples, keep it
    run BUNDLE --video FILE      a line for every frame or clip; --pair BEFORE AFTER --out MAP.png for two studies
    reselect BUNDLE              time what the bundle ships here, and let `load` take the best of it from then on
    unpack ARCHIVE DIR           unpack what `deploy-compile package` wrote, refusing all but plain files

Exit codes: 0 done, 1 cannot do it, 2 wrong usage, 3 a gate failed.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from deploy_runtime.arguments import parser
from deploy_runtime.errors import DeployError, GateError, UsageError

if TYPE_CHECKING:
    from deploy_runtime.result import Result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors go to standard error in two lines."""
    given = parser().parse_args(arguments)
    commands = {
        "info": lambda: info(given.bundle, given.json),
        "verify": lambda: verify_bundle(given.bundle, given.backend, given.junit, given.json, given.report),
        "build": lambda: build_engines(given),
        "run": lambda: run_bundle(
            given.bundle, given.video, given.pair, given.out, given.every, given.hop, given.format, given.backend
        ),
        "reselect": lambda: reselect_bundle(given.bundle, given.threads, given.seconds, given.json),
        "check": lambda: check_bundles(
            given.bundles,
            strict=given.strict,
            backend=given.backend,
            target=given.target,
            against=given.against,
            time=not given.no_time,
            junit=given.junit,
            summary=given.summary,
            annotations=given.annotations,
            as_json=given.json,
        ),
        "unpack": lambda: unpack_archive(given.archive, given.folder),
    }
    try:
        code = commands[given.command]()
        sys.stdout.flush()
        return code
    except DeployError as error:
        return _refused(error)
    except BrokenPipeError:  # whoever read standard output, `head` say, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


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
        *(
            f"  input   {tensor.name} {list(tensor.shape)} {tensor.dtype} {tensor.layout}"
            for tensor in found.data_inputs
        ),
        *(f"  output  {tensor.name} {list(tensor.shape)} {tensor.dtype}" for tensor in found.data_outputs),
        f"  batch   {found.batch.least} to {found.batch.most}",
        f"  weights {found.provenance.weights}, {found.provenance.parameters:,} parameters",
        f"  made    {found.provenance.created}",
    ]
    names, targets = (max(len(getattr(row, word)) for row in found.candidates) for word in ("name", "target"))
    for i, row in enumerate(found.candidates):
        mark = {found.chosen: "chosen", found.fallback: "fallback"}.get(i, "shipped" if row.file else "")
        speed = f"{row.speed.p50_ms:.1f} ms, {row.speed.ratio:.2f}x PyTorch" if row.speed else ""
        where = "" if row.name.endswith(f" on {row.target}") else row.target
        facts.append(
            f"  {mark:8s} {row.name:{names}s} {where:{targets}s} {row.status:13s} {speed} {row.reason}".rstrip()
        )
    print("\n".join(facts))
    return 0


def verify_bundle(
    bundle: Path,
    backend: str | None = None,
    junit: Path | None = None,
    as_json: bool = False,
    report: Path | None = None,
) -> int:
    """Verify a bundle on this machine and print the result; 3 where something fails.

    With `report`, also time what passed and write what this machine is and what was found, for whoever built it.
    """
    from deploy_runtime import device_cache
    from deploy_runtime.check import verify

    result = verify(bundle, backend)
    if report is not None:
        from deploy_runtime import device_report

        with _writing(report, "--report"):
            text = json.dumps(device_report.report(bundle, result), indent=1, sort_keys=True, allow_nan=False)
            device_cache.write(report, f"{text}\n".encode())
    return _tell([result], junit=junit, as_json=as_json)


def build_engines(given: argparse.Namespace) -> int:
    """Build the engine of a bundle for this device, a line a step; with `--plan` also copy it for a server."""
    from deploy_runtime import device_build
    from deploy_runtime.data import encode
    from deploy_runtime.report_formats import one_line
    from deploy_runtime.tensorrt_build import Settings

    settings = Settings(
        workspace_mib=given.workspace,
        level=given.level,
        hardware_compatible=given.hardware_compatible,
        version_compatible=given.version_compatible,
    )
    stream = sys.stderr if given.json else sys.stdout
    rows = device_build.build(
        given.bundle, settings, given.every, lambda words: print(one_line(words), file=stream, flush=True)
    )
    if given.plan is not None:
        with _writing(given.plan, "--plan"):
            device_build.plan(given.bundle, given.plan)
    if given.json:
        _print_json(encode(rows))
    return 0


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


def unpack_archive(archive: Path, folder: Path) -> int:
    """Unpack an archive into a new folder of `folder` and say what it is and what comes next."""
    from deploy_runtime import manifest
    from deploy_runtime.archive import BUNDLE, unpack

    made = unpack(archive, folder)
    found = manifest.read(made / BUNDLE)
    print(
        f"{made}: {found.name}, {len(found.files)} files in its bundle, every sha256 as in the manifest "
        f"({manifest.digest(made / BUNDLE)[:16]})\n  next: python3 {made / 'install.py'}"
    )
    return 0


def run_bundle(
    bundle: Path,
    film: Path | None,
    images: Sequence[Path] | None = None,
    out: Path | None = None,
    every: int | None = None,
    hop: int | None = None,
    kind: str = "csv",
    backend: str | None = None,
) -> int:
    """Print what a bundle says of a video, a line a frame or clip, or write the map of a pair of images."""
    from deploy_runtime import run
    from deploy_runtime.model import load

    if (film is None) == (images is None):
        raise UsageError("run needs something to look at", "Give --video FILE, or --pair BEFORE AFTER --out MAP.png.")
    with load(bundle, backend) as model:
        if images is not None:
            if out is None:
                raise UsageError("the map of a pair needs a place", "Give --out MAP.png.")
            print(json.dumps(run.pair(model, images, out)))
            return 0
        assert film is not None
        for place, found in enumerate(run.lines(model, film, every, hop)):
            print(run.as_json(found) if kind == "jsonl" else run.as_csv(found, header=place == 0), flush=True)
    return 0


def check_bundles(
    bundles: Sequence[Path],
    strict: bool = False,
    backend: str | None = None,
    target: str | None = None,
    against: Path | None = None,
    time: bool = True,
    junit: Path | None = None,
    summary: Path | None = None,
    annotations: bool = False,
    as_json: bool = False,
) -> int:
    """Check bundles and print the results; 1 where one cannot be read, else 3 where a gate fails.

    A bundle that cannot be read is a failed row too, so that the JUnit file and the JSON object are whole.
    `target` is the one of `strict`; `time` says whether to time beside the base. Raises UsageError for options
    that say nothing together.
    """
    _check_options(strict, target, against, time, annotations, as_json)
    checked = [_checked(bundle, strict, backend, target, against, time) for bundle in bundles]
    told = _tell([result for result, _ in checked], junit, summary, annotations, as_json)
    return next((code for _, code in checked if code), told)


def _check_options(
    strict: bool, target: str | None, against: Path | None, time: bool, annotations: bool, as_json: bool
) -> None:
    if target is not None and not strict:
        raise UsageError(f"--target {target} says what --strict runs", "Give --strict too, or leave --target out.")
    if not time and against is None:
        raise UsageError("--no-time is about the timing beside a base", "Give --against too, or leave --no-time out.")
    if not time and strict:
        raise UsageError("--strict runs every gate, the timing too", "Leave out --no-time, or --strict.")
    if annotations and as_json:
        raise UsageError("--json prints one object and nothing else, and --annotations lines", "Leave one of them out.")


def _checked(
    bundle: Path, strict: bool, backend: str | None, target: str | None, against: Path | None, time: bool
) -> tuple["Result", int]:
    from deploy_runtime.check import SECONDS, TARGET, check
    from deploy_runtime.result import Result, Row

    try:
        return check(bundle, strict, backend, target or TARGET, against, SECONDS if time else None), 0
    except UsageError:
        raise  # nothing is wrong with the bundle
    except DeployError as error:
        row = Row("files", "failed", f"{error.message}. {error.fix}")
        return Result(str(bundle), "", (row,)), _refused(error)


def _tell(
    results: Sequence["Result"],
    junit: Path | None = None,
    summary: Path | None = None,
    annotations: bool = False,
    as_json: bool = False,
) -> int:
    from deploy_runtime import device_cache, report_formats

    if junit is not None:
        with _writing(junit, "--junit"):
            device_cache.write(junit, report_formats.junit(results))
    if summary is not None:
        with _writing(summary, "--summary"), summary.open("a", encoding="utf-8") as file:
            file.write(report_formats.markdown(results))  # after what earlier steps wrote there
    words = "\n\n".join(report_formats.text(result) for result in results)
    if as_json:
        _print_json(report_formats.as_json(results))
    else:
        print(f"{report_formats.unheard(words)}\n{report_formats.annotations(results)}" if annotations else words)
    return 0 if all(result.passed for result in results) else GateError.exit_code


@contextmanager
def _writing(path: Path, option: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DeployError(f"{path} cannot be written: {error.strerror}", f"Give {option} a path that can.") from error


def _refused(error: DeployError) -> int:
    from deploy_runtime.report_formats import one_line

    print(f"error: {one_line(error.message)}\n  fix: {one_line(error.fix)}", file=sys.stderr)
    return error.exit_code


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=1, sort_keys=True, allow_nan=False))


if __name__ == "__main__":
    sys.exit(main())
