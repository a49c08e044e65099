"""`recipe`: compile one."""

import json
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from deploy_compile import terminal, uncertainty
from deploy_compile.bundle import check_target, deliver, report
from deploy_compile.cache import Stages
from deploy_compile.options import DEFAULT_TARGETS, MOST_CALIBRATION, Options, fitted, parse_batch, parse_params
from deploy_compile.progress import Progress
from deploy_compile.results import Outcome
from deploy_compile.targets import names as target_names
from deploy_runtime import device_cache
from deploy_runtime.errors import DeployError, UsageError
from deploy_runtime.spec import Batch

PRECISIONS = ("fp32", "bf16", "fp16", "int8", "int8_bf16", "int8_fp16")
ALGORITHMS = ("auto", "minmax", "percentile", "entropy", "mse")


@click.command()
@click.argument("ref", metavar="NAME|FILE.py:NAME")
@click.option("--int8", is_flag=True, help="Add INT8 candidates, calibrated.")
@click.option("--fp16", is_flag=True, help="Add FP16 candidates (GPU targets).")
@click.option("--require", type=click.Choice(PRECISIONS), help="Exit 3 unless this precision is chosen.")
@click.option("--weights", "--checkpoint", default="seeded", show_default=True,
              help="A checkpoint, 'pretrained', or 'seeded': an architecture check, not a model to ship.")  # fmt: skip
@click.option("--keys", type=click.Path(path_type=Path), help="JSON object renaming checkpoint keys.")
@click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="Set one of the recipe's parameters.")
@click.option("--batch", default="1", show_default=True, metavar="N|MIN:OPT:MAX", help="Batch size the engines serve.")
@click.option("--calibration", type=click.Path(path_type=Path),
              help="Folder of images, videos, DICOM, .npy or .npz that gives the INT8 ranges and the held-out samples. "
                   "Without it both are synthetic.")  # fmt: skip
@click.option("--calibration-algorithm", "algorithm", type=click.Choice(ALGORITHMS), default="auto", show_default=True,
              help="How a tensor's INT8 range is chosen from its histogram.")  # fmt: skip
@click.option("--calibration-samples", type=click.IntRange(min=1), default=MOST_CALIBRATION,
              show_default=True, metavar="N",
              help="How many samples of --calibration set the ranges at most, spread over its sources.")  # fmt: skip
@click.option("--labels", multiple=True, type=click.Path(path_type=Path),
              help="Text file with one class label a line, in order; for --evaluate a CSV of files and labels. "
                   "May be given twice.")  # fmt: skip
@click.option("--evaluate", type=click.Path(path_type=Path),
              help="Folder of labelled samples: accuracy before and after, with --labels TRUTH.csv.")  # fmt: skip
@click.option("--max-drop", type=click.FloatRange(min=0.0), default=None, metavar="POINTS",
              help="With --evaluate: the most that accuracy may fall, in percentage points.")  # fmt: skip
@click.option("--temperature", type=float, metavar="T",
              help="Divide the logits by T > 0, fitted on held-out data: calibrated probabilities.")  # fmt: skip
@click.option("--ensemble", metavar="A.pt,B.pt,…",
              help="Two or more checkpoints in one graph; gives probabilities, entropy and variance.")  # fmt: skip
@click.option("--mc-dropout", "dropout", metavar="N[:RATE]",
              help="N fixed dropout masks on what reaches the head, of the network's own rate or of RATE; gives "
                   "probabilities, entropy and variance.")  # fmt: skip
@click.option("--ship-samples", is_flag=True, help="Ship real held-out samples as the golden set. Default: synthetic.")
@click.option("--target", "targets", multiple=True, default=DEFAULT_TARGETS, show_default=True,
              help=f"Where it will run: {', '.join(target_names())}. May be given again.")  # fmt: skip
@click.option("--compute-capability", "capabilities", multiple=True, metavar="CC",
              help="For rtx: sm86, sm89, sm120. Default: all three in one engine.")  # fmt: skip
@click.option("--exporter", type=click.Choice(["torchscript", "dynamo"]), default=None,
              help="ONNX exporter. Default: the recipe's.")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), default=None, help="CPU threads. Default: physical cores.")
@click.option("--objective", type=click.Choice(["latency", "throughput", "size"]), default="latency", show_default=True,
              help="Choose the fastest answer on all threads; the most answers with one engine a core; or the smallest "
                   "engine that is no slower than PyTorch.")  # fmt: skip
