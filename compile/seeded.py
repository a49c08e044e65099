"""Deterministic random weights, conditioned like those of a trained network, for checking an architecture.

Plain initialisation will not do: pytorchvideo and others start the last normalisation of a residual branch at zero, so
that the branch contributes nothing and parity says nothing about it; running statistics of 0 and 1 let activations
explode or vanish. Here gammas are U(0.5, 1.5), betas N(0, 0.1), branch ends 0.25, no matrix is zero, and running
statistics come from real passes. The classifier tells the scenes of the synthetic samples apart, as a trained one tells
its classes: a random one would decide by hair's breadths, and its flips would say nothing about an engine.
One thread computes it all, so that every thread count gives the same weights.
The trap: these weights decide nothing about accuracy.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode

from deploy_compile import synthetic
from deploy_recipes.recipe import Classes, MultiLabel, Recipe
from deploy_runtime.errors import DeployError

SEED = 0
GAMMA = (0.5, 1.5)
BETA_STD = 0.1
BRANCH_END_GAMMA = 0.25  # 1.0 costs 8 dB of int8 SQNR on x3d_s: undamped residuals amplify every error
ZERO_MATRIX_STD = 0.02
BATCH = 4  # clips in one pass: the variance between samples belongs to the statistics too
PASSES = 2
STATISTICS_SEED = 1001  # of the synthetic series that the statistics are taken on
SCENE_PASSES = 4  # samples of each scene that the classifier is shown
SCENE_FLOPS = 1.5e12  # what they may cost, one of each at least: on one thread a clip can take half a minute
DECISIVE = 8.0  # how far a scene's class is raised above the others, in standard deviations of the logits
RIDGE = 0.05  # of the least squares that find a scene in the features, relative to their energy


def build(recipe: Recipe, network: Callable[[], nn.Module]) -> nn.Module:
    """Build a fitted recipe's network with seeded, conditioned weights, in eval mode."""
    with torch.random.fork_rng(devices=[]), _one_thread(), torch.inference_mode(mode=False), torch.no_grad():
        torch.manual_seed(SEED)
        module = network().float().eval()
        _draw(module)
        _damp(module, recipe)
        _take_statistics(module, recipe)
        _tell_scenes_apart(module, recipe)
    return module


def branch_ends(module: nn.Module, recipe: Recipe) -> list[str]:
    """Return the names of the last normalisations of residual branches, in order of depth.

    Raises DeployError where one of the recipe's globs names no module.
    """
    names = [name for name, _ in module.named_modules()]
    for glob in recipe.branch_ends:
        if not any(fnmatchcase(name, glob) for name in names):
            raise DeployError(
                f"recipe {recipe.name}: no module is named {glob!r}",
                "Correct branch_ends: globs over the names of `network.named_modules()`.",
            )
    return [name for name in names if any(fnmatchcase(name, glob) for glob in recipe.branch_ends)]


def scale_of(module: nn.Module) -> nn.Parameter | None:
    """Return the vector that scales a branch: a normalisation's weight, or a layer scale's gamma.

    A transformer's branch may end in a Linear layer, which has none: its matrix is left as it was drawn.
    """
    for name in ("weight", "gamma"):
        value = getattr(module, name, None)
        if isinstance(value, nn.Parameter) and value.ndim == 1:
            return value
    if isinstance(module, nn.Linear):
        return None
    raise DeployError(
        f"a module of type {type(module).__name__} ends no residual branch: it has no vector weight or gamma",
        "Correct branch_ends of the recipe: the last normalisation, layer scale or Linear layer of each branch.",
    )


