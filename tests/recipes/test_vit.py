"""Image transformers: what they weigh, what they refuse, and that timm's own checkpoints give timm's own answers."""

from pathlib import Path

import onnx
import pytest
import timm
import torch
from torch import nn

import deploy_recipes
from deploy_compile import checkpoint, export, load, simplify
from deploy_recipes import Classes, Features
from deploy_runtime.errors import UsageError
from tests.recipes.built import built, on_meta

DOCUMENT = {"vit_base_patch16_224": 86, "vit_large_patch16_224": 305, "vit_huge_patch14_224": 632}  # millions
NAMES = tuple(DOCUMENT)
SMALL = {"depth": "1", "size": "32", "num_classes": "5"}


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_are_those_of_the_document(name: str) -> None:
    recipe, net, given = on_meta(name)
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count == recipe.parameters
    # the document cuts ViT-B's 86.57 M and rounds ViT-L's 304.33 M up; ViT-H has the 1000 classes timm leaves out
    assert count / 1e6 == pytest.approx(DOCUMENT[name], abs=0.7)
    assert [list(value.shape) for value in given] == [[2, 1000]]


@pytest.mark.parametrize(("alias", "name"), [(name.rsplit("_", 2)[0], name) for name in NAMES])
def test_the_documents_names_are_aliases(alias: str, name: str) -> None:
    assert deploy_recipes.get(alias).name == name


@pytest.mark.parametrize(("name", "width"), list(zip(NAMES, (768, 1024, 1280), strict=True)))
def test_features_come_beside_the_logits_or_alone(name: str, width: int) -> None:
    recipe, _, given = on_meta(name, depth="1", features="true", num_classes="7")
    assert [tensor.name for tensor in recipe.outputs] == ["logits", "features"]
    assert [list(value.shape) for value in given] == [[2, 7], [2, width]] == [list(t.at(2)) for t in recipe.outputs]
    assert recipe.task == Classes(7, of=("logits",))
    alone, _, given = on_meta(name, depth="1", num_classes="0")
    assert [tensor.name for tensor in alone.outputs] == ["features"]
    assert [list(value.shape) for value in given] == [[2, width]]
    assert alone.task == Features()


def test_features_are_what_the_classifier_reads() -> None:
    recipe, net = built("vit_base", features="true", **SMALL)
    with torch.inference_mode():
        logits, features = net(torch.randn(recipe.inputs[0].at(2)))
        assert torch.equal(net.get_submodule("head")(features), logits)


@pytest.mark.parametrize(("name", "size", "patch"), [(NAMES[0], 225, 16), (NAMES[1], 100, 16), (NAMES[2], 16, 14)])
def test_a_size_that_cuts_patches_is_refused_with_the_rule(name: str, size: int, patch: int) -> None:
    recipe = deploy_recipes.get(name)
    with pytest.raises(UsageError, match=f"size={size} is no multiple of {patch}") as refused:
        recipe.fitted(recipe.values({"size": str(size)}))
    assert str(size // patch * patch) in refused.value.fix


@pytest.mark.parametrize("text", ["num_classes=1", "size=8", "channels=2", "depth=-1", "size=2000"])
def test_values_that_the_network_does_not_take_are_refused(text: str) -> None:
    name, value = text.split("=")
    recipe = deploy_recipes.get("vit_base")
    with pytest.raises(UsageError):
        recipe.fitted(recipe.values({name: value}))


@pytest.mark.parametrize(
    "params", [{"size": "384"}, {"channels": "1"}, {"size": "28"}, {"size": "32", "channels": "1"}]
)
def test_size_and_channels_fit_input_and_preprocessing(params: dict[str, str]) -> None:
    name = "vit_huge" if params.get("size") == "28" else "vit_base"  # MedMNIST's 28 pixels are two patches of 14
    recipe, _, given = on_meta(name, depth="1", **params)
    channels = int(params.get("channels", 3))
    assert list(given[0].shape) == [2, 1000]
    assert recipe.preprocess is not None
    assert recipe.preprocess.mean == recipe.preprocess.std == (0.5,) * channels
    assert recipe.inputs[0].shape[1:] == (channels, *recipe.preprocess.crop)


@pytest.mark.parametrize("name", NAMES)
def test_the_preprocessing_is_that_of_the_checkpoint_timm_publishes(name: str) -> None:
    recipe = deploy_recipes.get(name)
    tag = recipe.weights_from.split("(")[1].split(")")[0]
    published = timm.get_pretrained_cfg(f"{name}.{tag}")
    how = recipe.preprocess
    assert published is not None
    assert how is not None
    assert (how.mean, how.std, how.interpolation) == (published.mean, published.std, published.interpolation)
    assert how.crop == published.input_size[1:]
    assert how.short_side == int(how.crop[0] / published.crop_pct)


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    torch.manual_seed(3)
    net: nn.Module = timm.create_model("vit_base_patch16_224", num_classes=5, img_size=32, depth=1)
    return net.eval()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_checkpoint_that_timm_wrote_gives_timms_answers(theirs: nn.Module, wrapped: bool, tmp_path: Path) -> None:
    state = theirs.state_dict()
    inside = {"epoch": 3, "model_state_dict": {f"module.backbone.{name}": value for name, value in state.items()}}
    torch.save(inside if wrapped else state, tmp_path / "vit.pt")
    recipe = deploy_recipes.get("vit_base").fitted(deploy_recipes.get("vit_base").values(SMALL))
    loaded = load.load(tmp_path, recipe, "vit_base", SMALL, tmp_path / "vit.pt", None)
    image = torch.randn(recipe.inputs[0].at(2))
    with torch.inference_mode():
        assert torch.equal(load.module(loaded)(image), theirs(image))


def test_weights_of_another_size_are_not_stretched_in_silence(theirs: nn.Module) -> None:
    _, net = built("vit_base", **SMALL | {"size": "48"})
    with pytest.raises(checkpoint.MismatchError, match=r"pos_embed is \[1, 5, 768\] and should be \[1, 10, 768\]"):
        checkpoint.fit(theirs.state_dict(), net, "vit.pt")


def test_attention_exports_as_plain_products(tmp_path: Path) -> None:
    """Fused attention becomes matmul, softmax, matmul: no mask, no branch, and the only Where computes a shape."""
    recipe = deploy_recipes.get("vit_base").fitted(deploy_recipes.get("vit_base").values(SMALL))
    (tmp_path / "raw").mkdir()
    (tmp_path / "simple").mkdir()
    loaded = load.load(tmp_path, recipe, "vit_base", SMALL, "seeded", None)
    graph = simplify.simplify(tmp_path / "simple", export.export(tmp_path / "raw", loaded, recipe), recipe)
    model = onnx.shape_inference.infer_shapes(onnx.load(graph.path))
    ops = [node.op_type for node in model.graph.node]
    assert not {"IsNaN", "If", "Loop", "Einsum", "ScatterND", "Range"} & set(ops)
    assert ops.count("Softmax") == 1
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    wheres = [node.output[0] for node in model.graph.node if node.op_type == "Where"]
    assert all(types[name] == onnx.TensorProto.INT64 for name in wheres)
