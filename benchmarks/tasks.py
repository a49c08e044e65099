"""Small real tasks, trained here and compiled: accuracy before and after fp16, bf16 and int8, and the page of it.

    python benchmarks/tasks.py                    all of them; minutes each
    python benchmarks/tasks.py resnet18-digit     this one
    python benchmarks/tasks.py --page             docs/tasks.md again, from the results that stand

Each task (benchmarks/tasks_list.py) trains a recipe's own network on scenes of handwritten digits, compiles the
checkpoint as `deploy-compile recipe NAME --weights CHECKPOINT --calibration DIR --int8 --fp16` does, and asks every
candidate, not only the one that would ship, about the same 1,000 test scenes. It leaves
benchmarks/results/tasks/NAME.json; a result that stands is kept until it is deleted or asked for with --again.
Checkpoints stay in the user's cache ($DEPLOY_CACHE). Nothing here is timed: other work may run beside it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import kept
from tasks_list import TASKS, Task, get, trained
from tasks_page import write_page

from deploy_runtime.data import encode
from deploy_runtime.errors import DeployError

RESULTS = Path(__file__).parent / "results" / "tasks"
SAMPLES = 1000  # of the test, each of a digit of its own
THREADS = 1  # nothing is timed, and beside other work a second one mostly waits
COMPUTE_CAPABILITIES = ("sm86",)  # the engines are not run here, and their graph is the same for all


def measure(name: str) -> dict[str, Any]:
    """Train, compile and score one task in a process of its own; its result, or the reason why there is none."""
    task = get(name)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        quiet = {"OPENBLAS_NUM_THREADS": "1"}  # the drawing's tiny products gain nothing from a second thread
        command = [sys.executable, __file__, task.name, "--into", str(result)]
        ended = subprocess.run(command, env={**os.environ, **quiet}, check=False).returncode
        made = json.loads(result.read_text()) if result.exists() else {"failed": f"the run ended with {ended}"}
    return {
        "task": task.name,
        "recipe": task.recipe,
        "params": dict(task.params),
        "about": task.about,
        "reduced": task.reduced,
        "training": encode(task.training),
        **made,
    }


def run(task: Task) -> dict[str, Any]:
    """Train or find the checkpoint, compile it, and score PyTorch and every candidate."""
    from tasks_score import score, test_on

    from deploy_compile.cache import Stages
    from deploy_compile.pipeline import verify
    from deploy_runtime import device_cache

    stages = Stages(device_cache.folder(), lambda *told: print(" ", *told, flush=True), lambda *_: None)
    recipe, learnt, options = trained(task, stages, THREADS)
    options = replace(options, fp16=True, compute_capabilities=COMPUTE_CAPABILITIES)
    found: dict[str, Any] = {"loss": learnt.loss, "validation": learnt.validation, "samples": SAMPLES}
    try:
        made = verify(recipe, options, stages)
    except DeployError as error:
        return {**found, "failed": error.message}
    with tempfile.TemporaryDirectory() as folder:
        truth = test_on(Path(folder), recipe, task.draw, SAMPLES)
        scored = score(recipe, made, Path(folder), truth, THREADS)
    repairs = {target: encode(repair) for target, repair in made.repairs.items()}
    return {**found, "failed": "", "parameters": made.loaded.parameters, "repairs": repairs, **scored}


def main() -> None:
    parser = kept.parser(__doc__, "TASK")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.into:
        given.into.write_text(json.dumps(run(get(given.names[0]))))
        return
    wanted = [get(name).name for name in given.names] or [task.name for task in TASKS]
    kept.keep(RESULTS, () if given.page else wanted, given.again, measure)
    write_page(RESULTS, [task.name for task in TASKS])


if __name__ == "__main__":
    main()
