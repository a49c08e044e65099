"""MViT: what it weighs, that the rewritten v2 is torchvision's, and that weights follow the size."""

import math
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn
from torchvision.models.video import mvit  # type: ignore[import-untyped]

import deploy_recipes
from deploy_compile import checkpoint, export, load, simplify
from deploy_recipes import Classes
from deploy_recipes.networks import mvit_v2, position_tables
from deploy_recipes.networks.pytorchvideo_models import library
from deploy_runtime.errors import DeployError, UsageError
from tests.recipes.built import built, on_meta

NAMES = ("mvit_base", "mvit_v2_s")
SMALL = {"num_classes": "5", "frames": "4", "size": "64", "depth": "2"}
EXACT = 1e-5  # most |difference| / most |answer| between the library's forward and ours in fp32; in fp64 it is 1e-12


def original(size: int, frames: int, blocks: int = mvit_v2.BLOCKS) -> nn.Module:
    """Return torchvision's own network, whose builder takes no other size than 224."""
    torch.manual_seed(3)
    net: nn.Module = mvit.MViT(
        spatial_size=(size, size),
        temporal_size=frames,
        block_setting=mvit_v2.settings()[:blocks],
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        num_classes=5,
    )
    with torch.no_grad():
        for parameter in net.parameters():  # as drawn, attention looks nowhere and positions say nothing
            parameter.mul_(2.0).add_(0.1 * torch.randn(parameter.shape) if parameter.ndim == 1 else 0.0)
    return net.eval()


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_and_features_are_those_published(name: str) -> None:
    recipe, net, given = on_meta(name, features="true")
    assert sum(parameter.numel() for parameter in net.parameters()) == recipe.parameters
    assert [list(value.shape) for value in given] == [[2, 400], [2, 768]] == [list(t.at(2)) for t in recipe.outputs]
    assert recipe.task == Classes(400, of=("logits",))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("depth", ["2", "3", "4"])
def test_features_of_a_shorter_network_are_as_wide_as_it_says(name: str, depth: str) -> None:
    recipe, _, given = on_meta(name, **SMALL | {"depth": depth, "features": "true"})
    assert [list(value.shape) for value in given] == [list(tensor.at(2)) for tensor in recipe.outputs]


def test_v2_has_torchvisions_keys_and_shapes() -> None:
    with torch.device("meta"):
        theirs, ours = mvit.mvit_v2_s(), mvit_v2.mvit_v2_s(num_classes=400, frames=16, size=224)
    assert {name: value.shape for name, value in ours.state_dict().items()} == {
        name: value.shape for name, value in theirs.state_dict().items()
    }


@pytest.mark.parametrize(("size", "frames"), [(64, 4), (72, 6)])  # 72: grids round, tables are interpolated
def test_v2_gives_torchvisions_answers_through_all_its_blocks(size: int, frames: int) -> None:
    theirs = original(size, frames)
    ours = mvit_v2.mvit_v2_s(num_classes=5, frames=frames, size=size).eval()
    ours.load_state_dict(theirs.state_dict())
    clip = torch.randn(2, 3, frames, size, size, dtype=torch.float64)
    with torch.inference_mode():
        wanted, found = theirs.double()(clip), ours.double()(clip)
    assert (found - wanted).abs().max() <= 1e-12 * wanted.abs().max()


