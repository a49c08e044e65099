"""Longitudinal networks: the document's sizes, the libraries' numbers, pairs in one batch, checkpoints that load."""

from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from deploy_compile import checkpoint, export, onnx_graph, seeded, simplify, synthetic
from deploy_compile.cache import Stages
from deploy_compile.load import load
from deploy_compile.options import Options, fitted
from deploy_recipes import DenseMap, MultiLabel, Recipe, longitudinal
from deploy_recipes.networks.longitudinal import LongitudinalMIMModelBig, alternating
from deploy_recipes.networks.longitudinal_parts import BLOCKS, EfficientNetBlock, ViTLayer
from deploy_runtime.errors import UsageError

RECIPES = {recipe.name: recipe for recipe in longitudinal.RECIPES}
# In millions, as the document says; it gives none for the other two. The readings that make them fit are a choice.
DOCUMENT = {"longitudinal_mim_big": 180, "longitudinal_mim": 120, "masked_reconstruction": 100}


def twin(name: str, **params: str) -> tuple[Recipe, nn.Module]:
    recipe = RECIPES[name]
    values = recipe.values({**recipe.twin, **params})
    torch.manual_seed(0)
    return recipe.fitted(values), recipe.network(**values).eval()


@pytest.mark.parametrize("name", RECIPES)
def test_sizes_are_those_of_the_document(name: str) -> None:
    recipe = RECIPES[name]
    with torch.device("meta"):
        net = recipe.network(**recipe.values({})).eval()
        given = net(*(torch.empty(tensor.at(2)) for tensor in recipe.inputs))
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count == recipe.parameters
    assert round(count / 1e6) == DOCUMENT.get(name, round(count / 1e6))
    assert tuple(given.shape) == recipe.outputs[0].at(2)


def test_the_classifier_names_the_fourteen_findings() -> None:
    recipe = RECIPES["cxr_classification"]
    assert recipe.task == MultiLabel(14, 0.0, of=("logits",))
    assert len(set(recipe.labels)) == 14
    assert RECIPES["longitudinal_mim"].task == DenseMap()
    two, net = twin("cxr_classification", num_classes="2", channels="3", features="true")
    assert two.labels == ()
    assert two.preprocess is not None
    assert two.preprocess.mean == (0.5, 0.5, 0.5)
    answers = net(*(torch.zeros(tensor.at(2)) for tensor in two.inputs))
    assert [tuple(answer.shape) for answer in answers] == [tensor.at(2) for tensor in two.outputs]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("longitudinal_mim_big", "size=500"),
        ("longitudinal_mim_big", "width=100"),
        ("masked_reconstruction", "channels=2"),
        ("patchgan_discriminator", "size=8"),
    ],
)
def test_values_that_break_the_network_are_refused(name: str, text: str) -> None:
    key, value = text.split("=")
    with pytest.raises(UsageError):
        RECIPES[name].fitted(RECIPES[name].values({key: value}))


def test_a_refusal_names_the_rule() -> None:
    big, gan = RECIPES["longitudinal_mim_big"], RECIPES["patchgan_discriminator"]
    with pytest.raises(UsageError, match="no multiple of 32") as told:
        big.fitted(big.values({"size": "500"}))
    assert "give 480 or 512" in told.value.fix
    with pytest.raises(UsageError, match="leaves nothing after 4 halvings"):
        gan.fitted(gan.values({"size": "32", "depth": "4"}))
    assert gan.fitted(gan.values({"size": "48", "depth": "4"})).outputs[0].at(1) == (1, 1, 1, 1)


