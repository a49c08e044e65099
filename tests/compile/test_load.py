"""Loading: what ends up in the weights file, and what a person is told when weights and recipe do not fit."""

from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch

import deploy_recipes
from deploy_compile import load
from deploy_compile.results import Loaded
from deploy_recipes import Recipe
from deploy_runtime.errors import DeployError

SMALL = {"size": "32", "num_classes": "7"}


def loaded(out: Path, name: str, params: dict[str, str], weights: str | Path = "seeded") -> Loaded:
    recipe = deploy_recipes.get(name)
    return load.load(out, recipe.fitted(recipe.values(params)), name, params, weights, None)


def test_the_same_module_comes_back(tmp_path: Path) -> None:
    got = loaded(tmp_path, "resnet18", SMALL)
    net = load.module(got)
    assert got.origin == "seeded"
    assert got.parameters == sum(parameter.numel() for parameter in net.parameters())
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    again = load.module(got)
    image = torch.ones(1, 3, 32, 32)
    assert torch.equal(net(image), again(image))


def test_a_users_checkpoint_gives_its_own_answers(tmp_path: Path) -> None:
    net = deploy_recipes.get("resnet18").network(num_classes=2, size=32).eval()
    torch.save(
        {"model_state_dict": {f"module.{key}": value for key, value in net.state_dict().items()}}, tmp_path / "a.pt"
    )
    got = loaded(tmp_path, "resnet18", {"size": "32", "num_classes": "2"}, tmp_path / "a.pt")
    image = torch.ones(1, 3, 32, 32)
    assert torch.equal(load.module(got)(image), net(image))
    assert got.origin == "file"


def test_half_precision_weights_are_widened(tmp_path: Path) -> None:
    net = deploy_recipes.get("resnet18").network(num_classes=2, size=32).half()
    torch.save(net.state_dict(), tmp_path / "a.pt")
    module = load.module(loaded(tmp_path, "resnet18", {"size": "32", "num_classes": "2"}, tmp_path / "a.pt"))
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_another_number_of_classes_is_recognised(tmp_path: Path) -> None:
    torch.save(deploy_recipes.get("x3d_s").network(num_classes=2, frames=4, size=64).state_dict(), tmp_path / "a.pt")
    with pytest.raises(DeployError, match="does not fit x3d_s") as caught:
        loaded(tmp_path, "x3d_s", {}, tmp_path / "a.pt")
    assert "--param num_classes=2" in caught.value.fix


def test_another_recipe_of_the_family_is_recognised(tmp_path: Path) -> None:
    torch.save(deploy_recipes.get("resnet34").network(num_classes=2, size=32).state_dict(), tmp_path / "a.pt")
    with pytest.raises(DeployError, match="does not fit resnet18") as caught:
        loaded(tmp_path, "resnet18", {}, tmp_path / "a.pt")
    assert "look like resnet34" in caught.value.fix


def test_published_weights_without_a_network_are_a_plain_error(tmp_path: Path) -> None:
    def offline(**_: object) -> dict[str, torch.Tensor]:
        raise URLError("no route to host")

    recipe = replace(deploy_recipes.get("resnet18"), pretrained=offline)
    with pytest.raises(DeployError, match=r"cannot be fetched: .*no route to host"):
        load.load(tmp_path, recipe, "resnet18", {}, "pretrained", None)
    with pytest.raises(DeployError, match="nobody publishes weights"):
        load.load(tmp_path, replace(recipe, pretrained=None), "resnet18", {}, "pretrained", None)


def test_published_weights_must_fit_too(tmp_path: Path) -> None:
    recipe: Recipe = deploy_recipes.get("resnet18")
    state = recipe.network(num_classes=1000, size=32).state_dict()
    recipe = replace(recipe, pretrained=lambda **_: state)
    assert load.load(tmp_path, recipe, "resnet18", {}, "pretrained", None).origin == "pretrained"
    params = {"num_classes": "2"}
    with pytest.raises(DeployError, match="published weights of resnet18") as caught:
        load.load(tmp_path, recipe.fitted(recipe.values(params)), "resnet18", params, "pretrained", None)
    assert "--param num_classes=1000" in caught.value.fix


def test_keys_need_a_file_of_weights(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="--keys renames the keys of a file"):
        load.load(tmp_path, deploy_recipes.get("resnet18"), "resnet18", {}, "seeded", tmp_path / "map.json")
