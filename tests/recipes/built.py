"""A recipe's network at given parameters, in memory or on the meta device, that the tests of the families share."""

import torch
from torch import Tensor, nn

import deploy_recipes
from deploy_recipes import Recipe


def built(name: str, **params: str) -> tuple[Recipe, nn.Module]:
    """Return the fitted recipe and its network in eval mode."""
    recipe = deploy_recipes.get(name)
    values = recipe.values(params)
    return recipe.fitted(values), recipe.network(**values).eval()


def on_meta(name: str, **params: str) -> tuple[Recipe, nn.Module, tuple[Tensor, ...]]:
    """Return the same without memory, and its answers at batch 2."""
    with torch.device("meta"):
        recipe, net = built(name, **params)
        given = net(torch.empty(recipe.inputs[0].at(2)))
    return recipe, net, given if isinstance(given, tuple) else (given,)
