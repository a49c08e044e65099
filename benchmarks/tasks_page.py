"""docs/tasks.md from the results of benchmarks/tasks.py. Nothing in it is written by hand."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "tasks.md"
KEEPS = {"fp16": 0.999, "bf16": 0.999, "int8": 0.995}  # of the fp32 accuracy: what we ask of each precision
SUMMARY = (
    "task",
    "PyTorch fp32",
    "AUROC",
    "fp16 kept",
    "bf16 kept",
    "int8 kept: OpenVINO",
    "ONNX Runtime",
    "TensorRT-RTX",
)
COLUMNS = ("candidate", "", "accuracy", "kept", "lost", "gained", "p", "AUROC", "calibration error", "dB")
GOOD = ("passed", "built_not_run", "refused")  # refused: bf16, which the processor has not; it is emulated
HEAD = """# Trained tasks

Made by `python benchmarks/tasks.py` from the results in `benchmarks/results/tasks`: small networks of the recipes'
own, trained on data that ships with scikit-learn, compiled from their checkpoints with real calibration
samples through the unchanged pipeline, and asked about test samples whose truth is known. Counted are engines that
passed their gates, and graphs that are emulated because nothing here runs them:

{verdicts}

{machines}

* The data are scikit-learn's handwritten digits, 1,797 images of 8 x 8 pixels: 640 to train on, 96 to calibrate (32 set
  the INT8 ranges, 32 others are for parity), 61 to choose steps and learning rates with, and 1,000 to test, each drawn
  once. No test digit is in another split. Scenes with a digit or several, clips and pairs are drawn from
  them in code (`benchmarks/tasks_data.py`), with clutter, noise and light of their own. Digits of one writer may be in
  several splits: the data do not say who wrote which.
* All tasks are trained by one loop (`benchmarks/tasks_train.py`): AdamW, one cycle of the learning rate, cross entropy,
  every scene drawn anew at each step, one seed, one thread, deterministic kernels. No quantization-aware training.
* *accuracy* is the share of right decisions with Wilson's 95 % interval. *AUROC* is one against the rest, averaged;
  *calibration error* the expected one of 15 bins; both with a bootstrap over samples. *kept* is accuracy over that of
  PyTorch fp32, with the bootstrap interval of the change on the same samples; *lost* and *gained* are the decisions
  that only PyTorch or only the candidate has right, *p* McNemar's exact test of those. *dB* is the worst output's
  signal to noise in parity.
* A clip or a map has several decisions a sample. Wilson's interval and McNemar's test take each for independent, which
  they are not: there the bootstrap of *kept*, over samples, is the one to trust. Where no decision changed, that
  interval has no width, which says less than it seems to: 0 of 1,000 may still be 3 of 1,000.
* Every candidate is scored, also one that failed its gates and would not ship. *emulated*: TensorRT-RTX engines are
  built here and run nowhere, so that their graphs are computed on the CPU, fp16 with every value rounded to half;
  bf16 where the processor has none by the fp32 graph with every value rounded to bf16.
"""


def write_page(results: Path, names: Iterable[str]) -> None:
    """Write the page: the summary first, then every task with all its candidates; what has no result is named."""
    found = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    measured = [result for result in found if not result["failed"]]
    text = [_head(measured), _table(SUMMARY, [_summary(result) for result in measured]), ""]
    text += [_task(result) for result in measured]
    missing = [f"`{name}`" for name in names if name not in {result["task"] for result in found}]
    text += [f"Not measured yet: {', '.join(missing)}.", ""] if missing else []
    text += [f"* {result['task']} failed: {result['failed']}." for result in found if result["failed"]]
    PAGE.write_text("\n".join(text))


def kept(results: Iterable[Mapping[str, Any]], precision: str) -> list[tuple[str, float, float]]:
    """Return what each candidate of a precision keeps that no gate stopped, with the interval's lower end."""
    return [
        (f"{result['task']}, {row['name']}", row["kept"]["value"], row["kept"]["low"])
        for result in results
        for row in result["candidates"]
        if row["precision"].split("_")[0] == precision and row["status"] in GOOD and "kept" in row
    ]


