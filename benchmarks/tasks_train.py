"""Trains a recipe's network on drawn scenes: one loop for all tasks, a stage of the compiler's cache.

The checkpoint is kept in the user's cache under everything that can change it (the scenes' and this file's source, the
values of the task, the recipe, library versions, the processor), so that the same task is trained once on a machine.
Same seeds, same threads and deterministic kernels give the same weights on the same machine; rounding differs between
machines. Nothing is tuned on the test digits: the validation digits are for that.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tasks_data import Draw, Frames, Split, split
from torch import nn
from torch.nn import functional

from deploy_recipes import Classes, Recipe
from deploy_recipes.networks.tecno import MultiStage
from deploy_runtime.preprocess import prepare_inputs

THREADS = 1  # fixed: another number adds in another order, and small tensors gain little from more
SEED = 5
WARM_UP = 0.15  # share of the steps in which the learning rate rises
BRANCH_GAMMA = 0.25  # of a residual branch that the library starts at zero, where few steps would leave it near
MOST_GRADIENT = 5.0  # its norm
CHECKED = 4  # scenes drawn of each validation digit

Sample = dict[str, np.ndarray]


@dataclass(frozen=True)
class Training:
    """How long and how fast: AdamW, the learning rate rising to `rate` and then falling to nothing.

    `guessing` starts the classifier at zero: a wide one (EfficientNet's) starts with logits so large that hundreds of
    steps would go into unlearning them.
    """

    steps: int
    batch: int
    rate: float
    decay: float = 0.02
    guessing: bool = False


@dataclass(frozen=True)
class Trained:
    """A checkpoint, the mean loss of the last tenth of the steps, the share of right answers on validation digits."""

    checkpoint: Path
    loss: float
    validation: float


def train(out: Path, recipe: Recipe, params: Mapping[str, str], draw: Draw, how: Training) -> Trained:
    """Train the network of a fitted recipe on the train digits. A stage."""
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    net = recipe.network(**recipe.values(params)).to(memory_format=_memory(recipe)).train()
    for module in net.modules():
        scale = getattr(module, "weight", None)
        if not list(module.children()) and scale is not None and scale.ndim == 1 and not scale.any():
            nn.init.constant_(scale, BRANCH_GAMMA)
    if how.guessing:
        nn.init.zeros_([module for module in net.modules() if isinstance(module, nn.Linear)][-1].weight)
    losses = _fit(net, batches(recipe, draw, how), _loss(recipe), how)
    net.eval()
    torch.save(
        {"model_state_dict": {name: value.contiguous() for name, value in net.state_dict().items()}},
        out / "checkpoint.pt",
    )
    return Trained(out / "checkpoint.pt", float(np.mean(losses[-max(1, how.steps // 10) :])), _right(net, recipe, draw))


@dataclass(frozen=True)
class Calibration:
    """A folder for `--calibration`: a file a digit, each a source by itself."""

    folder: Path


def calibrate_on(out: Path, recipe: Recipe, draw: Draw) -> Calibration:
    """Write the scenes of the calibration digits: 8-bit frames, or ready arrays of a pair. A stage."""
    folder = out / "calibration"
    folder.mkdir()
    for index, (frames, _) in enumerate(scenes(recipe, draw, "calibration", len(split("calibration")))):
        path = folder / f"{index:03d}"
        if isinstance(frames, Mapping):
            np.savez(path.with_suffix(".npz"), **ready(frames, recipe))  # type: ignore[arg-type]
        else:
            np.save(path.with_suffix(".npy"), frames)
    return Calibration(folder)


def scenes(recipe: Recipe, draw: Draw, name: str, count: int) -> Iterator[tuple[Frames, np.ndarray]]:
    """Yield `count` scenes of a split with their truth, the same at every call: each digit in turn."""
    digits = split(name)
    for index in range(count):
        rng = np.random.default_rng((SEED, *name.encode(), index))
        yield draw(digits, index % len(digits), rng, frame_size(recipe), frames_of(recipe))


def ready(frames: Frames, recipe: Recipe) -> Sample:
    """Return what the network takes of one scene, by input name, with a batch axis of 1."""
    assert recipe.preprocess is not None
    return {name: array[None] for name, array in prepare_inputs(frames, recipe.preprocess, recipe.inputs).items()}


def batches(recipe: Recipe, draw: Draw, how: Training) -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
    """Yield training batches: the inputs in the recipe's order, and the truth. No scene comes twice."""
    digits, rng = split("train"), np.random.default_rng(SEED)
    order = _endless(digits, rng)
    for _ in range(how.steps):
        drawn = [draw(digits, next(order), rng, frame_size(recipe), frames_of(recipe)) for _ in range(how.batch)]
        samples = [ready(frames, recipe) for frames, _ in drawn]
        inputs = [np.concatenate([sample[tensor.name] for sample in samples]) for tensor in recipe.inputs]
        truth = np.stack([truth for _, truth in drawn])
        yield tuple(laid_out(array, recipe) for array in inputs), torch.from_numpy(truth)


def laid_out(array: np.ndarray, recipe: Recipe) -> torch.Tensor:
    """Return an input in the memory format that the network computes in."""
    return torch.from_numpy(array).contiguous(memory_format=_memory(recipe))


def frame_size(recipe: Recipe) -> tuple[int, int]:
    """Return the height and width to which the recipe's preprocessing resizes a frame."""
    how = recipe.preprocess
    assert how is not None
    return how.stretch or (how.short_side or how.crop[0], how.short_side or how.crop[1])


def frames_of(recipe: Recipe) -> int:
    """Return how many frames the recipe's network takes."""
    return (recipe.preprocess.frames if recipe.preprocess else None) or 1


def right(scores: np.ndarray, truth: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Return which answers are right; of a map, which pixels."""
    if isinstance(recipe.task, Classes):
        return np.asarray(scores.reshape(len(truth), -1, scores.shape[-1]).argmax(-1) == truth)
    return np.asarray((scores >= getattr(recipe.task, "threshold", 0.5)) == (truth >= 0.5))


def _endless(digits: Split, rng: np.random.Generator) -> Iterator[int]:
    """Yield the places of all digits in a new order each time round."""
    while True:
        yield from (int(place) for place in rng.permutation(len(digits)))


def _fit(
    net: nn.Module,
    given: Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor]],
    loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    how: Training,
) -> list[float]:
    earlier = _earlier_stages(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=how.rate, weight_decay=how.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, how.rate, total_steps=how.steps, pct_start=WARM_UP)
    losses = []
    for step, (inputs, truth) in enumerate(given, start=1):
        loss = loss_of(net(*inputs), truth)
        loss = loss + sum(loss_of(logits.transpose(1, 2), truth) for logits in earlier)
        earlier.clear()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), MOST_GRADIENT)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % max(1, how.steps // 10) == 0:
            print(f"  step {step} of {how.steps}: loss {np.mean(losses[-how.steps // 10 :]):.3f}", flush=True)
    return losses


def _earlier_stages(net: nn.Module) -> list[torch.Tensor]:
    """Return a list that each forward pass adds the logits [B, classes, T] of all stages but the last to.

    TeCNO's authors sum the losses of all stages. Without, the last one learns through the softmax of those before it,
    and dropout in each of their layers: hardly (25 % of the frames right after 2,000 steps; 91 % after 400 with).
    """
    found: list[torch.Tensor] = []
    for temporal in net.modules():
        if isinstance(temporal, MultiStage):
            for stage in (temporal.stage1, *temporal.stages)[:-1]:
                stage.register_forward_hook(lambda _, __, answers: found.append(answers[0]))
    return found


def _loss(recipe: Recipe) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return the loss of the recipe's first output: cross entropy, of each class or of each label or pixel."""

    def classes(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), truth.reshape(-1))

    def chances(given: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return functional.binary_cross_entropy(given, truth.float())

    def logits(given: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return functional.binary_cross_entropy_with_logits(given, truth.float())

    if isinstance(recipe.task, Classes):
        return classes
    return logits if recipe.outputs[0].name == "logits" else chances


def _right(net: nn.Module, recipe: Recipe, draw: Draw) -> float:
    """Return the share of right answers on the validation digits."""
    hits: list[Any] = []
    with torch.inference_mode():
        for frames, truth in scenes(recipe, draw, "validation", CHECKED * len(split("validation"))):
            sample = ready(frames, recipe)
            scores = net(*(laid_out(sample[tensor.name], recipe) for tensor in recipe.inputs))
            hits.append(right(scores.numpy(), truth[None], recipe))
    return float(np.mean(hits))


def _memory(recipe: Recipe) -> torch.memory_format:
    """Channels last where the inputs are what convolutions take; a clip of frames is made that inside the network."""
    formats = {"NCHW": torch.channels_last, "NCTHW": torch.channels_last_3d}
    return formats.get(recipe.inputs[0].layout, torch.contiguous_format)
