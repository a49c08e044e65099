"""`list`, `show` and `doctor`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

import deploy_recipes
from deploy_compile import targets, terminal_recipes
from deploy_runtime.errors import UsageError


@click.command(name="list")
@click.option("--family", help="Only the recipes of one family, e.g. x3d.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array and nothing else.")
def list_(family: str | None, as_json: bool) -> None:
    """List the recipes."""
    recipes = [deploy_recipes.get(name) for name in deploy_recipes.names()]
    families = sorted({recipe.family for recipe in recipes})
    if family is not None and family not in families:
        raise UsageError(f"there is no family {family!r}", f"The families: {', '.join(families)}.")
    recipes = [recipe for recipe in recipes if family in (None, recipe.family)]
    if as_json:
        click.echo(json.dumps(terminal_recipes.listing(recipes), indent=1))
    else:
        Console().print(terminal_recipes.recipes_table(recipes))


@click.command()
@click.argument("name")
def show(name: str) -> None:
    """Show what goes in and out of a recipe, its parameters and its limits."""
    terminal_recipes.print_recipe(Console(), deploy_recipes.resolve(name))


@click.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("--target", multiple=True, metavar="T",
              help=f"Only these targets: {', '.join(targets.names())}. Default: all, or those BUNDLE has.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def doctor(bundle: Path | None, target: tuple[str, ...], as_json: bool) -> None:
    """Say what this machine can build and run, and what is missing for the rest.

    With BUNDLE: what will and will not work on a target, before anyone walks to the device. Exit 3 where nothing in
    the bundle can serve one of them.
    """
    if bundle is None:
        from deploy_compile.doctor import examine, print_examined

        _tell(examine(target), as_json, print_examined)
    else:
        from deploy_compile.doctor_bundle import examine_bundle, judge
        from deploy_compile.doctor_report import print_bundle

        examined = examine_bundle(bundle, target)
        _tell(examined, as_json, print_bundle)
        judge(examined)


def _tell(examined: dict[str, Any], as_json: bool, show: Callable[[Console, dict[str, Any]], None]) -> None:
    if as_json:
        click.echo(json.dumps(examined, indent=1))
    else:
        show(Console(), examined)
