"""`check`, `bench`, `diagnose` and `package`: what can be done with a finished bundle."""

import json
from pathlib import Path

import click
from rich.console import Console

from deploy_compile import terminal
from deploy_runtime.errors import GateError, UsageError


@click.command()
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--against", metavar="BASE", type=click.Path(path_type=Path),
              help="Also fail on what became worse since this bundle of the same recipe.")  # fmt: skip
@click.option("--no-time", is_flag=True, help="With --against: compare no latencies, this machine is not the target.")
@click.option("--strict", is_flag=True,
              help="What a release uses: real weights, real calibration, every gate, nothing left unrun.")  # fmt: skip
@click.option("--target", metavar="T", help="With --strict: the target whose every engine must run here. Default: cpu.")
@click.option("--backend", help="Only the candidates of this backend.")
@click.option("--junit", type=click.Path(path_type=Path), help="Write the gates as JUnit XML.")
@click.option("--summary", type=click.Path(path_type=Path),
              help="Append the gates as Markdown, e.g. to $GITHUB_STEP_SUMMARY.")  # fmt: skip
@click.option("--annotations", is_flag=True, help="Print what stands out as GitHub workflow commands.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def check(
    bundles: tuple[Path, ...],
    against: Path | None,
    no_time: bool,
    strict: bool,
    target: str | None,
    backend: str | None,
    junit: Path | None,
    summary: Path | None,
    annotations: bool,
    as_json: bool,
) -> None:
    """Run a bundle's gates again: files, golden parity, audit, and what became worse. Exit 3 when one fails.

    The same as `python -m deploy_runtime check`, which needs no PyTorch.
    """
    from deploy_runtime.__main__ import check_bundles

    code = check_bundles(
        bundles,
        strict=strict,
        backend=backend,
        target=target,
        against=against,
        time=not no_time,
        junit=junit,
        summary=summary,
        annotations=annotations,
        as_json=as_json,
    )
    if code:
        raise click.exceptions.Exit(code)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(min=1), default=None, help="CPU threads. Default: physical cores.")
@click.option("--recipe", "ref", metavar="FILE.py:NAME", help="The recipe, where it stands in a file of yours.")
@click.option("--seconds", type=click.FloatRange(min=1), default=60.0, show_default=True, help="Time to spend at most.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def bench(bundle: Path, ref: str | None, threads: int | None, seconds: float, as_json: bool) -> None:
    """Time a bundle's candidates beside PyTorch eager, interleaved, with 95 % intervals."""
    from deploy_compile.bench import bench_bundle
    from deploy_runtime.data import encode
    from deploy_runtime.model import physical_cores

    benched = bench_bundle(bundle, ref, threads or physical_cores(), seconds)
    if not benched.speeds.measured:
        raise GateError("no candidate could be timed", "; ".join(benched.speeds.failed.values()))
    if as_json:
        click.echo(json.dumps(encode(benched)))
    else:
        terminal.print_bench(Console(), benched)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--samples", type=click.Path(path_type=Path),
              help="Folder of real samples to measure on, as --calibration takes it. Default: golden.")  # fmt: skip
@click.option("--recipe", "ref", metavar="FILE.py:NAME", help="The recipe, where it stands in a file of yours.")
@click.option("--top", type=click.IntRange(min=1), default=20, show_default=True, help="Layers to print.")
@click.option("--chart", type=click.Path(path_type=Path, dir_okay=False), help="Draw the worst layers: .png or .svg.")
@click.option("--threads", type=click.IntRange(min=1), default=None, help="CPU threads. Default: physical cores.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def diagnose(
    bundle: Path,
    samples: Path | None,
    ref: str | None,
    top: int,
    chart: Path | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Rank layers by how much of the output's error their INT8 form causes."""
    from deploy_compile import diagnose as diagnosing
    from deploy_runtime.model import physical_cores

    found = diagnosing.diagnose(bundle, samples, ref, threads or physical_cores())
    if chart is not None:
        diagnosing.chart(found, chart)
    if as_json:
        click.echo(json.dumps(terminal.diagnosis_json(found)))
    else:
        terminal.print_diagnosis(Console(), found, top)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--target", required=True, metavar="T", help="Where it will run: cpu, rtx, jetson-jp6, ...")
@click.option("--format", "form", type=click.Choice(["tar", "triton"]), default="tar", show_default=True,
              help="An archive for the device, or a model of a Triton repository.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path),
              help="The archive, default NAME-TARGET.tar.gz beside BUNDLE; or Triton's repository.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace what stands at --out.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def package(bundle: Path, target: str, form: str, out: Path | None, force: bool, as_json: bool) -> None:
    """Make one archive with only what a target needs: bundle, runtime, install.py, model card, bill of materials.

    With --format triton write a model of a Triton repository instead: graph, config.pbtxt, labels; nothing of it was
    run in Triton itself.
    """
    if form == "triton":
        from deploy_compile.triton import write_repository

        if out is None:
            raise UsageError("a model for Triton needs its repository", "Give --out REPO: it becomes REPO/NAME.")
        model = write_repository(bundle, out, target, force)
        said = f"model {model.name} stands in {out}; its README.md says how to start it"
        click.echo(json.dumps({"model": str(model)}) if as_json else said)
        return
    from deploy_compile import package as packaging

    made = packaging.package(bundle, target, out, force)
    click.echo(json.dumps(packaging.as_json(made)) if as_json else "\n".join(packaging.said(made)))
