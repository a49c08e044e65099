"""What `doctor BUNDLE` prints in a terminal."""

from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy_compile.terminal import MARKS

COLOURS = {"error": "red", "warning": "yellow"}


def print_bundle(console: Console, examined: dict[str, Any]) -> None:
    """Show what `examine_bundle` found."""
    console.print(
        f"{examined['bundle']}, {size(examined['bytes'])}, manifest.json has the sha256 {examined['sha256'][:16]}…",
        highlight=False,
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("target", "backend", "precision", "state"):
        table.add_column(heading, no_wrap=True)
    for heading in ("file", "memory"):
        table.add_column(heading, no_wrap=True, justify="right")
    for target in examined["targets"]:
        for row in target["precisions"]:
            table.add_row(
                target["target"],
                row["backend"],
                row["precision"],
                MARKS.get(row["state"], f"[dim]{row['state'].replace('_', ' ')}[/]"),
                size(row["bytes"]) if "bytes" in row else "–",
                size(row["memory_bytes"]) if "memory_bytes" in row else "–",
            )
    console.print(table)
    console.print(f"[dim]{examined['rule']}[/]", highlight=False)
    for finding in examined["findings"]:
        console.print(_finding(finding), highlight=False)
    for target in examined["targets"]:
        _print_target(console, examined, target)


def size(count: int) -> str:
    """Say a number of bytes, as a person reads it."""
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def _print_target(console: Console, examined: dict[str, Any], target: dict[str, Any]) -> None:
    def say(text: str) -> None:
        console.print(f"[bold]{target['target']}[/]: {text}", highlight=False)

    if not target["served"]:
        say("[red]nothing in the bundle can serve it[/]")
    elif target["run_on_hardware"]:
        say("[green]will work[/]: it ran and passed on the machine that built it")
    else:
        say(f"[yellow]should work, not run on hardware[/]: the proof is `{target['proof']}` there")
    gpus = f", GPU {' '.join(target['gpus'])}" if target["gpus"] else ""
    say(f"the device needs Python {target['python']}, {target['library']}{gpus}, {size(target['disk_bytes'])} of disk")
    if target["building"]:
        disk, free = (size(target["building"][key]) for key in ("disk_bytes", "memory_bytes"))
        say(f"to build there about {disk} of disk and {free} of memory must be free")
    batch = examined["batch"]
    served = str(batch["most"]) if batch["least"] == batch["most"] else f"{batch['least']} to {batch['most']}"
    streams = f"slides a window of {examined['window']} frames" if examined["window"] else "streams frame by frame"
    say(f"batches of {served}; {streams if examined['streams'] else 'does not stream'}")
    for finding in target["findings"]:
        say(_finding(finding))


def _finding(finding: dict[str, str]) -> str:
    colour = COLOURS.get(finding["level"])
    level = f"[{colour}]{finding['level']}[/]" if colour else finding["level"]
    return f"{level}: {escape(finding['text'])}"
