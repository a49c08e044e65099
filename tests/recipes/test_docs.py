"""The file in docs/adding-a-recipe.md works as it stands there."""

import re
from pathlib import Path

import torch

import deploy_recipes
from deploy_compile import export, load, samples, seeded, simplify
from deploy_recipes.recipe import DEFAULT_LIMITS, Limit

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
    graph = simplify.simplify(folders[3], export.export(folders[2], loaded, recipe), recipe)
    assert graph.heavy == 6
    assert load.module(loaded)(torch.ones(2, 3, 96, 96)).shape == (2, 3)


def test_the_documented_network_of_timm_says_the_truth(tmp_path: Path) -> None:
    code = re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)[1]
    (tmp_path / "my_nets.py").write_text(code, encoding="utf-8")
    recipe = deploy_recipes.load_file(tmp_path / "my_nets.py", "regnet")
    with torch.device("meta"):
        net = recipe.network(**recipe.values({})).eval()
        assert net(torch.empty(2, 3, 224, 224)).shape == (2, 3)
    assert sum(parameter.numel() for parameter in net.parameters()) == recipe.parameters
    assert len(seeded.branch_ends(net, recipe)) == 13


def test_the_documented_diff_adds_a_recipe(tmp_path: Path) -> None:
    diff = re.search(r"```diff\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    assert diff is not None
    added = "\n".join(line[1:] for line in diff[1].splitlines() if line.startswith("+    "))
    source = (DOC.parents[1] / "recipes" / "x3d.py").read_text(encoding="utf-8")
    assert source.count("RECIPES = (\n") == 1
    (tmp_path / "deep.py").write_text(source.replace("RECIPES = (\n", f"RECIPES = (\n{added}\n"), encoding="utf-8")
    recipe = deploy_recipes.load_file(tmp_path / "deep.py", "x3d_deep")
    values = recipe.values({})
    with torch.device("meta"):
        net = recipe.network(**values)
    assert sum(parameter.numel() for parameter in net.parameters()) == recipe.parameters
    assert recipe.inputs == deploy_recipes.get("x3d_m").inputs


def test_the_documented_limits_are_the_real_ones() -> None:
    text = (DOC.parent / "principles.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines() if row.startswith("| ")][2:]
    found: dict[str, Limit] = {}
    for precisions, *cells in rows:
        cosine, sqnr_db, relative, ratio, agreement = (
            float(cell.split()[0].rstrip("%")) if cell else None for cell in cells
        )
        share = None if agreement is None else agreement / 100
        limit = Limit(cosine, sqnr_db, relative, ratio, share)
        found |= dict.fromkeys(precisions.split(", "), limit)
    assert found == DEFAULT_LIMITS
    assert all(deploy_recipes.get(name).limits == DEFAULT_LIMITS for name in deploy_recipes.names())


def test_the_documented_prefixes_and_endings_are_the_real_ones() -> None:
    from deploy_compile import checkpoint, media

    text = DOC.read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in (*checkpoint.PREFIXES, *checkpoint.STATE_KEYS))
    assert all(ending in text for ending in media.READS.split(", and")[0].split(", "))
