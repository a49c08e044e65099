"""What `list` and `show` print of recipes, for a person and as JSON."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy_recipes.recipe import Recipe
from deploy_runtime.spec import Classes, DenseMap, Features, MultiLabel, Tensor


def listing(recipes: Sequence[Recipe]) -> list[dict[str, Any]]:
    """What `list --json` prints."""
    return [
        {
            "name": recipe.name,
            "family": recipe.family,
            "parameters": recipe.parameters,
            "inputs": [tensor_json(tensor) for tensor in recipe.inputs],
            "outputs": [tensor_json(tensor) for tensor in recipe.outputs],
            "precisions": list(recipe.limits),
            "streams": recipe.streams,
        }
        for recipe in recipes
    ]


def tensor_json(tensor: Tensor) -> dict[str, Any]:
    """A tensor as plain JSON."""
    return {"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype, "layout": tensor.layout}


def tensor_text(tensor: Tensor) -> str:
    """A tensor as a person reads it: `video [batch, 3, 13, 160, 160]`."""
    return f"{tensor.name} [{', '.join(map(str, tensor.shape))}]"


def recipes_table(recipes: Sequence[Recipe]) -> Table:
    """One line a recipe, under the name of its family. Fits 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=0)
    for heading in ("recipe", "params", "takes", "gives"):
        table.add_column(heading, justify="right" if heading == "params" else "left", no_wrap=True)
    for family in dict.fromkeys(recipe.family for recipe in recipes):
        table.add_row(f"[bold]{family}[/]")
        for recipe in recipes:
            if recipe.family == family:
                sides = (recipe.data_inputs, recipe.data_outputs)
                takes, gives = ("\n".join(map(_short, tensors)) for tensors in sides)
                table.add_row(f"  {recipe.name}", f"{recipe.parameters / 1e6:.1f} M", takes, gives)
    return table


def _short(tensor: Tensor) -> str:
    """A tensor without its batch axis: `video 3×13×160×160`."""
    return f"{tensor.name} {'×'.join(map(str, tensor.shape[1:]))}"


def print_recipe(console: Console, recipe: Recipe) -> None:
    """All that a recipe says, for `show`."""
    also = f", also {', '.join(recipe.aliases)}" if recipe.aliases else ""
    console.print(f"[bold]{recipe.name}[/]{also}  {recipe.family} family, {recipe.parameters:,} parameters")
    console.print(escape(recipe.source), highlight=False)
    rows: list[tuple[str, str]] = []
    rows += [("input", f"{tensor_text(tensor)} {tensor.dtype} {tensor.layout}") for tensor in recipe.data_inputs]
    rows += [
        ("output", f"{tensor_text(tensor)} {tensor.dtype}, {_meaning(tensor, recipe)}")
        for tensor in recipe.data_outputs
    ]
    if recipe.streams:
        window = f"window={recipe.window}, hop=1" if recipe.window else ""
        rows.append(("state", f"{_carried(recipe)}, kept from chunk to chunk: model.stream({window})"))
    if recipe.preprocess:
        how = recipe.preprocess
        each = "each of them: " if len(recipe.data_inputs) > 1 and not how.pathways else ""
        frames = f"{each}{how.frames} frames sampled uniformly, " if how.frames else each
        frames += "".join(f"{count} of them for {name}, " for name, count in how.pathways.items())
        side = f"short side to {how.short_side} px, " if how.short_side else ""
        side = f"squeezed to {how.stretch[0]}x{how.stretch[1]}, " if how.stretch else side
        constants = f"/255, mean {list(how.mean)}, std {list(how.std)}"
        rows.append(("preprocessing", f"{frames}{side}centre crop {how.crop[0]}x{how.crop[1]}, {constants}"))
    rows += [("--param", f"{p.name}={p.default}  {p.help}") for p in recipe.params]
    for precision, limit in recipe.limits.items():
        stated = {
            "cosine ≥": limit.cosine, "SQNR dB ≥": limit.sqnr_db, "relative error ≤": limit.max_relative,
            "x own distance from fp64 ≤": limit.fp64_ratio, "decisions agree ≥": limit.agreement,
        }  # fmt: skip
        if isinstance(recipe.task, (DenseMap, Features)):
            del stated["decisions agree ≥"]
        text = ", ".join(f"{name} {value:g}" for name, value in stated.items() if value is not None)
        rows.append((f"limit {precision}", text + (f" ({limit.reason})" if limit.reason else "")))
    if recipe.labels:
        rows.append(("labels", ", ".join(recipe.labels)))
    rows.append(("weights", recipe.weights_from or "nobody publishes any: give your own"))
    rows += [("stays float", f"{keep.nodes}: {keep.reason}") for keep in recipe.keep_float]
    rows += [("stays fp32", f"{keep.nodes}: {keep.reason}") for keep in recipe.keep_fp32]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    for name, text in rows:
        table.add_row(name, escape(text))
    console.print(table)
    console.print(f"compile it:  deploy-compile recipe {recipe.name} --int8", highlight=False)


def _carried(recipe: Recipe) -> str:
    """The state tensors of a network that streams: all of a few, of many the first and the last."""
    names = {state.input for state in recipe.state}
    texts = [tensor_text(tensor) for tensor in recipe.inputs if tensor.name in names]
    return ", ".join(texts) if len(texts) <= 2 else f"{texts[0]} to {texts[-1]}, {len(texts)} of them"


def _meaning(tensor: Tensor, recipe: Recipe) -> str:
    """What an output says, for someone who did not write the network."""
    task, size = recipe.task, tensor.shape[-1]
    each = " for each frame" if {"T", "F"} & set(tensor.layout) else ""
    if isinstance(task, (Classes, MultiLabel)) and size == task.count and tensor.name in (task.of or (tensor.name,)):
        kind = "probabilities" if tensor.name == "probabilities" else "scores (not probabilities)"
        if isinstance(task, MultiLabel):
            return f"{kind} of {task.count} labels{each}, each present from {task.threshold:g} on"
        return f"{kind} of {task.count} classes{each}"
    if isinstance(task, DenseMap):
        return "a map, one value a place"
    if tensor.name == "features" or isinstance(task, Features):
        return f"a feature vector of {size} values{each}"
    return f"beside the {'labels' if isinstance(task, MultiLabel) else 'classes'}, decides nothing"
