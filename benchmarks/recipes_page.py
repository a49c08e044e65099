"""docs/recipes.md from the results of benchmarks/recipes.py. Nothing in it is written by hand."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import deploy_recipes
from deploy_recipes import Recipe

PAGE = Path(__file__).parent.parent / "docs" / "recipes.md"
COLUMNS = (
    "recipe", "params", "inputs", "GMACs", "export s", "fp32", "fp16 dB", "int8 dB", "back", "branch", "RTX",
    "INT8", "FP16", "x PyTorch", "s", "GiB", "commit",
)  # fmt: skip
TEXT = ("recipe", "inputs", "x PyTorch", "commit")
HEAD = """# Recipes

Made by `python benchmarks/recipes.py` from the results in `benchmarks/results/recipes`: each recipe at full size
through `deploy-compile recipe NAME --int8 --fp16`, with seeded weights and synthetic samples. What it shows is that the
architecture exports, quantizes, builds and answers as PyTorch does; accuracy is another matter (docs/principles.md).

{count} recipes, {measured} measured; fp32 passes for {fp32}, fp16 for {fp16}, int8 for {int8} of them.
{machines}

* *params* in millions; *GMACs* are multiply-adds of convolutions and matrix products, in billions, of one sample.
* *fp32* is the largest relative error of all backends, *fp16* and *int8* the signal to noise in dB, of the worst
  output. fp16 is that of TensorRT-RTX's graph, computed with every value rounded to half precision on the CPU
  (emulated). int8 is the best of the CPU engines with INT8 layers that pass, and *back* how many quantized layers went
  back to float to get there (docs/int8.md). *branch* is by how much zeroing the deepest residual branch moves the
  answers, in multiples of the INT8 error: parity says something about it from about 3 on.
* *RTX* counts the TensorRT-RTX engines that were built and audited; **none has run on hardware**. *INT8* and *FP16* are
  the share of multiply-adds that the compiler gave that precision in the int8 and the fp16 engine.
* *x PyTorch* is the chosen candidate's speed-up over PyTorch eager with its 95 % interval, {threads} threads, batch 1.

**What stays float in INT8**, in every recipe: softmax, normalisations and recurrent cells, which no engine computes in
8 bits; products of two activations, as in attention (most softmax values are smaller than one step: 4 to 17 dB);
transposed convolutions, which TensorRT computes in float whatever the graph says. `deploy-compile show NAME` lists what
else a recipe keeps, each with its reason.

**EfficientNet keeps many of its layers in float**, and so does what is built of its blocks (the `efficientnet_b5_…` and
the longitudinal networks): its batch norms amplify the depthwise convolutions up to 200 times, so that rounding their
inputs alone leaves 9 to 27 dB. The pipeline takes the worst layers back to float until INT8 passes (*back*), and the
verdict says what that costs; on processors without 8-bit dot products little speed is left to gain.
"""


def write_page(results: Path) -> None:
    """Write the page: families in alphabetical order, one table each, and the reasons of what failed."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}
    recipes = [deploy_recipes.get(name) for name in deploy_recipes.names()]
    measured = {recipe.name: found[recipe.name] for recipe in recipes if recipe.name in found}
    text = [_head(recipes, measured)]
    families = dict.fromkeys(recipe.family for recipe in recipes)
    text += [_family(family, [r for r in recipes if r.family == family], measured) for family in families]
    PAGE.write_text("\n".join(text))


def _head(recipes: Sequence[Recipe], measured: Mapping[str, Any]) -> str:
    passes = {
        precision: sum(_passes(result, precision) for result in measured.values())
        for precision in ("fp32", "fp16", "int8")
    }
    machines = sorted({_machine(result) for result in measured.values()})
    dates = sorted({result["date"] for result in measured.values()})
    when = f"{dates[0]} to {dates[-1]}" if len(dates) > 1 else "".join(dates)
    return HEAD.format(
        count=len(recipes),
        measured=len(measured),
        machines=f"Measured on {'; '.join(machines)}, {when}." if measured else "",
        threads="/".join(sorted({str(result["threads"]) for result in measured.values()})) or "all",
        **passes,
    )


