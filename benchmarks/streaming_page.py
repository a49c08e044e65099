"""The page of benchmarks/streaming.py and step_costs.py, from the results that stand."""

import json
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "streaming-measured.md"
RESULTS = Path(__file__).parent / "results" / "streaming"
COSTS = RESULTS.with_name("step_costs")
LEAST_MS = 0.1  # an operator that takes less is one of the others
HEAD = """# Streams, measured

Made by `python benchmarks/streaming.py` from the results in `benchmarks/results/streaming`: seeded weights, synthetic
frames, one thread, the step and the whole window taking turns in one run.

* *x window*: how many times cheaper a new frame is as one step than as the window of a clip run again, with its 95 %
  interval.
* *old / new*: the median step of a long stream in its last tenth over that of a stream which has just begun, both
  taking turns: 1 is flat.
* *memory*: gained over the second half of the steps.
* *dB first, last*: SQNR of the logits against PyTorch that carries its own state, over the first and last 100 steps.
* *last tenth*: the same over the last tenth of the steps, and of a stream that begins there beside a PyTorch that
  begins there: both are shown the same frames, so that what differs between these two is age.
* *agreement*: share of frames with PyTorch's class. Seeded weights decide by narrow margins: read it as the worst case.
"""
COSTS_HEAD = """## Where a step spends more than a frame of the window

Made by `python benchmarks/step_costs.py`: ONNX Runtime's profile of the same graphs, a step and the window taking
turns on one thread, milliseconds by operator, the median of their runs. A window reads each weight once for all of its
frames, a step for one.

| network | candidate | operator | a step | a window's frame | more |
| --- | --- | --- | ---: | ---: | ---: |
"""


def write_page() -> None:
    """Write docs/streaming-measured.md."""
    found, costs = ([json.loads(path.read_text()) for path in sorted(of.glob("*.json"))] for of in (RESULTS, COSTS))
    tables = [_table("Full size", [one for one in found if not one["twin"]])]
    tables.append(_table("Reduced twins", [one for one in found if one["twin"]]))
    tables.append(_costs(costs))
    PAGE.write_text("\n".join([HEAD, *filter(None, tables)]))


def _costs(found: list[dict[str, Any]]) -> str:
    lines = [COSTS_HEAD.rstrip("\n")]
    for one in found:
        for name, row in one["candidates"].items():
            lines += [f"| `{one['recipe']}` | {name} | {line} |" for line in _operators(row)]
        if one["failed"]:
            lines.append(f"| `{one['recipe']}` | failed: {one['failed']} | | | | |")
    return "\n".join([*lines, "", *(_origin(one) for one in found), ""]) if found else ""


def _operators(row: dict[str, Any]) -> list[str]:
    step, frame = row["step_ms"], row["frame_ms"]
    named = sorted((kind for kind in step if step[kind] >= LEAST_MS), key=lambda kind: -step[kind])
    rest = [kind for kind in step if kind not in named]
    groups = {**{kind: [kind] for kind in named}, "others": rest, "all": list(step)}
    sums = {kind: [sum(one.get(each, 0.0) for each in of) for one in (step, frame)] for kind, of in groups.items()}
    return [f"{kind} | {mine:.2f} | {whole:.2f} | {mine - whole:.2f}" for kind, (mine, whole) in sums.items()]


def _table(title: str, found: list[dict[str, Any]]) -> str:
    if not found:
        return ""
    lines = [
        f"## {title}\n",
        "| network | candidate | step ms | window ms | x window | old / new | memory | dB first, last | last tenth "
        "| agreement |",
        "| --- | --- | ---: | ---: | --- | --- | ---: | --- | --- | ---: |",
    ]
    for one in found:
        lines += [_row(one, name, row) for name, row in one["candidates"].items()]
        if one["failed"]:
            lines.append(f"| `{one['recipe']}` | failed: {one['failed']} | | | | | | | | |")
    return "\n".join([*lines, "", *(_origin(one, f"{one['steps']:,} steps, ") for one in found), ""])


def _origin(one: dict[str, Any], how: str = "") -> str:
    machine = f"{one['machine']['cpu']} ({one['machine']['instructions']})"
    note = f" {one['note']}" if "note" in one else ""
    return f"* `{one['recipe']}`: {how}{machine}, {one['date']}, {one['commit']}.{note}"


def _row(one: dict[str, Any], name: str, row: dict[str, Any]) -> str:
    if row["failed"]:
        return f"| `{one['recipe']}` | {name}: {row['failed']} | | | | | | | | |"
    cells = (
        f"`{one['recipe']}` of {one['frames']} frames",
        name,
        f"{row['step_ms']:.2f}",
        f"{row['window_ms']:.1f}",
        _interval(row["ratio"], 1),
        _interval(row["old_over_new"], 2),
        f"{row['gained_bytes'] / 2**20:+.1f} MiB",
        f"{row['first_db']:.1f}, {row['last_db']:.1f}",
        f"{row['tenth_db']:.1f}, {row['afresh_db']:.1f}" if "tenth_db" in row else "–",
        f"{row['agreement']:.1%}",
    )
    return f"| {' | '.join(cells)} |"


def _interval(value: list[float], digits: int) -> str:
    middle, low, high = (f"{number:.{digits}f}" for number in value)
    return f"{middle} ({low}–{high})"
