"""Recipes are found by folder, named with help, and say the truth about their networks."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import deploy_recipes
from deploy_recipes import Classes, Recipe
from deploy_runtime.errors import DeployError, UsageError

NAMES = deploy_recipes.names()


def test_the_families_are_found() -> None:
    assert NAMES == ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "x3d_xs", "x3d_s", "x3d_m", "x3d_l")


def test_looking_at_recipes_loads_no_torch() -> None:
    code = "import sys, deploy_recipes as r; [r.get(n) for n in r.names()]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_the_truth_about_its_network(name: str) -> None:
    recipe = deploy_recipes.get(name)
    with torch.device("meta"):
        net = recipe.network(**recipe.values({})).eval()
        given = net(*(torch.empty(tensor.at(2)) for tensor in recipe.inputs))
    assert sum(parameter.numel() for parameter in net.parameters()) == recipe.parameters
    assert list(given.shape) == list(recipe.outputs[0].at(2))
    assert all(tensor.shape[0] == "batch" and len(tensor.layout) == len(tensor.shape) for tensor in recipe.inputs)
    assert recipe.preprocess is not None
    axes = dict(zip(recipe.inputs[0].layout[1:], recipe.inputs[0].shape[1:], strict=True))
    assert (axes["H"], axes["W"]) == recipe.preprocess.crop
    assert axes.get("T") == recipe.preprocess.frames


@pytest.mark.parametrize("name", NAMES)
def test_parameters_fit_everything_that_depends_on_them(name: str) -> None:
    recipe = deploy_recipes.get(name)
    given = {"num_classes": "2", "size": "64"} | ({"frames": "4"} if recipe.family == "x3d" else {})
    values = recipe.values(given)
    fitted = recipe.fitted(values)
    with torch.device("meta"):
        answer = recipe.network(**values).eval()(*(torch.empty(tensor.at(2)) for tensor in fitted.inputs))
    assert list(answer.shape) == [2, 2]
    assert fitted.task == Classes(2)
    assert fitted.preprocess is not None
    assert fitted.preprocess.crop == (64, 64)
    assert fitted.preprocess.short_side is not None
    assert recipe.preprocess is not None
    assert recipe.preprocess.short_side is not None
    assert fitted.preprocess.short_side / 64 == pytest.approx(
        recipe.preprocess.short_side / recipe.preprocess.crop[0], rel=0.02
    )


@pytest.mark.parametrize(
    "text", ["num_classes=1", "num_classes=two", "size=31", "size=-1", "frames=0", "width=3", "num_classes="]
)
def test_parameters_that_break_the_network_are_refused(text: str) -> None:
    name, value = text.split("=")
    with pytest.raises(UsageError):
        deploy_recipes.get("x3d_s").values({name: value})


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"Did you mean x3d_s"):
        deploy_recipes.get("x3ds")
    with pytest.raises(UsageError, match="no recipe 'zzz'"):
        deploy_recipes.get("zzz")


MINE = """
from deploy_recipes import Classes, Recipe, Tensor
from sizes import SIZE

def network():
    from torch import nn
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 2))

my_net = Recipe(
    name="mine", family="mine", network=network, inputs=(Tensor("image", ("batch", 3, SIZE, SIZE), layout="NCHW"),),
    outputs=(Tensor("logits", ("batch", 2), layout="NC"),), task=Classes(2), parameters=98, source="me",
)
number = 3
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "sizes.py").write_text("SIZE = 4\n")
    path = tmp_path / "my_nets.py"
    path.write_text(MINE)
    return path


def test_a_recipe_in_a_users_own_file(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mine.parent)
    recipe = deploy_recipes.resolve("my_nets.py:my_net")
    assert isinstance(recipe, Recipe)
    assert recipe.name == "mine"
    assert deploy_recipes.load_file(mine, "my_net").inputs == recipe.inputs
    assert deploy_recipes.resolve("x3d_s") == deploy_recipes.get("x3d_s")


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("none.py:my_net", "no file none.py"),
        ("my_nets.py", "no recipe in it"),
        ("my_nets.py:my_nett", "does not define 'my_nett'"),
        ("my_nets.py:number", "as int, not as a Recipe"),
    ],
)
def test_a_wrong_reference_is_wrong_usage(ref: str, says: str, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mine.parent)
    with pytest.raises(UsageError, match=says):
        deploy_recipes.resolve(ref)


@pytest.mark.parametrize(
    ("code", "line"), [("x = 1\nraise KeyError('k')\n", 2), ("def f(:\n", 1), ("import nothing_so\n", 1)]
)
def test_a_file_that_fails_says_where(code: str, line: int, tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(code)
    with pytest.raises(DeployError, match=f"bad.py, line {line}, fails with"):
        deploy_recipes.load_file(path, "net")
