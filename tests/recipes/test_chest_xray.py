"""Chest X-ray networks: what they weigh and decide, and that checkpoints of every naming give the same answers."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import DenseNet, densenet121  # type: ignore[import-untyped]

import deploy_recipes
from deploy_compile import checkpoint
from deploy_recipes import Classes, Features, MultiLabel, Recipe
from deploy_recipes.chest_xray import LABELS
from deploy_runtime.errors import UsageError
from deploy_runtime.preprocess import prepare
from tests.recipes.built import built, on_meta

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", category=FutureWarning)
    from transformers import BitImageProcessorPil, Dinov2Config, Dinov2ForImageClassification, Dinov2Model

DOCUMENT = {"chexnet": 7, "raddino": 86, "custom_1": 1}  # millions
SMALL_DENSENET = {"depth": "1", "size": "32"}
SMALL_DINO = {"depth": "1", "size": "28"}


def filled(name: str, state: Mapping[str, Any], folder: Path, **params: str) -> tuple[Recipe, nn.Module]:
    """Return the recipe's network with the weights of a checkpoint file that holds `state`."""
    torch.save(state, folder / "weights.pt")
    recipe, net = built(name, **params)
    assert recipe.adapt is not None
    net.load_state_dict(checkpoint.fit(dict(recipe.adapt(checkpoint.read(folder / "weights.pt"))), net, name))
    return recipe, net


@pytest.mark.parametrize("name", DOCUMENT)
def test_the_parameters_are_those_of_the_document(name: str) -> None:
    recipe, net, given = on_meta(name)
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count == recipe.parameters
    # RAD-DINO's 86.58 M are cut in the document; Hugging Face counts the 768 of the unused mask token too
    assert count / 1e6 == pytest.approx(DOCUMENT[name], abs=0.7)
    assert [list(value.shape) for value in given] == [list(tensor.at(2)) for tensor in recipe.outputs]


def test_findings_are_decided_each_by_itself() -> None:
    chexnet, raddino, custom = map(deploy_recipes.get, ("chexnet", "raddino", "custom1"))
    assert chexnet.task == MultiLabel(14, 0.5, of=("probabilities",))
    assert chexnet.labels == LABELS
    assert len(set(LABELS)) == 14
    assert built("chexnet", num_classes="5", **SMALL_DENSENET)[0].labels == ()
    assert raddino.task == Features()
    assert custom.task == MultiLabel(14, 0.0, of=("logits",))
    assert on_meta("custom_1", num_classes="3", multi_label="false")[0].task == Classes(3, of=("logits",))
    with pytest.raises(UsageError, match="one score is always the largest"):
        custom.fitted(custom.values({"num_classes": "1", "multi_label": "false"}))


@pytest.mark.parametrize(
    ("name", "params", "width"),
    [("chexnet", {"depth": "1"}, None), ("custom_1", {}, 256), ("raddino", {"depth": "1", "num_classes": "3"}, 768)],
)
def test_features_are_what_the_classifier_reads(name: str, params: dict[str, str], width: int | None) -> None:
    size = "56" if name == "raddino" else "32"
    recipe, net = built(name, features="true", size=size, **params)
    with torch.inference_mode():
        scores, features = net(torch.randn(recipe.inputs[0].at(2)))
        again = net.get_submodule("classifier" if name == "chexnet" else "head")(features)
    assert torch.equal(again.sigmoid() if name == "chexnet" else again, scores)
    assert [tensor.name for tensor in recipe.outputs][1:] == ["features"]
    if width:
        assert recipe.outputs[1].shape == ("batch", width) == ("batch", features.shape[1])


def test_published_chexnet_has_1024_features() -> None:
    recipe, _, given = on_meta("chexnet", features="true")
    assert [list(value.shape) for value in given] == [[2, 14], [2, 1024]] == [list(t.at(2)) for t in recipe.outputs]


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("chexnet", {"size": "28"}),
        ("chexnet", {"depth": "25"}),
        ("custom_1", {"size": "15"}),
        ("custom_1", {"channels": "2"}),
        ("raddino", {"size": "224", "depth": "13"}),
        ("raddino", {"size": "500"}),
    ],
)
def test_values_that_the_network_does_not_take_are_refused(name: str, params: dict[str, str]) -> None:
    recipe = deploy_recipes.get(name)
    with pytest.raises(UsageError):
        recipe.fitted(recipe.values(params))


