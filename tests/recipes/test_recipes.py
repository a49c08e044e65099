"""Recipes are found by folder, named with help, and say the truth about their networks."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import deploy_recipes
from deploy_recipes import Classes, MultiLabel, Recipe
from deploy_runtime.errors import DeployError, UsageError
from deploy_runtime.preprocess import prepare_inputs

NAMES = deploy_recipes.names()


ALL = {
    "chest_xray": ("chexnet", "raddino", "custom_1"),
    "cnn_rnn": (
        "cnn_lstm", "cnn_gru", "resnet50_lstm", "resnet50_gru", "efficientnet_b5_lstm", "efficientnet_b5_gru",
    ),
    "densenet": ("densenet121", "densenet169", "densenet201", "densenet264"),
    "efficientnet": tuple(f"efficientnet_b{i}" for i in range(8)),
    "longitudinal": (
        "longitudinal_mim_big", "longitudinal_mim", "masked_reconstruction", "cxr_classification",
        "patchgan_discriminator",
    ),
    "mvit": ("mvit_base", "mvit_v2_s"),
    "r2plus1d": ("r2plus1d_r18", "r2plus1d_r34", "r2plus1d_r50"),
    "resnet": ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    "slowfast": ("slowfast_r50", "slowfast_r101"),
    "tecno": ("resnet50_tecno", "efficientnet_b5_tecno"),
    "video_transformers": ("videomae_base", "timesformer_base", "vivit_base", "vivit_base_joint"),
    "vit": ("vit_base_patch16_224", "vit_large_patch16_224", "vit_huge_patch14_224"),
    "x3d": ("x3d_xs", "x3d_s", "x3d_m", "x3d_l"),
}  # fmt: skip


def test_the_families_are_found() -> None:
    found: dict[str, tuple[str, ...]] = {}
    for name in NAMES:
        family = deploy_recipes.get(name).family
        found[family] = (*found.get(family, ()), name)
    assert found == ALL


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("vit_base", "vit_base_patch16_224"), ("vit_large", "vit_large_patch16_224"),
        ("vit_huge", "vit_huge_patch14_224"), ("custom1", "custom_1"),
    ],
)  # fmt: skip
def test_a_model_is_found_under_its_other_name(alias: str, name: str) -> None:
    assert deploy_recipes.get(alias).name == name


def test_looking_at_recipes_loads_no_torch() -> None:
    code = "import sys, deploy_recipes as r; [r.get(n) for n in r.names()]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def shapes(recipe: Recipe, values: Mapping[str, Any]) -> tuple[nn.Module, list[list[int]]]:
    """Return the network and the shapes of its answers at batch 2, computed without memory."""
    with torch.device("meta"):
        net = recipe.network(**values).eval()
        given = net(*(torch.empty(tensor.at(2)) for tensor in recipe.inputs))
    return net, [list(answer.shape) for answer in (given if isinstance(given, tuple) else (given,))]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_the_truth_about_its_network(name: str) -> None:
    recipe = deploy_recipes.get(name)
    net, given = shapes(recipe, recipe.values({}))
    assert sum(parameter.numel() for parameter in net.parameters()) == recipe.parameters
    assert given == [list(tensor.at(2)) for tensor in recipe.outputs]
    again = recipe.fitted(recipe.values({}))
    assert (again.inputs, again.outputs, again.task) == (recipe.inputs, recipe.outputs, recipe.task)
    assert again.preprocess == recipe.preprocess
    tensors = (*recipe.inputs, *recipe.outputs)
    assert all(tensor.shape[0] == "batch" and len(tensor.layout) == len(tensor.shape) for tensor in tensors)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("twin", [False, True], ids=["full", "twin"])
def test_preprocessing_gives_what_the_network_takes(name: str, twin: bool) -> None:
    recipe = deploy_recipes.get(name)
    recipe = recipe.fitted(recipe.values(recipe.twin if twin else {}))
    how = recipe.preprocess
    assert how is not None
    side = (how.short_side or max(how.crop)) + 3
    frames: Any = np.zeros((side, side + 5, 3), np.uint8)
    if how.frames is not None:
        frames = np.zeros((how.frames + 1, *frames.shape), np.uint8)
    if len(recipe.data_inputs) > 1 and not how.pathways:
        frames = {tensor.name: frames for tensor in recipe.data_inputs}
    made = prepare_inputs(frames, how, recipe.data_inputs)
    assert {name: array.shape for name, array in made.items()} == {t.name: t.at(1)[1:] for t in recipe.data_inputs}


@pytest.mark.parametrize("name", NAMES)
def test_the_twin_fits_its_parameters_and_is_small(name: str) -> None:
    recipe = deploy_recipes.get(name)
    values = recipe.values(recipe.twin)
    net, given = shapes(recipe.fitted(values), values)
    assert given == [list(tensor.at(2)) for tensor in recipe.fitted(values).outputs]
    assert sum(parameter.numel() for parameter in net.parameters()) < max(recipe.parameters * 0.6, 1e6)


STREAMS = [name for name in NAMES if deploy_recipes.get(name).streams]


@pytest.mark.parametrize("name", STREAMS)
@torch.inference_mode()
def test_chunks_with_the_state_carried_on_are_the_whole_clip(name: str) -> None:
    """A stream of unequal chunks, from a state that is neither zero nor equal in any two tensors."""
    recipe = deploy_recipes.get(name)
    few = {"num_layers": "3"} if recipe.family == "tecno" else {}  # of its layers; those of a cell take no time
    values = recipe.values({**recipe.twin, "frames": "6", "size": "32", "depth": "1", **few})
    recipe = recipe.fitted(values)
    torch.manual_seed(5)
    net = recipe.network(**values).eval()
    given = [torch.randn(tensor.at(2)) for tensor in recipe.inputs]
    logits, *whole = net(*given)
    state, said = given[1:], []
    for chunk in torch.split(given[0], [1, 3, 2], dim=1):
        part, *state = net(chunk, *state)
        said.append(part)
    answer = said[-1] if recipe.window else torch.cat(said, dim=1)  # of a window, after its last frame
    torch.testing.assert_close(answer, logits, atol=1e-5, rtol=1e-4)
    for found, wanted in zip(state, whole, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    zeros = [torch.zeros_like(tensor) for tensor in given[1:]]
    torch.testing.assert_close(net(given[0], *zeros)[0], net(given[0]))  # the initial state is the one left out


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_names_its_state_and_is_a_parameter(name: str) -> None:
    recipe = deploy_recipes.get(name)
    inputs, outputs = ({tensor.name: tensor for tensor in tensors} for tensors in (recipe.inputs, recipe.outputs))
    for state in recipe.state:
        assert inputs[state.input].shape == outputs[state.output].shape
        assert inputs[state.input].shape[0] == "batch"
        assert "T" not in inputs[state.input].layout
    assert recipe.graph_shape(recipe.inputs[0])[:2] == ("batch", "time")
    whole = recipe.fitted(recipe.values({"streams": "false"}))
    assert (whole.streams, whole.inputs, whole.outputs) == (False, recipe.data_inputs, recipe.data_outputs)


def test_a_clip_score_streams_where_it_is_read_at_the_last_frame() -> None:
    recipe = deploy_recipes.get("cnn_gru")
    assert recipe.fitted(recipe.values({"bidirectional": "false"})).streams


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("cnn_gru", {}),
        ("cnn_lstm", {"bidirectional": "false", "summary": "mean"}),
        ("resnet50_lstm", {"bidirectional": "true"}),
        ("resnet50_gru", {"attention": "true"}),
        ("resnet50_tecno", {"causal": "false"}),
    ],
)
def test_what_reads_later_frames_slides_a_window(name: str, params: dict[str, str]) -> None:
    recipe = deploy_recipes.get(name)
    fitted = recipe.fitted(recipe.values(params))
    assert fitted.window == fitted.frames
    assert not any("T" in tensor.layout for tensor in fitted.data_outputs)


WITH_CLASSES = [name for name in NAMES if "num_classes" in {param.name for param in deploy_recipes.get(name).params}]
WITH_FEATURES = [name for name in NAMES if "features" in {param.name for param in deploy_recipes.get(name).params}]


@pytest.mark.parametrize("name", WITH_CLASSES)
def test_another_number_of_classes(name: str) -> None:
    recipe = deploy_recipes.get(name)
    values = recipe.values({**recipe.twin, "num_classes": "3"})
    fitted = recipe.fitted(values)
    assert shapes(fitted, values)[1][0][-1] == 3
    assert isinstance(fitted.task, (Classes, MultiLabel))
    assert fitted.task.count == 3


@pytest.mark.parametrize("name", WITH_FEATURES)
def test_features_are_an_output_beside_the_answer(name: str) -> None:
    recipe = deploy_recipes.get(name)
    given = {**recipe.twin, "features": "true"} | ({"num_classes": "3"} if name == "raddino" else {})
    values = recipe.values(given)
    fitted = recipe.fitted(values)
    assert fitted.data_outputs[-1].name == "features"
    assert shapes(fitted, values)[1] == [list(tensor.at(2)) for tensor in fitted.outputs]
    assert isinstance(fitted.task, (Classes, MultiLabel))
    assert fitted.task.of == (fitted.outputs[0].name,)


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
