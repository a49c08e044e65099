"""Every model that the tool knows: each module in this folder that states `RECIPES`. Importing it loads no torch.

For a recipe of your own, in your own file, import what you need from here (docs/adding-a-recipe.md).
"""

import difflib
import hashlib
import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType

from deploy_recipes.recipe import (
    DEFAULT_LIMITS,
    Classes,
    DenseMap,
    Features,
    Keep,
    Limit,
    MultiLabel,
    Param,
    Preprocess,
    Recipe,
    Task,
    Tensor,
)
from deploy_runtime.errors import DeployError, UsageError

__all__ = [
    "DEFAULT_LIMITS",
    "Classes",
    "DenseMap",
    "Features",
    "Keep",
    "Limit",
    "MultiLabel",
    "Param",
    "Preprocess",
    "Recipe",
    "Task",
    "Tensor",
    "get",
    "load_file",
    "names",
    "resolve",
]


def names() -> tuple[str, ...]:
    """Return the code names of all recipes, families in alphabetical order, models as their file states them."""
    return tuple(_known())


def get(name: str) -> Recipe:
    """Return the recipe of this code name or alias. Raises UsageError with the nearest names."""
    known = _known()
    name = _aliases().get(name, name)
    if name not in known:
        raise UsageError(
            f"there is no recipe {name!r}",
            f"{_nearest(name, [*known, *_aliases()])}See `deploy-compile list`; a recipe of your own is FILE.py:NAME.",
        )
    return known[name]


def load_file(path: Path, name: str) -> Recipe:
    """Return the recipe that a user's Python file binds to `name`. The file's folder can be imported from.

    Raises UsageError where the file or the name does not exist, DeployError where the file fails to run.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}", "Give a recipe as FILE.py:NAME with a path that exists.")
    module = _execute(path)
    here = {key: value for key, value in vars(module).items() if isinstance(value, Recipe)}
    here |= {recipe.name: recipe for recipe in getattr(module, "RECIPES", ())}
    if name not in here:
        found = getattr(module, name, None)
        what = "does not define" if found is None else f"defines as {type(found).__name__}, not as a Recipe,"
        listed = f"Recipes in it: {', '.join(here)}." if here else f"Write `{name} = Recipe(...)` in it."
        raise UsageError(f"{path} {what} {name!r}", f"{_nearest(name, here)}{listed}")
    return here[name]


def resolve(ref: str) -> Recipe:
    """Return the recipe that `x3d_s` or `my_nets.py:my_net` names."""
    path, colon, name = ref.rpartition(":")
    if colon and path.endswith(".py"):
        return load_file(Path(path), name)
    if ref.endswith(".py"):
        raise UsageError(f"{ref} names a file and no recipe in it", f"Give {ref}:NAME.")
    return get(ref)


@cache
def _known() -> Mapping[str, Recipe]:
    known: dict[str, Recipe] = {}
    for found in sorted(pkgutil.iter_modules(__path__), key=lambda item: item.name):
        if found.ispkg:
            continue
        module = importlib.import_module(f"{__name__}.{found.name}")
        for recipe in getattr(module, "RECIPES", ()):
            if recipe.name in known:
                raise ValueError(f"two recipes are called {recipe.name}")
            known[recipe.name] = recipe
    return known


@cache
def _aliases() -> Mapping[str, str]:
    aliases: dict[str, str] = {}
    for recipe in _known().values():
        for alias in recipe.aliases:
            if alias in aliases or alias in _known():
                raise ValueError(f"two recipes are called {alias}")
            aliases[alias] = recipe.name
    return aliases


def _execute(path: Path) -> ModuleType:
    """Run a user's file as a module of a name that no other file gets."""
    path = path.resolve()
    name = f"deploy_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file", "Give a recipe as FILE.py:NAME.")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last: a user's file must not hide a library
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise DeployError(
            f"{path.name}{_line_of(error, path)} fails with {type(error).__name__}: {error}",
            f"Mend the file: `python {path.name}` must run without an error.",
        ) from error
    return module


def _line_of(error: Exception, path: Path) -> str:
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}," if error.lineno else ""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}," if lines else ""


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"Did you mean {' or '.join(near)}? " if near else ""