def _head(results: list[Mapping[str, Any]]) -> str:
    machines = sorted({f"{r['machine']['cpu']} ({r['machine']['instructions']})" for r in results})
    dates = sorted({result["date"] for result in results})
    when = f"{dates[0]} to {dates[-1]}" if len(dates) > 1 else "".join(dates)
    return HEAD.format(
        verdicts="\n".join(_verdict(results, precision, least) for precision, least in KEEPS.items()),
        machines=f"{len(results)} tasks, trained and scored on {'; '.join(machines)}, {when}." if results else "",
    )


def _verdict(results: list[Mapping[str, Any]], precision: str, least: float) -> str:
    """Say how many candidates of a precision keep what is asked of it, and name those that do not."""
    shares = kept(results, precision)
    if not shares:
        return f"* {precision}: not measured."
    below = sorted(f"{name} ({share:.2%})" for name, share, _ in shares if share < least)
    certain = sum(low >= least for _, _, low in shares)
    told = (
        f"* {precision}: {len(shares) - len(below)} of {len(shares)} candidates keep at least {least:.1%} of the "
        f"accuracy of PyTorch fp32, {certain} of them with their whole interval; "
        f"the worst keeps {min(share for _, share, _ in shares):.2%}."
    )
    return f"{told} Below: {'; '.join(below)}." if below else told


def _summary(result: Mapping[str, Any]) -> list[str]:
    rows = result["candidates"]
    int8 = [_kept_by(rows, backend, "int8") for backend in ("openvino", "onnxruntime", "tensorrt_rtx")]
    return [
        f"`{result['task']}`",
        _interval(result["torch"]["accuracy"]),
        _interval(result["torch"]["auroc"], ".4f"),
        _kept_by(rows, "tensorrt_rtx", "fp16"),
        _kept_by(rows, "openvino", "bf16"),
        *int8,
    ]


def _kept_by(rows: Iterable[Mapping[str, Any]], backend: str, precision: str) -> str:
    row = next(row for row in rows if (row["backend"], row["precision"]) == (backend, precision))
    if "kept" not in row:
        return str(row["status"])
    return _interval(row["kept"], ".2%") + ("" if row["status"] in GOOD else f" **{row['status']}**")


def _task(result: Mapping[str, Any]) -> str:
    training, torch = result["training"], result["torch"]
    back = "; ".join(
        f"{len(repair['taken'])} of {repair['heavy']} heavy layers back in float for {target}"
        for target, repair in result["repairs"].items()
    )
    guess = f" The most frequent answer alone would be right in {result['guess']:.1%}." if "guess" in result else ""
    quality = f" Maps have a PSNR of {_interval(torch['psnr_db'], '.1f')} dB." if "psnr_db" in torch else ""
    lines = [
        f"## {result['task']}",
        "",
        f"`{result['recipe']}` ({_params(result['params'])}): {result['about']}. Reduced: {result['reduced']}; "
        f"{result['parameters'] / 1e6:.1f} M parameters. Trained for {training['steps']} steps of {training['batch']} "
        f"scenes, learning rate {training['rate']:g}; right on {result['validation']:.1%} of the validation scenes."
        f"{guess} INT8: {back or 'no layer back in float'}.{quality} Commit {result['commit']}.",
        "",
        _table(COLUMNS, [["PyTorch fp32", "", _interval(torch["accuracy"]), *["–"] * 4, *_quality(torch), "–"]]
               + [_candidate(row) for row in result["candidates"]]),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _params(params: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in params.items())


def _candidate(row: Mapping[str, Any]) -> list[str]:
    status = "emulated" if row["emulated"] else row["status"]
    if "kept" not in row:
        return [row["name"], f"{status}: {row['reason'][:60]}", *["–"] * (len(COLUMNS) - 2)]
    difference = row["difference"]
    return [
        row["name"],
        status,
        _interval(row["accuracy"]),
        _interval(row["kept"], ".2%"),
        str(difference["lost"]),
        str(difference["gained"]),
        f"{difference['p_value']:.2g}",
        *_quality(row),
        "–" if row["sqnr_db"] is None else f"{float(row['sqnr_db']):.1f}",
    ]


def _quality(row: Mapping[str, Any]) -> list[str]:
    return [_interval(row["auroc"], ".4f"), _interval(row["calibration_error"], ".4f")]


def _interval(found: Mapping[str, float] | None, how: str = ".1%") -> str:
    if found is None:
        return "–"
    return f"{found['value']:{how}} ({found['low']:{how}}–{found['high']:{how}})"


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = list(columns)
    lines = [columns, ["---" if place < 2 else "---:" for place in range(len(columns))], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
