"""The tasks: which recipe, at what width and size, learns what, and for how long. Values; nothing runs here.

Sizes and step counts are what two shared cores train in minutes. A task is as hard as it is so that a trained network
is right in 9 to 10 of 10 cases: where all is right, an engine's errors would not show.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import tasks_data as data
from tasks_data import Draw
from tasks_train import Trained, Training, calibrate_on, train

from deploy_compile.cache import Stages
from deploy_compile.options import Options, fitted
from deploy_recipes import Recipe


@dataclass(frozen=True)
class Task:
    """One recipe trained on one kind of scene.

    `params` are the recipe's `--param` values. `about` says what is asked, `reduced` what was made smaller; both are
    for the page.
    """

    name: str
    recipe: str
    params: Mapping[str, str]
    draw: Draw
    training: Training
    about: str
    reduced: str


DIGIT = "which digit the image shows"
PLAIN_DIGIT = f"{DIGIT}, in the middle of an even ground: an easier scene than the other tasks of digits have"
MOTION = f"what the digit does: {', '.join(data.MOTIONS)}"
LAST_SEEN = "in each frame, which digit was seen last; a third of the frames show none"

TASKS = (
    Task(
        "resnet18-digit",
        "resnet18",
        {"num_classes": "10", "size": "32"},
        data.image,
        Training(steps=700, batch=32, rate=1e-3),
        DIGIT,
        "32 pixels",
    ),
    Task(
        "efficientnet_b0-digit",
        "efficientnet_b0",
        {"num_classes": "10", "size": "48", "depth": "2"},
        partial(data.image, noise=4.0),
        Training(steps=3000, batch=16, rate=2e-3, guessing=True),
        DIGIT,
        "48 pixels, at most 2 blocks a stage",
    ),
    Task(
        "vit_base-digit",
        "vit_base_patch16_224",
        {"num_classes": "10", "size": "64", "depth": "2", "channels": "1"},
        data.plate,
        Training(steps=800, batch=16, rate=3e-4, guessing=True),
        PLAIN_DIGIT,
        "64 grey pixels, 2 of 12 blocks",
    ),
    Task(
        "chexnet-digits",
        "chexnet",
        {"num_classes": "10", "size": "48", "depth": "4"},
        partial(data.several, most=2),
        Training(steps=800, batch=24, rate=1e-3, guessing=True),
        "which of ten digits are among the one or two in the image",
        "48 pixels, at most 4 layers a dense block",
    ),
    Task(
        "x3d_s-motion",
        "x3d_s",
        {"num_classes": str(len(data.MOTIONS)), "size": "48", "frames": "6", "depth": "2"},
        data.motion,
        Training(steps=700, batch=16, rate=3e-3),
        MOTION,
        "6 frames of 48 pixels, at most 2 blocks a stage",
    ),
    Task(
        "r2plus1d_r18-motion",
        "r2plus1d_r18",
        {"num_classes": str(len(data.MOTIONS)), "size": "32", "frames": "6", "depth": "1"},
        data.motion,
        Training(steps=400, batch=16, rate=1e-3),
        MOTION,
        "6 frames of 32 pixels, 1 block a stage",
    ),
    Task(
        "cnn_gru-motion",
        "cnn_gru",
        {"num_classes": str(len(data.MOTIONS)), "size": "32", "frames": "6", "backbone": "resnet18", "depth": "1",
         "hidden_dim": "128", "streams": "false"},
        data.motion,
        Training(steps=350, batch=16, rate=1e-3),
        MOTION,
        "ResNet-18 of 1 block a stage, 6 frames of 32 pixels, a state of 128",
    ),
    Task(
        "resnet50_gru-last_seen",
        "resnet50_gru",
        {"num_classes": "10", "size": "32", "frames": "8", "depth": "1", "hidden_dim": "128", "streams": "false"},
        data.last_seen,
        Training(steps=2000, batch=12, rate=1e-3),
        LAST_SEEN,
        "1 block a stage, 8 frames of 32 pixels, a state of 128",
    ),
    Task(
        "resnet50_tecno-last_seen",
        "resnet50_tecno",
        {"num_classes": "10", "size": "32", "frames": "8", "depth": "1", "streams": "false"},
        data.last_seen,
        Training(steps=2000, batch=12, rate=1e-3),
        LAST_SEEN,
        "1 block a stage, 8 frames of 32 pixels",
    ),
    Task(
        "longitudinal_mim-change",
        "longitudinal_mim",
        {"size": "96", "width": "80", "depth": "1"},
        data.change,
        Training(steps=400, batch=12, rate=2e-3),
        "where digits came or went between two images, pixel by pixel; decided in cells of 16 pixels",
        "96 pixels, an eighth of the width, 1 of 12 transformer layers",
    ),
)  # fmt: skip


def trained(task: Task, run: Stages, threads: int) -> tuple[Recipe, Trained, Options]:
    """Train a task's network, or find it trained; return its recipe, what training found, and how INT8 takes it."""
    recipe = fitted(Options(task.recipe, task.params))
    found = run(train, recipe, task.params, task.draw, task.training)
    folder = run(calibrate_on, recipe, task.draw).folder
    options = Options(
        task.recipe, task.params, weights=found.checkpoint, int8=True, calibration=folder, threads=threads
    )
    return recipe, found, options


def get(name: str) -> Task:
    """Return the task of a name. Raises SystemExit with all of them where there is none."""
    found = {task.name: task for task in TASKS}
    if name not in found:
        raise SystemExit(f"there is no task {name!r}: {', '.join(found)}")
    return found[name]
