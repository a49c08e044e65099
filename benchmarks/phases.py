"""Phases over time on a trained network: does the INT8 stream decide as PyTorch does, and as the truth says?

    python benchmarks/phases.py                              the recurrent tasks; the training takes longest
    python benchmarks/phases.py resnet50_gru-last_seen       this one

A network of benchmarks/tasks_list.py is trained as there (or found trained), compiled as a stream with its calibration
scenes, and every candidate of the bundle that passed is stepped, through the runtime that ships, frame by frame through
a film of test scenes it has never seen, its state carried on from scene to scene. Beside it PyTorch fp32 carries its
own state. Results go to benchmarks/results/phases, docs/phases.md is made from them. Nothing here is timed.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import kept
import numpy as np
from compiled import by_torch, compiled, opened, shipped
from tasks_list import get, trained
from tasks_train import ready, scenes

from deploy_compile.cache import Stages
from deploy_compile.load import load, module
from deploy_compile.options import Options, fitted
from deploy_compile.uncertainty import Uncertainty
from deploy_recipes import Recipe
from deploy_runtime import device_cache, phases
from deploy_runtime.data import encode

RESULTS = Path(__file__).parent / "results" / "phases"
PAGE = Path(__file__).parent.parent / "docs" / "phases.md"
TASKS = ("resnet50_gru-last_seen", "resnet50_tecno-last_seen")
SCENES = 200  # of the test
THREADS = 1
HEAD = """# Phases over time, measured

Made by `python benchmarks/phases.py` from the results in `benchmarks/results/phases`: networks trained on scenes of
handwritten digits (benchmarks/tasks_list.py: which digit was seen last; a third of the frames show none), stepped frame
by frame through a film of test scenes, the state carried on all the way. *agreement*: share of frames with the class
that PyTorch fp32, carrying its own state, decides; *right*: with the true one. *edit*: the segments' edit score
(1: the same order of phases); *shift*: the largest shift of a boundary in frames; *switches*: added and missed.

| network | candidate | frames | right | agreement | edit | shift | switches |
| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |
"""


def measure(task_name: str) -> dict[str, Any]:
    """Train or find the network, compile it as a stream, step every candidate through the film."""
    task = get(task_name)
    stages = Stages(device_cache.folder(), lambda *told: print(" ", *told, flush=True), lambda *_: None)
    clips, learnt, given = trained(task, stages, THREADS)
    params = {**task.params, "streams": "true"}
    recipe = fitted(Options(task.recipe, params))
    frames, truth = film(clips, task.draw)
    loaded = stages(load, recipe, task.recipe, params, learnt.checkpoint, None, Uncertainty())
    wanted = by_torch(module(loaded), recipe, frames)[0].argmax(-1)
    found: dict[str, Any] = {
        "task": task_name, "recipe": task.recipe, "frames": len(frames), "failed": "",
        "torch": float(np.mean(wanted == truth)), "candidates": [],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        bundle = Path(place) / "bundle"
        options = ("--weights", str(learnt.checkpoint), "--calibration", str(given.calibration))
        found["failed"] = compiled(task.recipe, bundle, params, *options)
        for name in [] if found["failed"] else shipped(bundle):
            with opened(bundle, name, THREADS) as model, model.stream() as stream:
                decided = np.array([int(stream.step(frame)["logits"][0, 0].argmax()) for frame in frames])
            found["candidates"].append(
                {
                    "name": name,
                    "right": float(np.mean(decided == truth)),
                    "phases": encode(replace(phases.compare(wanted, decided), reference=(), got=())),
                }
            )
    return found


def film(recipe: Recipe, draw: Any) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
    """Return the frames of all test scenes as steps take them, [1, 1, C, H, W], and the true class of each."""
    name, steps, truth = recipe.data_inputs[0].name, [], []
    for shown, right in scenes(recipe, draw, "test", SCENES):
        clip = ready(shown, recipe)[name]
        steps += [{name: clip[:, place : place + 1]} for place in range(clip.shape[1])]
        truth.append(right)
    return steps, np.concatenate(truth)


def write_page(results: Path) -> None:
    """Write docs/phases.md."""
    lines, foot = [HEAD.rstrip("\n")], []
    for path in sorted(results.glob("*.json")):
        one = json.loads(path.read_text())
        lines.append(f"| `{one['recipe']}` | PyTorch fp32 | {one['frames']:,} | {one['torch']:.1%} | | | | |")
        lines += [_row(one, row) for row in one["candidates"]]
        machine = one["machine"]
        foot.append(f"`{one['task']}`: {machine['cpu']} ({machine['instructions']}), {one['date']}, {one['commit']}")
        foot[-1] += f", failed: {one['failed']}" if one["failed"] else ""
    PAGE.write_text("\n".join([*lines, "", *(f"{line}.\n" for line in foot)]))


def _row(one: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    found = row["phases"]
    cells = (
        f"`{one['recipe']}`",
        row["name"],
        f"{one['frames']:,}",
        f"{row['right']:.1%}",
        f"{found['agreement']:.2%}",
        f"{found['edit_score']:.3f}",
        f"{found['boundary_shift']}",
        f"+{found['false_switches']} -{found['missed_switches']}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    kept.run(__doc__, "TASK", RESULTS, TASKS, measure)
    write_page(RESULTS)


if __name__ == "__main__":
    main()