def _machine(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    return f"{machine['cpu']} ({machine['instructions']}), {result['threads']} cores, {machine['memory_gib']} GiB"


def _passes(result: Mapping[str, Any], precision: str) -> bool:
    """Whether every backend that builds a precision passes with it; for int8 one of the CPU backends is enough."""
    rows = result.get("candidates", ())
    if precision == "int8":
        return any(map(_good, _int8(rows)))
    good = [_good(row) for row in rows if row["precision"] == precision and row["status"] != "refused"]
    return bool(good) and all(good)


def _int8(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows with INT8 layers that ran here, whatever the layers between them compute in."""
    return [row for row in rows if row["precision"].startswith("int8") and row["backend"] != "tensorrt_rtx"]


def _good(row: Mapping[str, Any]) -> bool:
    return row["status"] in ("passed", "built_not_run")


def _family(family: str, recipes: Iterable[Recipe], measured: Mapping[str, Any]) -> str:
    lines = [
        f"## {family}",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"| {' | '.join('---' if name in TEXT else '---:' for name in COLUMNS)} |",
    ]
    said, sources = [], []
    for recipe in recipes:
        result = measured.get(recipe.name)
        lines.append(_line(recipe, result))
        sources.append(f"* `{recipe.name}`: {recipe.source}. Parameters: {_params(recipe)}.")
        said += _failures(recipe.name, result) if result else []
    return "\n".join([*lines, "", *sources, *([""] if said else []), *said, ""])


def _params(recipe: Recipe) -> str:
    return ", ".join(f"{param.name}={param.default}" for param in recipe.params) or "none"


def _line(recipe: Recipe, result: Mapping[str, Any] | None) -> str:
    inputs = "<br>".join(f"{t.name} {'×'.join(str(size) for size in t.shape[1:])}" for t in recipe.inputs)
    cells = [f"`{recipe.name}`", f"{recipe.parameters / 1e6:.1f}", inputs]
    if result is None:
        return f"| {' | '.join([*cells, 'not measured yet', *['–'] * (len(COLUMNS) - 4)])} |"
    if result["failed"]:
        cells += [
            *[f"failed: {result['failed'][:80]}"] * (len(COLUMNS) - 6),
            f"{result['seconds']:.0f}",
            f"{result['peak_gib']:.1f}",
        ]
        return f"| {' | '.join([*cells, result['commit']])} |"
    rows = result["candidates"]
    rtx = [row for row in rows if row["backend"] == "tensorrt_rtx"]
    cells += [
        f"{result['gmacs']:.2f}",
        f"{result['stages_s'].get('export', 0.0):.0f}",
        _relative([row for row in rows if row["precision"] == "fp32"]),
        _decibel([row for row in rtx if row["precision"] == "fp16"]),
        _decibel(_int8(rows)),
        _back(result.get("repair")),
        _branch(result),
        f"{sum(row['status'] in ('passed', 'built_not_run', 'failed') for row in rtx)} of {len(rtx)}",
        _share(rtx, "int8"),
        _share(rtx, "fp16"),
        _speed(next(row for row in rows if row["name"] == result["chosen"])),
        f"{result['seconds']:.0f}",
        f"{result['peak_gib']:.1f}",
        result["commit"],
    ]
    return f"| {' | '.join(cells)} |"


def _relative(rows: Sequence[Mapping[str, Any]]) -> str:
    measured = [row["drift"]["max_relative"] for row in rows if row["drift"]]
    good = all(map(_good, rows))
    return f"{max(measured):.0e}{'' if good else ' **failed**'}" if measured else "failed"


def _decibel(rows: Sequence[Mapping[str, Any]]) -> str:
    """The ratio of the row nearest to PyTorch, of those that passed where some did."""
    measured = [row for row in rows if row["drift"]]
    best = max(measured, key=lambda row: (_good(row), row["drift"]["sqnr_db"] or 0.0), default=None)
    if best is None:
        return "; ".join(sorted({row["status"] for row in rows})) or "not built"
    return f"{best['drift']['sqnr_db']:.1f}{'' if _good(best) else ' **' + best['status'] + '**'}"


def _back(repair: Mapping[str, Any] | None) -> str:
    """How many layers went back; results from before there was a way back kept all."""
    return f"{len(repair['taken'])} of {repair['heavy']}" if repair else "0"


def _branch(result: Mapping[str, Any]) -> str:
    noise = [r["drift"] for r in result["candidates"] if r["precision"] == "int8" and r["drift"]]
    if result["deepest_branch"] is None or not noise:
        return "none"
    return f"{result['deepest_branch'] * 10 ** (max(drift['sqnr_db'] for drift in noise) / 20):.1f}"


def _share(rtx: Sequence[Mapping[str, Any]], precision: str) -> str:
    row = next((row for row in rtx if row["precision"] == precision), None)
    if row is None or not row["macs"]:
        return "not built" if row is None else row["status"]
    return f"{row['macs'].get(precision, 0.0):.1%}"


def _speed(row: Mapping[str, Any]) -> str:
    if not row["speed"]:
        return "not timed"
    speed = row["speed"]
    return f"{row['name']} {speed['ratio']:.2f} ({speed['low']:.2f}–{speed['high']:.2f})"


def _failures(name: str, result: Mapping[str, Any]) -> list[str]:
    rows = [row for row in result.get("candidates", ()) if row["status"] in ("failed", "rejected", "crashed")]
    said = [f"* {name}, {row['name']} {row['status']}: {row['reason']}." for row in rows]
    return [*said, f"* {name} failed: {result['failed']}."] if result["failed"] else said