def test_base_is_what_pytorchvideos_hub_builds() -> None:
    theirs = library("hub.vision_transformers").mvit_base_16x4()
    ours = on_meta("mvit_base")[1]
    assert {name: value.shape for name, value in ours.state_dict().items()} == {
        name: value.shape for name, value in theirs.state_dict().items()
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("size=226", "size=226 is no multiple of 4, and the stem takes every 4th pixel"),
        ("frames=15", "frames=15 is no multiple of 2"),
        ("size=20", "outside what the network takes"),
        ("depth=1", "not one of its values"),
        ("channels=2", "not one of its values"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_values_that_break_the_network_are_refused_with_the_rule(name: str, text: str, says: str) -> None:
    recipe = deploy_recipes.get(name)
    key, value = text.split("=")
    with pytest.raises(UsageError, match=says):
        recipe.fitted(recipe.values({key: value}))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("params", [{"size": "384"}, {"size": "312"}, {"size": "32", "channels": "1"}])
def test_sizes_from_small_to_384_and_one_channel(name: str, params: dict[str, str]) -> None:
    recipe, _, given = on_meta(name, frames="4", **params)
    channels = int(params.get("channels", 3))
    assert list(given[0].shape) == [2, 400]
    assert recipe.inputs[0].shape == ("batch", channels, 4, int(params["size"]), int(params["size"]))
    assert recipe.preprocess is not None
    assert recipe.preprocess.mean == (0.45,) * channels
    assert recipe.preprocess.short_side == round(256 * int(params["size"]) / 224)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_checkpoint_of_the_library_gives_the_librarys_answers(name: str, wrapped: bool, tmp_path: Path) -> None:
    theirs = original(64, 4, blocks=2) if name == "mvit_v2_s" else built(name, **SMALL)[1]
    state = theirs.state_dict()
    inside = {"epoch": 3, "model_state_dict": {f"module.backbone.{key}": value for key, value in state.items()}}
    torch.save(inside if wrapped else state, tmp_path / "w.pt")
    recipe = deploy_recipes.get(name)
    fitted = recipe.fitted(recipe.values(SMALL))
    loaded = load.load(tmp_path, fitted, name, SMALL, tmp_path / "w.pt", None)
    clip = torch.randn(fitted.inputs[0].at(2))
    with torch.inference_mode():
        wanted, found = theirs(clip), load.module(loaded)(clip)
    assert (found - wanted).abs().max() <= EXACT * wanted.abs().max()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prefix", ["", "module.backbone."])
def test_weights_of_another_size_have_their_position_tables_interpolated(
    name: str, prefix: str, tmp_path: Path
) -> None:
    trained = built(name, **SMALL)[1].state_dict()
    torch.save({prefix + key: value for key, value in trained.items()}, tmp_path / "w.pt")
    params = SMALL | {"size": "96"}
    recipe = deploy_recipes.get(name)
    net = load.module(load.load(tmp_path, recipe.fitted(recipe.values(params)), name, params, tmp_path / "w.pt", None))
    changed = {key for key, value in net.state_dict().items() if value.shape != trained[key].shape}
    tables = {"pos_embed_spatial"} if name == "mvit_base" else {"rel_pos_h", "rel_pos_w"}
    assert {key.rpartition(".")[2] for key in changed} == tables
    for key, value in net.state_dict().items():
        if key not in changed:
            assert torch.equal(value, trained[key])
    with torch.inference_mode():
        assert torch.isfinite(net(torch.randn(1, 3, 4, 96, 96))).all()


def test_interpolated_tables_keep_a_slope() -> None:
    """A table that rises evenly still rises evenly, from left to right and not from top to bottom."""
    rising = torch.arange(8.0)[None, :, None].repeat(8, 1, 2).reshape(1, 64, 2)
    wide = position_tables.resized({"m.table": rising}, {"table": torch.Size((1, 256, 2))})["m.table"]
    grid = wide.reshape(16, 16, 2)[..., 0]
    assert torch.allclose(grid, grid[:1].expand(16, 16))
    assert torch.allclose(grid[0, 1:-1].diff(), torch.full((13,), 0.5))
    line = position_tables.resized({"t": torch.arange(9.0)[:, None]}, {"t": torch.Size((18, 1))})["t"]
    assert line.shape == (18, 1)
    assert torch.allclose(line[1:-1, 0].diff(), torch.full((15,), 0.5))


def test_a_table_that_interpolation_does_not_fit_is_left_for_the_loader_to_refuse() -> None:
    odd = {"t": torch.zeros(1, 7, 2), "u": torch.zeros(3, 5)}
    kept = position_tables.resized(odd, {"t": torch.Size((1, 16, 2)), "u": torch.Size((3, 4))})
    assert {name: value.shape for name, value in kept.items()} == {name: value.shape for name, value in odd.items()}


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_another_clip_length_are_refused(name: str, tmp_path: Path) -> None:
    torch.save(built(name, **SMALL)[1].state_dict(), tmp_path / "w.pt")
    params = SMALL | {"frames": "8"}
    recipe = deploy_recipes.get(name)
    table = "pos_embed_temporal" if name == "mvit_base" else "rel_pos_t"
    fitted = recipe.fitted(recipe.values(params))
    assert fitted.adapt is not None
    state = dict(fitted.adapt(checkpoint.read(tmp_path / "w.pt")))
    with pytest.raises(DeployError, match=table):
        checkpoint.fit(state, recipe.network(**recipe.values(params)), name)


@pytest.mark.filterwarnings("ignore:Constant folding - Only steps=1 can be constant folded:UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_the_graph_is_plain_products(name: str, tmp_path: Path) -> None:
    recipe = deploy_recipes.get(name)
    fitted = recipe.fitted(recipe.values(recipe.twin))
    (tmp_path / "raw").mkdir()
    (tmp_path / "simple").mkdir()
    loaded = load.load(tmp_path, fitted, name, recipe.twin, "seeded", None)
    graph = simplify.simplify(tmp_path / "simple", export.export(tmp_path / "raw", loaded, fitted), fitted)
    model = onnx.shape_inference.infer_shapes(onnx.load(graph.path))
    ops = {node.op_type for node in model.graph.node}
    assert not ops & {
        "If",
        "Loop",
        "SequenceEmpty",
        "SequenceInsert",
        "Einsum",
        "ScatterND",
        "Range",
        "IsNaN",
        "Resize",
    }
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    wheres = [node.output[0] for node in model.graph.node if node.op_type == "Where"]
    assert all(types[output] == onnx.TensorProto.INT64 for output in wheres)  # the class token's shape


def test_the_relative_rows_are_those_of_the_definition() -> None:
    """With as many keys as queries row i, j is i - j + keys - 1; with fewer keys their steps are longer."""
    table = torch.arange(7.0)[:, None]
    assert mvit_v2.relative(table, 4, 4)[..., 0].tolist() == [[float(i - j + 3) for j in range(4)] for i in range(4)]
    coarse = mvit_v2.relative(table, 4, 2)[..., 0]
    assert coarse.tolist() == [[i + 2.0 - 2.0 * j for j in range(2)] for i in range(4)]
    assert math.prod(coarse.shape) == 8
