"""The recipe that a finished bundle was made from."""

import deploy_recipes
from deploy_recipes import Recipe
from deploy_runtime.errors import UsageError
from deploy_runtime.evidence import Manifest


def reference(found: Manifest, ref: str | None) -> str:
    """Return how the recipe is called: `ref` where it is given, for a recipe in a file of the user's.

    Raises UsageError where the bundle's is no recipe of ours and nobody says where it stands.
    """
    if ref is None and found.recipe not in deploy_recipes.names():
        raise UsageError(
            f"the bundle was made from {found.recipe}, which is no recipe of deploy-compile",
            "Name its file again: --recipe my_nets.py:my_net.",
        )
    return ref or found.recipe


def fitted(found: Manifest, ref: str | None) -> Recipe:
    """Return the recipe with the bundle's parameters."""
    recipe = deploy_recipes.resolve(reference(found, ref))
    return recipe.fitted(recipe.values(found.params))
