"""Where a network's scores come from, and the network that --temperature, --ensemble and --mc-dropout make of it.

Promises that what is divided or averaged are logits, tried on synthetic samples: where the answer is a probability, the
head's sigmoid must be it; a softmax is refused; with masks of ones the members must answer as the network by itself,
and with masks of zeros otherwise. The trap: the last layer of the right width need not be the head.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from deploy_compile import seeded, synthetic
from deploy_compile.uncertainty import Uncertainty, scores
from deploy_recipes.networks import uncertainty as networks
from deploy_recipes.recipe import Classes, MultiLabel, Recipe
from deploy_runtime.errors import DeployError, UsageError

SEED = 4001  # of the masks, and of the samples that are tried
SAMPLES = 2  # the members follow each other on the batch axis: one sample would not show them mixed up
CLOSE = 1e-4  # of probabilities: other batch sizes add up in another order

Inputs = tuple[Tensor, ...]


def wrapped(nets: Sequence[nn.Module], recipe: Recipe, how: Uncertainty) -> nn.Module:
    """Return the networks as one that gives what `uncertainty.fitted(recipe, how)` says; the masks are ones.

    `recipe` is fitted to its parameters only. The given networks are changed.
    """
    if how == Uncertainty():
        return nets[0]
    place, labels, before = scores(recipe), isinstance(recipe.task, MultiLabel), _before_sigmoid(nets[0], recipe)
    if not how.spreads:
        return networks.with_temperature(nets[0], how.temperature, place, before)
    plain = [networks.giving_logits(net, place, before) for net in nets]
    if how.members > 1:
        return networks.Ensemble(plain, how.temperature, labels)
    head = _head(plain[0], recipe)
    masks = torch.ones(how.masks, _width(plain[0].get_submodule(head)))
    return networks.with_head_dropout(plain[0], head, masks, how.temperature, labels)


def tried(nets: Sequence[nn.Module], recipe: Recipe, how: Uncertainty) -> nn.Module:
    """Do as `wrapped`, with the masks drawn, once the networks' logits were seen to be logits. Raises DeployError."""
    if how == Uncertainty():
        return nets[0]
    drawn = [synthetic.sample(recipe, SEED, index) for index in range(SAMPLES)]
    inputs = tuple(torch.cat([torch.from_numpy(each[tensor.name]) for each in drawn]) for tensor in recipe.inputs)
    with torch.no_grad():
        answer = _scores(nets[0].float().eval(), inputs, recipe)
        _check_logits(nets[0], answer, inputs, recipe)
        rate = _rate(nets[0], recipe, how, inputs) if how.masks else 0.0
        net = wrapped(nets, recipe, how)
        if how.masks:
            masks = net.get_buffer(networks.MASKS)
            _check_members(net, answer, inputs, recipe, how)
            masks.copy_(networks.draw_masks(how.masks, masks.shape[1], rate, SEED))
    return net


def _scores(net: nn.Module, inputs: Inputs, recipe: Recipe) -> Tensor:
    answer = net(*inputs)
    scored: Tensor = answer[scores(recipe)] if isinstance(answer, tuple) else answer
    return scored


def _before_sigmoid(net: nn.Module, recipe: Recipe) -> str:
    """Return the head where the network's answer is its sigmoid: a threshold other than 0 is that of a probability."""
    return _head(net, recipe) if isinstance(recipe.task, MultiLabel) and recipe.task.threshold != 0 else ""


def _head(net: nn.Module, recipe: Recipe) -> str:
    """Return the name of the last layer that gives as many scores as the task has. Raises DeployError without one."""
    assert isinstance(recipe.task, (Classes, MultiLabel))
    names = [name for name, part in net.named_modules() if name and seeded.gives(part) == recipe.task.count]
    if not names:
        raise DeployError(
            f"{recipe.name} has no Linear layer or convolution of one place that gives its {recipe.task.count} scores",
            "Its logits cannot be found: leave out --mc-dropout, and end the network in logits for the others.",
        )
    return str(names[-1])


def _width(head: nn.Module) -> int:
    return int(getattr(head, "in_features", 0) or getattr(head, "in_channels", 0))


def _check_logits(net: nn.Module, answer: Tensor, inputs: Inputs, recipe: Recipe) -> None:
    """Raise DeployError where the answers are probabilities whose logits cannot be read."""
    if isinstance(recipe.task, Classes) and answer.min() >= 0 and (answer.sum(-1) - 1).abs().max() < CLOSE:
        raise DeployError(
            f"{recipe.name} ends in a softmax, and logits are needed", "Leave the softmax out in the recipe."
        )
    head = _before_sigmoid(net, recipe)
    if not head:
        return
    seen: list[Tensor] = []

    def look(_: nn.Module, __: object, given: Tensor) -> None:
        seen.append(given)

    hook = net.get_submodule(head).register_forward_hook(look)
    net(*inputs)
    hook.remove()
    if len(seen) != 1 or seen[0].shape != answer.shape or (seen[0].sigmoid() - answer).abs().max() > CLOSE:
        raise DeployError(
            f"{recipe.name} gives probabilities that are not the sigmoid of what {head} gives",
            "Have the network end in its logits, with MultiLabel(count, 0.0) as the recipe's task.",
        )


def _rate(net: nn.Module, recipe: Recipe, how: Uncertainty, inputs: Inputs) -> float:
    """Return the rate of the dropout whose output reaches the head, or the one that was asked for."""
    if how.rate is not None:
        return how.rate
    made: dict[int, float] = {}  # where the outputs of dropouts lie, which do nothing now, so that views of them do too
    reached: list[float] = []

    def note(part: nn.Module, _: object, given: Tensor) -> None:
        assert isinstance(part, _DropoutNd)
        made[given.untyped_storage().data_ptr()] = part.p

    def look(_: nn.Module, given: Inputs) -> None:
        reached.append(made.get(given[0].untyped_storage().data_ptr(), 0.0))

    hooks = [part.register_forward_hook(note) for part in net.modules() if isinstance(part, _DropoutNd)]
    hooks.append(net.get_submodule(_head(net, recipe)).register_forward_pre_hook(look))
    net(*inputs)
    for hook in hooks:
        hook.remove()
    if not reached or not 0 < reached[-1] < 1:
        raise UsageError(
            f"{recipe.name} has no dropout before its head whose rate could be taken",
            f"Say the rate that it was trained with: --mc-dropout {how.masks}:0.3.",
        )
    return reached[-1]


def _check_members(net: nn.Module, answer: Tensor, inputs: Inputs, recipe: Recipe, how: Uncertainty) -> None:
    """Raise DeployError where masks of ones change the answer, or masks of zeros do not."""
    labels = isinstance(recipe.task, MultiLabel)
    logits = torch.logit(answer) if _before_sigmoid(net, recipe) else answer
    expected = networks.spread(logits[None], how.temperature, labels)[0]
    masks = net.get_buffer(networks.MASKS)
    try:
        same = net(*inputs)[0]
        masks.zero_()
        changed = net(*inputs)[0]
    except RuntimeError as error:
        raise _not_the_head(net, recipe) from error
    if same.shape != expected.shape or (same - expected).abs().max() > CLOSE or (changed - same).abs().max() <= CLOSE:
        raise _not_the_head(net, recipe)


def _not_the_head(net: nn.Module, recipe: Recipe) -> DeployError:
    return DeployError(
        f"{recipe.name} does more behind {_head(net, recipe)} than can be repeated for each mask",
        "Leave out --mc-dropout; --ensemble asks nothing of the network.",
    )
