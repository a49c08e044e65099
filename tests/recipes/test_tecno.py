"""TeCNO: counts, the past and the future, a stream of chunks, what the stages read, the authors' checkpoints."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import deploy_recipes
from deploy_compile import load
from deploy_recipes import Classes, Recipe
from deploy_recipes.networks.tecno import MultiStage, TeCNO
from deploy_runtime.errors import UsageError

NAMES = ("resnet50_tecno", "efficientnet_b5_tecno")
HEAD = 133_434  # two stages of eight layers of 32 maps, 2048 features, 13 classes; document 001 states no count
SMALL = {"depth": "1", "size": "32", "frames": "12", "num_layers": "3"}


def built(name: str, **params: str) -> tuple[Recipe, TeCNO]:
    recipe = deploy_recipes.get(name)
    values = recipe.values(params)
    torch.manual_seed(4)
    net = recipe.network(**values).eval()
    assert isinstance(net, TeCNO)
    return recipe.fitted(values), net


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_the_paper_and_the_document_say(name: str) -> None:
    with torch.device("meta"):
        recipe, net = built(name)
        given = net(torch.empty(recipe.inputs[0].at(2)))
    assert count(net.tcn) == HEAD
    assert count(net) == recipe.parameters == count(net.backbone) + HEAD
    assert list(given.shape) == [2, 16, 13] == list(recipe.outputs[0].at(2))
    assert recipe.task == Classes(13, of=("logits",))
    assert [layer.conv_dilated.dilation for layer in net.tcn.stage1.layers] == [(2**i,) for i in range(8)]  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def features() -> Tensor:
    torch.manual_seed(9)
    return torch.randn(2, 40, 16)


def head(**changed: bool) -> MultiStage:
    torch.manual_seed(4)
    made = {"causal": True, "multi_scale": False, **changed}
    return MultiStage(stages=2, layers=3, maps=8, width=16, num_classes=5, **made).eval()


@torch.inference_mode()
def test_only_a_causal_one_is_blind_to_the_future(features: Tensor) -> None:
    changed = features.clone()
    changed[:, 25:] += 1
    for causal in (True, False):
        tcn = head(causal=causal)
        before, after = (tcn(given.transpose(1, 2))[0][..., :25] for given in (features, changed))
        assert torch.equal(before, after) is causal


@torch.inference_mode()
def test_a_frame_sees_as_far_back_as_the_layers_reach(features: Tensor) -> None:
    """Each stage sees 2·(1 + 2 + 4) frames back, two of them 28."""
    tcn = head()
    whole, _ = tcn(features.transpose(1, 2))
    assert torch.allclose(tcn(features[:, -29:].transpose(1, 2))[0][..., -1], whole[..., -1], atol=1e-6)
    assert not torch.allclose(tcn(features[:, -15:].transpose(1, 2))[0][..., -1], whole[..., -1], atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 7, 40])
@torch.inference_mode()
def test_a_stream_of_chunks_is_the_whole(features: Tensor, chunk: int) -> None:
    """Each layer's past inputs are its state: zeros before the first frame, as its padding is."""
    tcn = head()
    state = [torch.zeros(2, 8, 2 ** (layer + 1)) for _ in range(2) for layer in range(3)]
    said = []
    for part in torch.split(features.transpose(1, 2), chunk, dim=2):
        answer, state = tcn(part, state)
        said.append(answer)
    torch.testing.assert_close(torch.cat(said, dim=2), tcn(features.transpose(1, 2))[0])


@torch.inference_mode()
def test_one_that_reads_later_frames_slides_a_window() -> None:
    recipe = deploy_recipes.get("resnet50_tecno")
    values = recipe.values({"causal": "false", "depth": "1", "size": "32", "frames": "6", "num_layers": "2"})
    fitted, net = recipe.fitted(values), recipe.network(**values).eval()
    assert (fitted.window, fitted.outputs[0].layout) == (6, "NFC")
    film, seen = torch.randn(1, 9, 3, 32, 32), torch.zeros(fitted.inputs[1].at(1))
    for end in range(1, 10):
        logits, seen = net(film[:, end - 1 : end], seen)
        if end >= fitted.window:
            torch.testing.assert_close(logits, net(film[:, end - fitted.window : end]))


@torch.inference_mode()
def test_scales_side_by_side(features: Tensor) -> None:
    plain, scaled = head(), head(multi_scale=True)
    assert scaled.stage1.conv_out_classes.in_channels == 3 * plain.stage1.conv_out_classes.in_channels
    assert scaled(features.transpose(1, 2))[0].shape == plain(features.transpose(1, 2))[0].shape


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"num_layers": "0"}, "num_layers=0 is outside"),
        ({"num_stages": "0"}, "num_stages=0 is outside"),
        ({"causal": "perhaps"}, "neither true nor false"),
        ({"depth": "7"}, "depth=7 is outside"),
        ({"bidirectional": "true"}, "has no parameter 'bidirectional'"),
    ],
)
def test_values_that_the_network_does_not_take_are_refused(params: Mapping[str, str], says: str) -> None:
    recipe = deploy_recipes.get("resnet50_tecno")
    with pytest.raises(UsageError, match=says):
        recipe.fitted(recipe.values(params))


class AuthorsLayer(nn.Module):
    """The paper's layer as its authors wrote it down: padded on both sides, the surplus cut off behind."""

    def __init__(self, dilation: int, maps: int) -> None:
        super().__init__()
        self.cut = 2 * dilation
        self.conv_dilated = nn.Conv1d(maps, maps, 3, padding=self.cut, dilation=dilation)
        self.conv_1x1 = nn.Conv1d(maps, maps, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv_1x1(functional.relu(self.conv_dilated(x))[:, :, : -self.cut])
        return x + found


class AuthorsStage(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_1x1 = nn.Conv1d(width, 32, 1)
        self.layers = nn.ModuleList([AuthorsLayer(2**i, 32) for i in range(3)])
        self.conv_out_classes = nn.Conv1d(32, 13, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_1x1(x)
        for layer in self.layers:
            x = layer(x)
        scores: Tensor = self.conv_out_classes(x)
        return scores


class Authors(nn.Module):
    """Their MultiStageModel: `stage1`, and `stages` on the softmax before."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = AuthorsStage(2048)
        self.stages = nn.ModuleList([AuthorsStage(13)])

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.stages[0](functional.softmax(self.stage1(x), dim=1))
        return scores


@pytest.mark.parametrize("prefix", ["", "backbone.model."])
def test_a_checkpoint_with_the_authors_names_gives_their_answer(prefix: str, tmp_path: Path) -> None:
    recipe, net = built("resnet50_tecno", **SMALL)
    torch.manual_seed(6)
    authors = Authors().eval()
    state = {f"backbone.{name}": value for name, value in net.backbone.state_dict().items()}
    state |= {f"tcn.{name}": value for name, value in authors.state_dict().items()}
    torch.save({"state_dict": {prefix + name: value for name, value in state.items()}}, tmp_path / "best.ckpt")
    (tmp_path / "out").mkdir()
    loaded = load.load(tmp_path / "out", recipe, "resnet50_tecno", SMALL, tmp_path / "best.ckpt", None)
    torch.manual_seed(9)
    frames = torch.randn(recipe.inputs[0].at(2))
    with torch.inference_mode():
        wanted = authors(net.feature_sequence(frames).transpose(1, 2)).transpose(1, 2)
        torch.testing.assert_close(load.module(loaded)(frames), wanted)