@pytest.mark.parametrize(
    ("name", "size"), [("chexnet", "29"), ("custom_1", "28"), ("custom_1", "16"), ("raddino", "14")]
)
def test_the_smallest_images_work(name: str, size: str) -> None:
    params = {"size": size} | ({} if name == "raddino" else {"channels": "1"})
    recipe, _, given = on_meta(name, **params)
    assert list(given[0].shape) == list(recipe.outputs[0].at(2))
    assert recipe.preprocess is not None
    assert len(recipe.preprocess.mean) == recipe.inputs[0].shape[1]


@pytest.fixture(scope="module")
def densenet() -> nn.Module:
    torch.manual_seed(5)
    net: nn.Module = DenseNet(32, (1, 1, 1, 1), 64, num_classes=14).eval()
    return net


def dotted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name): value for name, value in state.items()}


def as_chexnet(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Name a state dict as a network does whose `densenet121.classifier` is a Sequential of Linear and Sigmoid."""
    return {prefix + name.replace("classifier.", "classifier.0."): value for name, value in state.items()}


@pytest.mark.parametrize("naming", ["torchvision", "wrapped", "chexnet", "chexnet of 2017"])
def test_chexnet_reads_every_naming_of_its_checkpoints(naming: str, densenet: nn.Module, tmp_path: Path) -> None:
    plain = densenet.state_dict()
    state: dict[str, Any] = {
        "torchvision": plain,
        "wrapped": {"epoch": 2, "model_state_dict": {f"module.backbone.{name}": v for name, v in plain.items()}},
        "chexnet": {"epoch": 9, "state_dict": as_chexnet(plain, "module.densenet121.")},
        "chexnet of 2017": {
            "state_dict": {
                name: value
                for name, value in as_chexnet(dotted(plain), "module.densenet121.").items()
                if not name.endswith("num_batches_tracked")
            }
        },
    }[naming]
    recipe, net = filled("chexnet", state, tmp_path, **SMALL_DENSENET)
    image = torch.randn(recipe.inputs[0].at(2))
    with torch.inference_mode():
        assert torch.equal(net(image), densenet(image).sigmoid())


def test_the_published_chexnet_names_every_key_of_the_full_network() -> None:
    with torch.device("meta"):
        whole = densenet121(num_classes=14).state_dict()
    recipe, net, _ = on_meta("chexnet")
    assert recipe.adapt is not None
    found = recipe.adapt(as_chexnet(dotted(whole), "module.densenet121."))
    assert {name.removeprefix("module.") for name in found} == set(net.state_dict())


@pytest.fixture(scope="module")
def dinov2() -> Any:
    """A Dinov2Model of twin size, no parameter left at its initial value."""
    torch.manual_seed(7)
    model = Dinov2Model(Dinov2Config(image_size=28, patch_size=14, num_hidden_layers=1))
    model.train(mode=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def older(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give today's keys the names that transformers 4 wrote."""
    renamed = {}
    for name, value in state.items():
        for new, old in (("q_proj", "attention.query"), ("k_proj", "attention.key"), ("v_proj", "attention.value")):
            name = name.replace(f"attention.{new}.", f"attention.{old}.")  # noqa: PLW2901
        renamed[name.replace("attention.o_proj.", "attention.output.dense.")] = value
    return renamed


def test_raddino_answers_as_the_model_that_transformers_saved(dinov2: Any, tmp_path: Path) -> None:
    dinov2.save_pretrained(tmp_path, safe_serialization=True)
    recipe, net = built("raddino", **SMALL_DINO)
    assert recipe.adapt is not None
    state = checkpoint.read(tmp_path / "model.safetensors")
    net.load_state_dict(checkpoint.fit(dict(recipe.adapt(state)), net, "raddino"))
    image = torch.randn(recipe.inputs[0].at(2))
    with torch.inference_mode():
        wanted = dinov2(pixel_values=image).pooler_output
        assert (net(image) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("prefix", ["", "dinov2.", "module.backbone.", "model.dinov2."])
@pytest.mark.parametrize("old", [False, True])
def test_raddino_reads_both_generations_of_names(prefix: str, old: bool, dinov2: Any) -> None:
    adapt = deploy_recipes.get("raddino").adapt
    assert adapt is not None
    today = dinov2.state_dict()
    state = older(today) if old else today
    assert ("encoder.layer.0.attention.attention.query.weight" in state) == old
    found, wanted = adapt({prefix + name: value for name, value in state.items()}), adapt(today)
    wrapper = prefix.removesuffix("dinov2.")
    assert {name.removeprefix(wrapper) for name in found} == set(wanted)
    assert all(torch.equal(found[wrapper + name], value) for name, value in wanted.items())


def test_a_head_on_the_class_token_comes_along(dinov2: Any, tmp_path: Path) -> None:
    state = {f"dinov2.{name}": value for name, value in dinov2.state_dict().items()}
    head = nn.Linear(768, 3)
    state |= {"classifier.weight": head.weight.detach(), "classifier.bias": head.bias.detach()}
    recipe, net = filled("raddino", state, tmp_path, num_classes="3", **SMALL_DINO)
    image = torch.randn(recipe.inputs[0].at(2))
    with torch.inference_mode():
        wanted = head(dinov2(pixel_values=image).pooler_output)
        assert (net(image) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_a_head_on_all_tokens_is_refused_by_its_shape() -> None:
    config = Dinov2Config(image_size=28, patch_size=14, num_hidden_layers=1, id2label=dict(enumerate("abc")))
    theirs = Dinov2ForImageClassification(config)  # its classifier reads the class token and the mean of the patches
    recipe, net = built("raddino", num_classes="3", **SMALL_DINO)
    assert recipe.adapt is not None
    with pytest.raises(checkpoint.MismatchError, match=r"head.weight is \[3, 1536\] and should be \[3, 768\]"):
        checkpoint.fit(dict(recipe.adapt(theirs.state_dict())), net, "theirs")


def test_raddino_reads_timms_own_and_the_authors_names() -> None:
    recipe, net = built("raddino", **SMALL_DINO)
    assert recipe.adapt is not None
    state = net.state_dict()
    assert recipe.adapt(state) == state
    assert set(recipe.adapt(state | {"mask_token": torch.zeros(1, 768)})) == set(state)


def test_a_file_without_a_key_says_so(dinov2: Any) -> None:
    recipe, net = built("raddino", **SMALL_DINO)
    state = {name: value for name, value in dinov2.state_dict().items() if "layer.0.attention.k_proj" not in name}
    assert recipe.adapt is not None
    with pytest.raises(checkpoint.MismatchError, match=r"2 missing: blocks\.0\.attn\.qkv\.weight"):
        checkpoint.fit(dict(recipe.adapt(state)), net, "raddino")


def test_raddino_prepares_radiographs_as_its_processor_does() -> None:
    """Its constants are those of microsoft/rad-dino's preprocessor_config.json, and Pillow resized in its time."""
    processor = BitImageProcessorPil(
        do_resize=True,
        size={"shortest_edge": 518},
        resample=Image.Resampling.BICUBIC,
        do_center_crop=True,
        crop_size={"height": 518, "width": 518},
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=[0.5307] * 3,
        image_std=[0.2583] * 3,
        do_convert_rgb=True,
    )
    rows, columns = np.mgrid[0:700, 0:820]
    grey = (127 + 60 * np.sin(rows / 21) + 60 * np.cos(columns / 17)).astype(np.uint8)
    how = deploy_recipes.get("raddino").preprocess
    assert how is not None
    wanted = np.asarray(processor(Image.fromarray(grey), return_tensors="np")["pixel_values"][0])
    found = prepare(grey, how)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1.01 / 255 / 0.2583  # a grey level
