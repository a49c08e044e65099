"""ResNet, EfficientNet, DenseNet: what they weigh and take, and that torchvision's checkpoints give its answers."""

import re
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import DenseNet, efficientnet, get_model, get_model_weights, resnet  # type: ignore[import-untyped]

import deploy_recipes
from deploy_compile import load, seeded, synthetic
from deploy_recipes import Classes, MultiLabel, Recipe
from deploy_runtime.errors import DeployError, UsageError
from tests.recipes.built import built, on_meta

DOCUMENT = {  # millions
    "resnet18": 11, "resnet34": 22, "resnet50": 26, "resnet101": 45, "resnet152": 60,
    "efficientnet_b0": 5.3, "efficientnet_b1": 7.8, "efficientnet_b2": 9.2, "efficientnet_b3": 12,
    "efficientnet_b4": 19, "efficientnet_b5": 30, "efficientnet_b6": 43, "efficientnet_b7": 66,
    "densenet121": 7.9, "densenet169": 14, "densenet201": 20, "densenet264": 32,
}  # fmt: skip
NAMES = tuple(DOCUMENT)
# Where the document is off by more than its rounding: it cuts ResNet-18's 11.69 M, and DenseNet-264's blocks
# (6, 12, 64, 48) weigh 33.34 M with 1000 classes; no library has another reading.
OFF = {"resnet18": 0.7, "densenet264": 1.34}
WIDTHS = {
    "resnet18": 512, "resnet34": 512, "resnet50": 2048, "resnet101": 2048, "resnet152": 2048,
    "efficientnet_b0": 1280, "efficientnet_b3": 1536, "efficientnet_b5": 2048, "efficientnet_b7": 2560,
    "densenet121": 1024, "densenet169": 1664, "densenet201": 1920, "densenet264": 2688,
}  # fmt: skip
NATIVE = dict(enumerate((224, 240, 260, 300, 380, 456, 528, 600)))
ONE_EACH = ("resnet18", "efficientnet_b0", "densenet121")
SMALL = {"depth": "1", "size": "32", "num_classes": "5"}


@cache
def published(name: str) -> tuple[Recipe, nn.Module, tuple[Tensor, ...]]:
    return on_meta(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_are_those_of_the_document(name: str) -> None:
    recipe, net, given = published(name)
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count == recipe.parameters
    assert count / 1e6 == pytest.approx(DOCUMENT[name], abs=OFF.get(name, 0.5))
    assert [list(value.shape) for value in given] == [[2, 1000]]


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b3", "densenet121", "densenet169", "densenet201"])
def test_the_keys_are_torchvisions(name: str) -> None:
    _, net, _ = published(name)
    with torch.device("meta"):
        theirs = get_model(name).state_dict()
    assert {key: value.shape for key, value in net.state_dict().items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize("name", WIDTHS)
def test_features_come_beside_the_logits(name: str) -> None:
    recipe, _, given = on_meta(name, features="true", num_classes="7", size="64")
    assert [tensor.name for tensor in recipe.outputs] == ["logits", "features"]
    assert [list(value.shape) for value in given] == [[2, 7], [2, WIDTHS[name]]] == shapes(recipe)
    assert recipe.task == Classes(7, of=("logits",))


@pytest.mark.parametrize("name", ONE_EACH)
@pytest.mark.parametrize("depth", ["1", "2"])
def test_depth_keeps_the_shapes_true(name: str, depth: str) -> None:
    recipe, _, given = on_meta(name, depth=depth, features="true", channels="1", size="29")
    assert [list(value.shape) for value in given] == shapes(recipe)  # a shallow DenseNet is narrower


def shapes(recipe: Recipe) -> list[list[int]]:
    return [list(tensor.at(2)) for tensor in recipe.outputs]


@pytest.mark.parametrize(("name", "head"), list(zip(ONE_EACH, ("fc", "classifier", "classifier"), strict=True)))
def test_features_are_what_the_classifier_reads(name: str, head: str) -> None:
    recipe, net = built(name, features="true", **SMALL)
    with torch.inference_mode():
        logits, features = net(torch.randn(recipe.inputs[0].at(2)))
        assert torch.equal(net.get_submodule(head)(features), logits)
    assert logits.std() > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_preprocessing_is_that_of_torchvisions_weights(name: str) -> None:
    if name == "densenet264":  # nobody publishes weights for it
        return
    published = get_model_weights(name)["IMAGENET1K_V1"].transforms()
    recipe = deploy_recipes.get(name)
    if name == "efficientnet_b2":  # 260 in the paper and the document, and torchvision shows it 288
        assert recipe.inputs[0].shape[2:] == (260, 260)
        recipe = recipe.fitted(recipe.values({"size": "288"}))
    how = recipe.preprocess
    assert how is not None
    assert (how.crop[0], how.short_side) == (published.crop_size[0], published.resize_size[0])
    assert how.interpolation == published.interpolation.value
    assert how.antialias == published.antialias
    assert (list(how.mean), list(how.std)) == (published.mean, published.std)


@pytest.mark.parametrize(("scale", "side"), list(NATIVE.items()))
def test_an_efficientnet_stands_at_its_native_side(scale: int, side: int) -> None:
    recipe = deploy_recipes.get(f"efficientnet_b{scale}")
    assert recipe.inputs[0].shape == ("batch", 3, side, side)
    assert f"native side is {side}" in next(param.help for param in recipe.params if param.name == "size")


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "efficientnet_b0", "efficientnet_b3"])
def test_images_of_medmnist_go_through(name: str) -> None:
    recipe, net = built(name, size="28", channels="1", num_classes="9", depth="1")
    assert recipe.preprocess is not None
    assert recipe.preprocess.crop == (28, 28)
    assert (recipe.preprocess.mean, recipe.preprocess.std) == ((0.449,), (0.226,))
    with torch.inference_mode():
        logits = net(torch.randn(2, 1, 28, 28))
    assert logits.shape == (2, 9)
    assert not torch.equal(logits[0], logits[1])


