"""Tables that a stranger understands, for a terminal: candidates, verdicts, layers."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy_compile.module_path import module_path
from deploy_compile.results import Benched
from deploy_compile.results_int8 import Diagnosis
from deploy_runtime.data import encode
from deploy_runtime.drift import Drift
from deploy_runtime.evidence import Candidate, Evaluation, Interval

USUAL_SAMPLES = 16  # held out; fewer where PyTorch is slow or the folder holds fewer, and that is said
MARKS = {
    "passed": "[green]passed[/]",
    "failed": "[red]failed[/]",
    "rejected": "[red]rejected[/]",
    "crashed": "[red]crashed[/]",
    "refused": "[yellow]refused[/]",
    "built_not_run": "[cyan]not run[/]",
    "to_build": "[cyan]to build[/]",
}


NEXT_LINE = "\n    on "  # names of devices are long


def candidates_table(rows: Sequence[Candidate], chosen: int) -> Table:
    """One line a candidate: what became of it, how fast, how close to PyTorch, what ran in which precision.

    Fits 80 columns. The number behind ± is the half-width of the 95 % interval.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("  candidate", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for heading in ("x PyTorch", "ms", "cosine", "dB", "top-1"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("layers", no_wrap=True)
    for i, row in enumerate(rows):
        worst = min(row.drift, key=lambda drift: drift.sqnr_db, default=None)
        table.add_row(
            f"[bold green]→ {row.name}[/]" if i == chosen else f"  {row.name.replace(' on ', NEXT_LINE)}",
            MARKS[row.status],
            f"{row.speed.ratio:.2f}±{(row.speed.high - row.speed.low) / 2:.2f}" if row.speed else "–",
            f"{row.speed.p50_ms:.1f}" if row.speed else "–",
            f"{worst.cosine:.4f}" if worst else "–",
            sqnr(worst) if worst else "–",
            _agreement(next((drift for drift in row.drift if drift.agreement is not None), None)),
            _layers(row),
        )
    return table


def sqnr(drift: Drift) -> str:
    """Signal to noise in dB as text; equal outputs have no noise."""
    return "equal" if drift.sqnr_db == float("inf") else f"{drift.sqnr_db:.1f}"


def _agreement(drift: Drift | None) -> str:
    if drift is None or drift.agreement is None:
        return "–"
    return f"{round(drift.agreement * drift.decisions)}/{drift.decisions}"


def _layers(row: Candidate) -> str:
    if row.coverage is None:
        return "–"
    return "\n".join(f"{count} {precision}" for precision, count in sorted(row.coverage.layers.items()))


def print_outcome(
    console: Console, rows: Sequence[Candidate], chosen: int, sentence: str, notes: Sequence[str]
) -> None:
    """The table, why each fallen candidate fell, the notes, and the verdict."""
    console.print(candidates_table(rows, chosen))
    for row in rows:
        if row.reason and row.status != "passed" and not row.unrun:
            console.print(f"{MARKS[row.status]} {row.name}: {escape(row.reason)}", highlight=False)
    for note in notes:
        console.print(f"[dim]{escape(note)}[/]", highlight=False)
    console.print(f"[bold]{escape(sentence)}[/]", highlight=False)


MOST_CLASSES_SHOWN = 20


def print_evaluation(console: Console, found: Evaluation, labels: Sequence[str]) -> None:
    """Accuracy on labelled samples, PyTorch and the chosen engine: what a signer reads first."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column(f"on {found.samples} labelled samples", no_wrap=True)
    table.add_column("PyTorch", no_wrap=True)
    table.add_column(found.candidate, no_wrap=True)
    both = (found.torch, found.engine)
    table.add_row("accuracy", *(_percent(one.accuracy) for one in both))
    table.add_row("AUROC", *(_plain(one.auroc) for one in both))
    table.add_row("calibration error", *(_plain(one.calibration_error) for one in both))
    if len(found.torch.recall) <= MOST_CLASSES_SHOWN:
        for place, pair in enumerate(zip(found.torch.recall, found.engine.recall, strict=True)):
            name = labels[place] if labels else f"class {place}"
            table.add_row(f"recall of {escape(name)} ({pair[0].samples})", *(_percent(one.recall) for one in pair))
    console.print(table)
    console.print(f"[bold]{changed(found)}[/]", highlight=False)


def changed(found: Evaluation) -> str:
    """The change of accuracy in a sentence."""
    change, told = found.difference.change, found.difference
    gate = "" if found.max_drop is None else f"; at most {found.max_drop:g} may be lost"
    return (
        f"accuracy changes by {100 * change.value:+.2f} percentage points ({100 * change.low:+.2f} to "
        f"{100 * change.high:+.2f}{gate}): of {found.decisions} decisions {told.lost} were right before only, "
        f"{told.gained} after only, McNemar p = {told.p_value:.3g}"
    )


def _percent(share: Interval | None) -> str:
    if share is None:
        return "no sample"
    return f"{100 * share.value:.2f} % ({100 * share.low:.1f}–{100 * share.high:.1f})"


def _plain(value: Interval | None) -> str:
    return "not defined" if value is None else f"{value.value:.4f} ({value.low:.3f}–{value.high:.3f})"


def print_bench(console: Console, benched: Benched) -> None:
    """One line a candidate of a bundle, fastest first."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("  candidate", no_wrap=True)
    for heading in ("x PyTorch", "95 % interval", "p50 ms", "p90 ms", "PyTorch ms", "runs"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, speed in sorted(benched.speeds.measured.items(), key=lambda item: -item[1].ratio):
        table.add_row(
            f"[bold green]→ {name}[/]" if name == benched.chosen else f"  {name}",
            f"{speed.ratio:.2f}",
            f"{speed.low:.2f} to {speed.high:.2f}",
            f"{speed.p50_ms:.1f}",
            f"{speed.p90_ms:.1f}",
            f"{speed.torch_p50_ms:.1f}",
            str(speed.runs),
        )
    console.print(table)
    for name, reason in benched.speeds.failed.items():
        console.print(f"[red]not timed[/] {name}: {escape(reason)}", highlight=False)
    threads = benched.speeds.threads
    console.print(f"[dim]{threads} thread{'s' if threads > 1 else ''}, all interleaved in one run[/]", highlight=False)


def print_diagnosis(console: Console, diagnosis: Diagnosis, top: int) -> None:
    """The layers whose INT8 form costs most, the worst first; all figures are signal to noise in dB."""
    found = diagnosis.sensitivity
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("layer", overflow="fold")
    table.add_column("op", no_wrap=True)
    for heading in ("own", "alone", "without"):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in found.layers[:top]:
        figures = (layer.own_db, layer.alone_db, layer.without_db)
        table.add_row(escape(module_path(layer)), layer.op, *(f"{figure:.1f}" for figure in figures))
    console.print(table)
    console.print(
        f"{found.whole_db:.1f} dB with all {len(found.layers)} layers in INT8, over {found.samples} samples\n"
        "own      the layer's own output, its inputs in float\n"
        "alone    the network's output with only this layer in INT8\n"
        "without  the same with every other layer in INT8: what taking this one back leaves",
        highlight=False,
    )
    if diagnosis.synthetic:
        console.print("[yellow]measured on the synthetic golden samples: --samples DIR looks at real data[/]")


def diagnosis_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """A diagnosis as `--json` prints it: the encoded value, each layer with its PyTorch module."""
    body: dict[str, Any] = encode(diagnosis)
    for layer, described in zip(diagnosis.sensitivity.layers, body["sensitivity"]["layers"], strict=True):
        described["module"] = module_path(layer)
    return body


def notes(
    rows: Sequence[Candidate], *, seeded: bool, synthetic: bool, int8: bool, doubts: Sequence[str] = ()
) -> list[str]:
    """What a person must know beside the numbers; `doubts` are those about the calibration samples."""
    told = []
    measured = [drift.samples for row in rows if not row.emulated for drift in row.drift]
    if measured and max(measured) < USUAL_SAMPLES:
        plural = "samples" if max(measured) > 1 else "sample"
        told.append(f"drift was measured on {max(measured)} held-out {plural} only: fewer than {USUAL_SAMPLES}.")
    if any(row.status == "to_build" for row in rows):
        told.append(
            "to build: the graphs ship, and `python -m deploy_runtime build` on the device makes, audits and proves "
            "the engine; not run on hardware, their drift is emulated on the CPU."
        )
    if any(row.status == "built_not_run" for row in rows):
        told.append(
            "not run: TensorRT engines were compiled and audited here, not run on hardware; their drift is "
            "emulated on the CPU."
        )
    if int8 and synthetic:
        told.append("calibrated on synthetic samples: give --calibration DIR for ranges of real data.")
    told += [f"calibration: {doubt}." for doubt in doubts]
    if seeded:
        told.append("seeded weights: an architecture check, not a model to ship. Give --weights best.pt.")
    return told
