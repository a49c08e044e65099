"""docs/benchmarks.md from the results of benchmarks/peers.py and passes.py. Nothing in it is written by hand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import passes_page

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
OURS, EAGER = "deploy-compile", "PyTorch eager"
WITHIN_DB = 1.0  # an alternative that loses no more than this is as accurate
HEAD = """# Benchmarks: what this tool ships beside the alternatives

Made by `python benchmarks/peers.py` from the results in `benchmarks/results/peers`. Same network, weights (seeded),
calibration samples and held-out samples for all; every runner in a process of its own, interleaved in one run, medians
with bootstrap 95 % intervals. *x eager* is the speed-up over PyTorch eager; *ours* is how many times faster what
`deploy-compile recipe MODEL --int8` chose is than that alternative (**below 1 it is slower**). What is within 15 % was
timed in several sittings, each with processes anew, and its interval is over those too; how many stands below a table.
*dB* is the signal to noise of the worst output against PyTorch fp32, *top-1* the share of equal decisions, on {samples}
held-out samples.
*build* is what making it ready took, *first* the first run in a fresh process, *GiB* the peak memory of its tool.

What each rewriting of the graph is worth by itself stands below. Accuracy on trained networks, which these are not:
[tasks.md](tasks.md).

{machines}
"""
PASSES = """## Each graph pass, on and off

An engine as it ships beside the same one with a pass left out, or put in: the geometric mean over the models whose
graph the pass changes, the least and the most. Above 1 the shipped form is faster. Every model with its interval, what
the passes are, how far their answers differ: [passes.md](passes.md); sums of residuals: [residuals.md](residuals.md).
"""


def write_page(results: Path) -> None:
    """Write the page: a summary over all models, then one table a model."""
    found = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    measured = [result for result in found if "threads" in result]
    machines = sorted({_machine(result) for result in found})
    text = HEAD.format(
        machines=f"Measured on {'; '.join(machines)}: which model where stands below its table."
        if machines
        else "Nothing is measured yet.",
        samples="/".join(sorted({str(result["samples"]) for result in measured})) or "the",
    )
    tables = [line for result in found for line in _model(result)]
    passes = passes_page.summary(results.parent / "passes")
    PAGE.write_text("\n".join([text, *_summary(measured), PASSES, *passes, *tables]))


def _machine(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    return f"{machine['cpu']} ({machine['instructions']}), {machine['cores']} cores, {result['date']}"


def _summary(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Geometric means of our speed over each alternative's, over the models where both ran."""
    if not results:
        return []
    lines = ["## Over all models", "", "| ours over | " + " | ".join(_threads(results)) + " | models |", "| --- | "]
    lines[-1] += " | ".join("---:" for _ in _threads(results)) + " | ---: |"
    titles = dict.fromkeys(title for result in results for title in result["alternatives"] if title != OURS)
    for title in (*titles, "the best of ONNX Runtime int8, torch.compile, OpenVINO fp32 and bf16"):
        cells = []
        for threads in _threads(results):
            ratios = [_over(result, title, threads) for result in results]
            known = [ratio for ratio in ratios if ratio is not None]
            cells.append(f"{geometric_mean(known):.2f}" if known else "not run")
        count = sum(_over(result, title, "1") is not None for result in results)
        lines.append(f"| {title} | {' | '.join(cells)} | {count} |")
    return [*lines, ""]


def _threads(results: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({threads for result in results for threads in result["threads"]}, key=int)


def _over(result: Mapping[str, Any], title: str, threads: str) -> float | None:
    timed = result["threads"].get(threads, {})
    if title.startswith("the best"):
        rivals = ("ONNX Runtime int8", "torch.compile", "OpenVINO fp32", "OpenVINO bf16")
        return min((timed[rival]["ours"][0] for rival in rivals if rival in timed), default=None)
    return float(timed[title]["ours"][0]) if title in timed else None


def _model(result: Mapping[str, Any]) -> list[str]:
    lines = [f"## {result['model']}", ""]
    if "threads" not in result:
        return [*lines, f"Failed: {result['failed']}.", ""]
    columns = [f"{what}, {threads} thr." for threads in _threads([result]) for what in ("x eager", "ours")]
    heads = ["", *columns, "dB", "top-1", "MB", "build s", "first s", "GiB"]
    lines += [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    for title, row in result["alternatives"].items():
        lines.append(_line(title, row, result))
    chosen = ", ".join(f"{name} on {threads}" for threads, name in result["alternatives"][OURS]["chosen"].items())
    where = f"{_machine(result)}, commit {result['commit']}"
    sittings = max(speed.get("sittings", 1) for timed in result["threads"].values() for speed in timed.values())
    said = f"deploy-compile chose {chosen} thread(s). Near ones in {sittings} sitting(s). {where}. {_beaten(result)}"
    return [*lines, "", said, ""]


def _beaten(result: Mapping[str, Any]) -> str:
    """Say which alternatives are faster beyond the interval and as accurate."""
    rows = result["alternatives"]
    better = [
        f"{title} on {threads} thread(s)"
        for threads, timed in result["threads"].items()
        for title, speed in timed.items()
        if title != OURS and speed["ours"][2] < 1 and rows[title]["sqnr_db"] >= rows[OURS]["sqnr_db"] - WITHIN_DB
    ]
    if better:
        return f"**Faster beyond the interval and as accurate within {WITHIN_DB:g} dB: {', '.join(better)}.**"
    return f"No alternative is both faster beyond the interval and as accurate within {WITHIN_DB:g} dB."


def _line(title: str, row: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    if row["failed"]:
        return f"| {title} | {row['failed']} |{' |' * (2 * len(result['threads']) + 5)}"
    cells = []
    for timed in result["threads"].values():
        speed = timed[title]
        ratio, low, high = speed["ours"]
        cells.append(f"{speed['ratio']:.2f} ({speed['low']:.2f}–{speed['high']:.2f})")
        cells.append("1" if title == OURS else f"{ratio:.2f} ({low:.2f}–{high:.2f})")
    agreement = "–" if row["agreement"] is None else f"{row['agreement']:.1%}"
    size = f"{row['bytes'] / 1e6:.1f}" if row.get("bytes") else "–"
    peak = f"{row['peak_gib']:.1f}" if row.get("peak_gib") else "–"
    rest = (f"{row['sqnr_db']:.1f}", agreement, size, f"{row['seconds']:.0f}", f"{row['first_run_s']:.2f}", peak)
    return f"| {title} | {' | '.join((*cells, *rest))} |"