def test_a_densenet_refuses_images_that_its_halvings_use_up() -> None:
    with pytest.raises(UsageError, match=r"size=28 is too small.*pools 2 x 2") as refused:
        built("densenet121", size="28")
    assert "at least 29" in refused.value.fix
    assert list(on_meta("densenet121", size="29")[2][0].shape) == [2, 1000]
    with torch.device("meta"), pytest.raises(RuntimeError, match="too small"):  # the rule is the network's, not ours
        deploy_recipes.get("densenet121").network(num_classes=2).eval()(torch.empty(1, 3, 28, 28))


@pytest.mark.parametrize("name", ONE_EACH)
@pytest.mark.parametrize(
    "text", ["num_classes=0", "num_classes=1", "size=0", "size=4096", "channels=2", "depth=-1", "depth=99", "width=2"]
)
def test_values_that_the_network_does_not_take_are_refused(name: str, text: str) -> None:
    key, value = text.split("=")
    with pytest.raises(UsageError):
        built(name, **{key: value})


@pytest.mark.parametrize("name", ONE_EACH)
def test_labels_are_decided_each_by_itself_where_asked(name: str) -> None:
    assert built(name, multi_label="true", **SMALL)[0].task == MultiLabel(5, 0.0)
    one = {**SMALL, "num_classes": "1"}
    assert built(name, multi_label="true", features="true", **one)[0].task == MultiLabel(1, 0.0, of=("logits",))


@pytest.mark.parametrize("name", NAMES)
def test_branch_ends_are_the_last_norms_of_all_residual_branches(name: str) -> None:
    assert_branch_ends(*published(name)[:2])


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0", "efficientnet_b1"])
@pytest.mark.parametrize("depth", ["1", "2"])
def test_so_they_are_in_a_shallow_network(name: str, depth: str) -> None:
    assert_branch_ends(*on_meta(name, depth=depth, size="32")[:2])


def assert_branch_ends(recipe: Recipe, net: nn.Module) -> None:
    ends = seeded.branch_ends(net, recipe)
    wanted = [part for part in net.modules() if isinstance(part, (resnet.BasicBlock, resnet.Bottleneck))]
    wanted += [part for part in net.modules() if getattr(part, "use_res_connect", False)]
    assert len(ends) == len(wanted)
    for end, block in zip(ends, wanted, strict=True):
        norms = [
            part for key, part in block.named_modules() if "downsample" not in key and hasattr(part, "running_var")
        ]
        assert net.get_submodule(end) is norms[-1]


@torch.inference_mode()
def test_the_deepest_layer_of_a_densenet_has_its_say() -> None:
    """It has no residual branches to damp: layers add channels, and one that is dead must be seen all the same."""
    recipe = deploy_recipes.get("densenet121")
    values = recipe.values(recipe.twin)
    fitted = recipe.fitted(values)
    net = seeded.build(fitted, partial(recipe.network, **values))
    clips = torch.cat([torch.from_numpy(synthetic.sample(fitted, 7, index)["image"]) for index in range(4)])
    before = net(clips)
    for parameter in net.get_submodule("features.denseblock4.denselayer2.norm2").parameters():
        parameter.zero_()
    assert (net(clips) - before).square().mean().sqrt() > 3 * 0.06 * before.square().mean().sqrt()  # 3 x int8's drift