@torch.inference_mode()
def test_both_studies_in_one_batch_give_the_numbers_of_two_passes() -> None:
    recipe, net = twin("longitudinal_mim_big")
    assert isinstance(net, LongitudinalMIMModelBig)
    baseline, followup = (torch.randn(tensor.at(2)) for tensor in recipe.inputs)
    first, first_skips = net.encoder(baseline)
    second, second_skips = net.encoder(followup)
    changed = net.bottleneck(net.fusion(torch.stack([first, second], 2).flatten(1, 2)))
    wanted = net.decoder(changed, [torch.cat(pair, 1) for pair in zip(first_skips, second_skips, strict=True)])
    torch.testing.assert_close(net(baseline, followup), wanted, rtol=1e-5, atol=1e-5)
    assert (net(baseline, followup) - net(followup, baseline)).abs().max() > 1e-3  # the order matters
    one_by_one = torch.cat([net(baseline[i : i + 1], followup[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(net(baseline, followup), one_by_one, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["longitudinal_mim", "longitudinal_mim_big"])
def test_the_encoder_run_twice_gives_the_same(name: str) -> None:
    recipe, once = twin(name)
    twice = recipe.network(**recipe.values({**recipe.twin, "encoder": "twice"})).eval()
    twice.load_state_dict(once.state_dict())
    studies = [torch.randn(tensor.at(2)) for tensor in recipe.inputs]
    torch.testing.assert_close(twice(*studies), once(*studies), rtol=1e-5, atol=1e-5)


def test_pairs_alternate_channel_by_channel() -> None:
    features = torch.arange(12.0).reshape(4, 3, 1, 1)  # two pairs of three channels
    assert alternating(features).flatten(1).tolist() == [[0, 3, 1, 4, 2, 5], [6, 9, 7, 10, 8, 11]]


@torch.inference_mode()
@pytest.mark.parametrize("index", [0, 2, 7])
def test_efficientnet_blocks_give_transformers_numbers(index: int) -> None:
    """B7's blocks 0, 11 and 52, under the library's own key names."""
    from transformers.models.efficientnet.configuration_efficientnet import EfficientNetConfig
    from transformers.models.efficientnet.modeling_efficientnet import EfficientNetBlock as Theirs

    wide, narrow, kernel, stride, expand, residual = BLOCKS[index]
    config = EfficientNetConfig()
    torch.manual_seed(index)
    theirs = Theirs(config, wide, narrow, stride, expand, kernel, 0.0, not residual, adjust_padding=True).eval()
    for part in theirs.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    ours = EfficientNetBlock(wide, narrow, kernel=kernel, stride=stride, expand=expand, residual=residual).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, wide, 16, 16)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_vit_layers_give_transformers_numbers() -> None:
    """Those of version 5, whose names `adapt` turns into version 4's."""
    from transformers.models.vit.configuration_vit import ViTConfig
    from transformers.models.vit.modeling_vit import ViTLayer as Theirs

    config = ViTConfig(hidden_size=96, intermediate_size=384)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    theirs = Theirs(config).eval()
    ours = ViTLayer(96, tokens=4).eval()
    state = {f"vit.layer.0.{name}": value for name, value in theirs.state_dict().items()}
    ours.load_state_dict(
        {name.removeprefix("vit.layer.0."): value for name, value in longitudinal.adapt(state).items()}
    )
    x = torch.randn(2, 4, 96)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_one_transformer_serves_both_bottlenecks() -> None:
    _, net = twin("longitudinal_mim_big")
    assert isinstance(net, LongitudinalMIMModelBig)
    assert net.bottleneck.transformer.vit is net.encoder.bottleneck.transformer.vit


@pytest.mark.parametrize("name", RECIPES)
def test_a_training_checkpoint_loads(name: str, tmp_path: Path) -> None:
    """As the document saves it, from a network wrapped for several GPUs."""
    _, net = twin(name)
    state = {f"module.{key}": value for key, value in net.state_dict().items()}
    torch.save({"model_state_dict": state, "optimizer_state_dict": {"state": {}}, "epoch": 3}, tmp_path / "best.pt")
    found = checkpoint.fit(checkpoint.read(tmp_path / "best.pt"), net, "best.pt")
    assert found.keys() == net.state_dict().keys()
    assert all(torch.equal(found[key], value) for key, value in net.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_the_graph_is_plain_onnx_and_long_norms_are_split(name: str, tmp_path: Path) -> None:
    options = Options(f"{longitudinal.__file__}:{name}", RECIPES[name].twin, fp16=True, int8=True)
    recipe, run = fitted(options), Stages(tmp_path, lambda *_: None, lambda *_: None)
    loaded = run(load, recipe, options.ref, options.params, options.weights, options.keys, options.uncertainty)
    model = onnx.load(run(simplify.simplify, run(export.export, loaded, recipe, recipe.exporter), recipe).path)
    assert {node.domain for node in model.graph.node} == {""}
    ops = {node.op_type for node in model.graph.node}
    assert ops & {"Loop", "If", "Where", "ScatterND", "Shape", "Expand"} == set()
    if name != "patchgan_discriminator":
        assert "Sqrt" in ops  # of a long norm; a twin has both kinds, as the full network,
        assert ("InstanceNormalization" in ops) == (name != "masked_reconstruction")  # whose stem has long ones only
    heavy = {node.name for node in onnx_graph.heavy_nodes(model)}
    kept = {node for node in heavy for keep in recipe.keep_float if fnmatchcase(node, keep.nodes)}
    transposed = {node.name for node in model.graph.node if node.op_type == "ConvTranspose"}
    assert transposed <= kept
    assert bool(kept) == bool(recipe.keep_float)


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "patchgan_discriminator"])
def test_seeded_networks_answer_differently_to_different_images(name: str) -> None:
    recipe = RECIPES[name]
    values = recipe.values(recipe.twin)
    small = recipe.fitted(values)
    net = seeded.build(small, partial(recipe.network, **values))
    with torch.inference_mode():
        samples = [synthetic.sample(small, 7, index) for index in range(4)]
        answers = torch.cat([net(*(torch.from_numpy(s[t.name]) for t in small.inputs)) for s in samples])
    assert answers.std(0).mean() > 0.02
    assert len(seeded.branch_ends(net, small)) == 3  # EfficientNet's one, attention, MLP: the transformer counts once