@click.option("--strict", is_flag=True, help="Refuse synthetic calibration.")
@click.option("--out", type=click.Path(path_type=Path), help="Bundle folder. Default: artifacts/NAME-PRECISION.")
@click.option("--force", is_flag=True, help="Replace what stands at --out.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def recipe(**given: Any) -> None:
    """Compile a recipe: trace, quantize, build, prove parity, time, and bundle."""
    begun = time.monotonic()
    out, force, as_json = given.pop("out"), given.pop("force"), given.pop("as_json")
    options = read_options(**given)
    console, quiet = Console(stderr=as_json), as_json
    if options.weights == "seeded" and not quiet:
        console.print("[yellow]seeded weights: architecture check, not a model to ship[/]")
    progress = Progress(quiet=quiet)
    target = out or Path("artifacts") / options.folder_name
    try:
        outcome, delivered = _compile(options, target, force, progress)
    finally:
        progress.stop()
    seconds = time.monotonic() - begun
    if as_json:
        body = report(outcome.recipe, outcome.rows, outcome.choice, outcome.evaluation)
        click.echo(json.dumps({"bundle": target.as_posix(), **body, "seconds": round(seconds, 2)}))
    else:
        told = terminal.notes(
            outcome.rows,
            seeded=options.weights == "seeded",
            synthetic=options.calibration is None,
            int8=options.int8,
            doubts=outcome.warnings,
        )
        if outcome.evaluation is not None:
            terminal.print_evaluation(console, outcome.evaluation, fitted(options).labels)
        terminal.print_outcome(console, outcome.rows, outcome.choice.chosen, outcome.choice.sentence, told)
        state = "written" if delivered else "is up to date, nothing to do"
        console.print(f"bundle {target} {state} [dim]({seconds:.1f} s)[/]", highlight=False)


def _compile(options: Options, target: Path, force: bool, progress: Progress) -> tuple[Outcome, bool]:
    check_target(target)
    fit = fitted(options)
    if options.evaluate is not None and options.truth is not None:
        from deploy_compile import labelled

        labelled.truth(labelled.read(options.evaluate, options.truth, fit))  # refused before any work
    stages = Stages(device_cache.folder(), progress.started, progress.finished)

    def run() -> Outcome:
        from deploy_compile.pipeline import compile_recipe  # torch, onnx and all: not needed for what stands already

        return compile_recipe(fit, options, stages)

    outcome = stages.whole("deploy_compile.pipeline:compile_recipe", Outcome, run, fit, options)
    return outcome, deliver(outcome.bundled, target, force)


def read_options(
    *,
    ref: str,
    params: tuple[str, ...],
    batch: str,
    capabilities: tuple[str, ...],
    targets: tuple[str, ...],
    threads: int | None,
    exporter: str | None,
    temperature: float | None,
    ensemble: str | None,
    dropout: str | None,
    labels: tuple[Path, ...],
    evaluate: Path | None,
    max_drop: float | None,
    **same: Any,
) -> Options:
    """Turn what click read into Options, refusing what can be refused before any work."""
    import deploy_recipes
    from deploy_compile.targets import get
    from deploy_runtime.model import physical_cores

    deploy_recipes.resolve(ref)
    for name in targets:
        get(name)
    how, members = uncertainty.parse(temperature, ensemble, dropout)
    if members and same["weights"] != "seeded":
        raise UsageError("--ensemble and --weights both name checkpoints", "Leave --weights out: --ensemble names all.")
    if members:
        same["weights"] = members
    elif same["weights"] not in ("seeded", "pretrained"):
        same["weights"] = path = Path(same["weights"])
        if not path.exists():
            raise DeployError(f"there is no checkpoint at {path}", "Give --weights a file, 'pretrained' or 'seeded'.")
    sizes: Batch = parse_batch(batch)
    names, truth = _labels(labels, evaluate, max_drop)
    return Options(
        ref=ref,
        params=parse_params(params),
        batch=sizes,
        targets=tuple(dict.fromkeys(targets)),
        compute_capabilities=capabilities,
        threads=threads or physical_cores(),
        exporter=exporter or "",
        uncertainty=how,
        labels=names,
        evaluate=evaluate,
        truth=truth,
        max_drop=max_drop,
        **same,
    )


def _labels(given: tuple[Path, ...], evaluate: Path | None, max_drop: float | None) -> tuple[Path | None, Path | None]:
    """Tell the names of the classes from the labels of samples, which are a CSV."""
    tables = [path for path in given if path.suffix.lower() == ".csv"]
    names = [path for path in given if path not in tables]
    if len(tables) > 1 or len(names) > 1:
        raise UsageError("--labels is given twice for the same", "Give one text file of names and one CSV at most.")
    if (evaluate is None) != (not tables):
        missing = "--labels TRUTH.csv" if tables == [] else "--evaluate DIR"
        raise UsageError(f"labelled samples need --evaluate and --labels, and {missing} is missing", "Give both.")
    if max_drop is not None and evaluate is None:
        raise UsageError("--max-drop judges labelled samples, and there are none", "Give --evaluate DIR and --labels.")
    return next(iter(names), None), next(iter(tables), None)
