"""The file in docs/adding-a-recipe.md works as it stands there."""

import re
from pathlib import Path

import torch

import deploy_recipes
from deploy_compile import export, load, samples, simplify

DOC = Path(__file__).parents[2] / "docs" / "adding-a-recipe.md"


def test_the_documented_file_goes_from_recipe_to_a_simplified_graph(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    (tmp_path / "my_nets.py").write_text(code[1], encoding="utf-8")
    ref = f"{tmp_path / 'my_nets.py'}:my_net"
    recipe = deploy_recipes.resolve(ref)
    folders = [tmp_path / name for name in ("load", "samples", "export", "simplify")]
    for folder in folders:
        folder.mkdir()
    loaded = load.load(folders[0], recipe, ref, {}, "seeded", None)
    assert loaded.parameters == recipe.parameters
    assert samples.collect(folders[1], recipe, None, "minmax").provenance.synthetic
    graph = simplify.simplify(folders[3], export.export(folders[2], loaded, recipe))
    assert graph.heavy == 6
    assert load.module(loaded)(torch.ones(2, 3, 96, 96)).shape == (2, 3)


def test_the_documented_prefixes_and_endings_are_the_real_ones() -> None:
    from deploy_compile import checkpoint, media

    text = DOC.read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in (*checkpoint.PREFIXES, *checkpoint.STATE_KEYS))
    assert all(ending in text for ending in media.READS.split(", "))