def _draw(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(SEED)
    for part in module.modules():
        if isinstance(part, (_BatchNorm, nn.LayerNorm, nn.GroupNorm)) and part.weight is not None:
            part.weight.uniform_(*GAMMA, generator=generator)
            if part.bias is not None:
                part.bias.normal_(0, BETA_STD, generator=generator)
        if isinstance(part, (_ConvNd, nn.Linear)) and part.bias is not None and not part.bias.any():
            part.bias.normal_(0, BETA_STD, generator=generator)  # at zero a dropped bias would go unseen
    for parameter in module.parameters():
        if parameter.ndim > 1 and not parameter.any():
            parameter.normal_(0, ZERO_MATRIX_STD, generator=generator)


def _damp(module: nn.Module, recipe: Recipe) -> None:
    for name in branch_ends(module, recipe):
        scale = scale_of(module.get_submodule(name))
        if scale is not None:
            scale.fill_(BRANCH_END_GAMMA)


def _take_statistics(module: nn.Module, recipe: Recipe) -> None:
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    for start in range(0, BATCH * PASSES, BATCH):
        clips = [synthetic.sample(recipe, STATISTICS_SEED, start + i) for i in range(BATCH)]
        module(*(torch.cat([torch.from_numpy(clip[tensor.name]) for clip in clips]) for tensor in recipe.inputs))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _tell_scenes_apart(module: nn.Module, recipe: Recipe) -> None:
    """Add to the last layer that gives the scores a ridge regression that tells the synthetic scenes apart.

    Each scene is a class, or has a fourth of the labels. A network whose decision is made elsewhere than in a Linear
    layer or a convolution of one place is left as it is.
    """
    if not isinstance(recipe.task, (Classes, MultiLabel)):
        return
    heads = [part for part in module.modules() if gives(part) == recipe.task.count]
    if not heads:
        return
    head = heads[-1]
    seen: list[tuple[Tensor, Tensor]] = []  # what reaches the layer and what it gives: [places, width]
    hook = head.register_forward_hook(lambda part, given, made: seen.append((_flat(part, given[0]), _flat(part, made))))
    with FlopCounterMode(display=False) as counted:
        _show_scenes(module, recipe, 0)
    affordable = SCENE_FLOPS // max(1, counted.get_total_flops())
    passes = int(min(SCENE_PASSES, max(1, affordable)))
    for index in range(1, passes):
        _show_scenes(module, recipe, index)
    hook.remove()
    features = torch.stack([given.mean(0) for given, _ in seen])
    logits = torch.cat([made for _, made in seen])
    spread, usual, centre = logits.std(1).mean(), logits.mean(0), features.mean(0)
    apart = features - centre
    energy = apart @ apart.T
    scenes = torch.eye(synthetic.SCENES).repeat(passes, 1)
    ridge = RIDGE * energy.diagonal().mean() * torch.eye(len(energy))
    directions = torch.linalg.solve(energy + ridge, scenes - scenes.mean(0)).T @ apart
    directions *= DECISIVE * spread / (scenes * (apart @ directions.T)).sum(1).mean()
    weight, bias = cast(Tensor, head.weight).flatten(1), cast(Tensor | None, head.bias)
    if isinstance(recipe.task, MultiLabel):  # present where the logit is positive
        middle = DECISIVE * spread * (0.5 - 1 / synthetic.SCENES) / (1 - 1 / synthetic.SCENES)
        for row in range(len(weight)):
            direction = directions[row % synthetic.SCENES]
            weight[row] += direction
            if bias is not None:
                bias[row] -= usual[row] + direction @ centre + middle
        return
    for scene, direction in enumerate(directions):
        row = scene % len(weight)
        weight[row] += direction
        if bias is not None:
            level = usual.max() - usual[row] if scene == row else 0.0  # no class is ahead of a scene's by its bias
            bias[row] += level - direction @ centre


def _show_scenes(module: nn.Module, recipe: Recipe, number: int) -> None:
    """Run a sample of each scene through the network: the `number`-th."""
    for scene in range(synthetic.SCENES):
        clip = synthetic.sample(recipe, STATISTICS_SEED, number * synthetic.SCENES + scene)
        module(*(torch.from_numpy(clip[tensor.name]) for tensor in recipe.inputs))


def gives(part: nn.Module) -> int:
    """Return how many scores a layer gives at each place; 0 for a layer that mixes places."""
    if isinstance(part, nn.Linear):
        return part.out_features
    if isinstance(part, _ConvNd) and math.prod(part.kernel_size) == 1 and part.groups == 1:
        return part.out_channels
    return 0


def _flat(part: nn.Module, values: Tensor) -> Tensor:
    """Return a layer's input or output as [places, width]."""
    return values.flatten(0, -2) if isinstance(part, nn.Linear) else values.transpose(1, -1).flatten(0, -2)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