def theirs(name: str) -> nn.Module:
    """Return torchvision's own network, five classes, with as few blocks as `depth=1` keeps."""
    torch.manual_seed(3)
    net: nn.Module
    if name == "densenet121":
        net = DenseNet(32, (1, 1, 1, 1), 64, num_classes=5)
    elif name == "resnet18":
        net = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=5)
    else:
        settings, _ = efficientnet._efficientnet_conf(name, width_mult=1.0, depth_mult=0.1)
        net = efficientnet.EfficientNet(settings, 0.2, num_classes=5)
    return net.eval()


def old_keys(state: dict[str, Any]) -> dict[str, Any]:
    """Return a DenseNet's state dict under the names of torchvision's published files, `denselayer1.norm.1.weight`."""
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)\.", r"\1.\2.", key): value for key, value in state.items()}


def head_beside(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state dict of the document's own model: `backbone.layer4...` and a `classifier` beside it."""
    head = re.compile(r"(fc|classifier|classifier\.1)\.(weight|bias)")
    return {
        f"classifier.{match[2]}" if (match := head.fullmatch(key)) else f"backbone.{key}": value
        for key, value in state.items()
    }


@pytest.mark.parametrize(
    ("name", "way"),
    [*((name, way) for name in ONE_EACH for way in ("plain", "wrapped", "head_beside")), ("densenet121", "old_keys")],
)
def test_a_checkpoint_that_torchvision_wrote_gives_its_answers(name: str, way: str, tmp_path: Path) -> None:
    net = theirs(name)
    state: dict[str, Any] = dict(net.state_dict())
    ways = {
        "plain": state,
        "wrapped": {"epoch": 3, "model_state_dict": {f"module.backbone.{key}": value for key, value in state.items()}},
        "head_beside": {"model_state_dict": head_beside(state)},
        "old_keys": {f"module.{key}": value for key, value in old_keys(state).items()},
    }
    torch.save(ways[way], tmp_path / "weights.pt")
    loaded = read(name, tmp_path / "weights.pt", SMALL)
    image = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(loaded(image), net(image))


def test_a_checkpoint_that_timm_wrote_gives_its_answers(tmp_path: Path) -> None:
    net: nn.Module = timm.create_model("resnet18", num_classes=5, in_chans=1).eval()
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    loaded = read("resnet18", tmp_path / "weights.pt", {"num_classes": "5", "size": "32", "channels": "1"})
    image = torch.randn(2, 1, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(loaded(image), net(image), rtol=1e-5, atol=1e-5)


def read(name: str, weights: Path, params: dict[str, str]) -> nn.Module:
    """Return the recipe's network as the load stage makes it from a checkpoint file."""
    recipe = deploy_recipes.get(name)
    fitted = recipe.fitted(recipe.values(params))
    return load.module(load.load(weights.parent, fitted, name, params, weights, None))


@pytest.mark.parametrize("name", ONE_EACH)
def test_published_weights_fit_and_grey_ones_answer_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the download: what torchvision's weight files hold, with a DenseNet's old key names."""
    torch.manual_seed(5)
    state = get_model(name).state_dict()
    given = old_keys(dict(state)) if name == "densenet121" else state
    monkeypatch.setattr(get_model_weights(name), "get_state_dict", lambda _self, **_options: given)
    recipe = deploy_recipes.get(name)
    assert recipe.pretrained is not None
    answers = []
    for channels in (3, 1):
        values = recipe.values({"channels": str(channels), "size": "32"})
        net = recipe.network(**values)
        net.load_state_dict(recipe.pretrained(**values))
        torch.manual_seed(7)
        grey = torch.randn(2, 1, 32, 32).expand(-1, channels, -1, -1)
        with torch.inference_mode():
            answers.append(net.eval()(grey))
    assert torch.allclose(answers[0], answers[1], rtol=1e-3, atol=1e-3 * float(answers[0].abs().max()))


def test_nobody_publishes_a_densenet264(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="nobody publishes weights for densenet264"):
        load.load(tmp_path, deploy_recipes.get("densenet264"), "densenet264", {}, "pretrained", None)
