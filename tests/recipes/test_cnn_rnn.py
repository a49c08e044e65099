"""CNN-RNN: counts, what the classifier reads, frames by themselves, checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import get_model  # type: ignore[import-untyped]

import deploy_recipes
from deploy_compile import checkpoint, load
from deploy_recipes import Classes, Recipe
from deploy_recipes.networks.cnn_rnn import CNNRNN
from deploy_runtime.errors import DeployError, UsageError

RNNS = ("cnn_lstm", "cnn_gru", "resnet50_lstm", "resnet50_gru", "efficientnet_b5_lstm", "efficientnet_b5_gru")

# Millions: what document 001's table says, and what its own specification gives (FEATURE_DIM 2048, RNN_HIDDEN_SIZE
# 512, RNN_LAYERS 2, NUM_CLASSES 13, the LSTMTemporalModel that it prints). No reading fits all four of the table:
# bidirectional gives 40.3, 36.1, 45.1, 40.9; a hidden size of 1024 44.5, 39.3, 49.3, 44.1. Its LSTM has 1.4 M more
# than its GRU, where a third of an LSTM of these sizes is 1.84; its B5 7.1 M more than its ResNet-50, where it is 4.83.
TABLE_AND_SPECIFIED = {
    "resnet50_lstm": (45.2, 30.862925),
    "resnet50_gru": (43.8, 29.025869),
    "efficientnet_b5_lstm": (52.3, 35.695677),
    "efficientnet_b5_gru": (50.9, 33.858621),
}
BACKBONES = {"resnet18": 21_680_706, "resnet34": 31_788_866, "resnet101": 59_295_810, "resnet152": 74_939_458}
SMALL = {"depth": "1", "size": "32", "frames": "5", "hidden_dim": "8"}


def built(name: str, **params: str) -> tuple[Recipe, CNNRNN]:
    recipe = deploy_recipes.get(name)
    values = recipe.values(params)
    torch.manual_seed(4)
    net = recipe.network(**values).eval()
    assert isinstance(net, CNNRNN)
    return recipe.fitted(values), net


def small(name: str, **params: str) -> tuple[Recipe, CNNRNN]:
    backbone = {} if name.startswith(("resnet", "efficientnet")) else {"backbone": "resnet18"}
    return built(name, **{**SMALL, **backbone, **params})


def clip(recipe: Recipe, batch: int = 2) -> Tensor:
    torch.manual_seed(9)
    return torch.randn(recipe.inputs[0].at(batch))


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("name", TABLE_AND_SPECIFIED)
def test_the_count_is_that_of_the_specification_and_not_of_the_table(name: str) -> None:
    table, specified = TABLE_AND_SPECIFIED[name]
    with torch.device("meta"):
        recipe, net = built(name)
    assert count(net) == recipe.parameters == round(specified * 1e6)
    assert table > 1.4 * specified
    backbone = get_model("resnet50" if name.startswith("resnet") else "efficientnet_b5", weights=None)
    gates, hidden, classes = (4 if name.endswith("lstm") else 3), 512, 13
    recurrent = sum(gates * hidden * (wide + hidden + 2) for wide in (2048, hidden))
    assert count(net) == count(backbone) - (2048 + 1) * 1000 + recurrent + (hidden + 1) * classes


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_has_its_count(backbone: str) -> None:
    with torch.device("meta"):
        assert count(built("cnn_lstm", backbone=backbone)[1]) == BACKBONES[backbone]


@pytest.mark.parametrize("name", RNNS)
def test_it_gives_what_the_document_says(name: str) -> None:
    recipe = deploy_recipes.get(name)
    clips = name.startswith("cnn")
    assert recipe.inputs[0].shape == ("batch", 16, 3, 224, 224)
    assert recipe.outputs[0].shape == (("batch", 2) if clips else ("batch", 16, 13))
    assert recipe.task == Classes(2 if clips else 13, of=("logits",))
    how = recipe.preprocess
    assert how is not None
    assert (how.layout, how.frames, how.crop, how.short_side) == ("TCHW", 16, (224, 224), 256)
    assert how.mean == (0.485, 0.456, 0.406)
    with torch.device("meta"):
        rnn = built(name)[1].rnn
    assert (rnn.hidden_size, rnn.num_layers, rnn.bidirectional) == (512, 2, clips)


@pytest.mark.parametrize("name", ["cnn_gru", "resnet50_lstm"])
@torch.inference_mode()
def test_attention_weighs_the_frames_in_an_output_of_its_own(name: str) -> None:
    recipe, net = small(name, attention="true", features="true", frames="13")
    assert [tensor.name for tensor in recipe.outputs] == [
        "logits", "attention_weights", "features", "seen_next",
    ]  # fmt: skip
    assert recipe.task == Classes(net.classifier.out_features, of=("logits",))  # 13 frames are not 13 classes
    logits, weights, features = net(clip(recipe))
    outputs, _ = net.rnn(features)
    context = torch.einsum("bt,btw->bw", weights, outputs)
    read = context if name.startswith("cnn") else outputs + context[:, None]
    assert [list(value.shape) for value in (logits, weights, features)] == [list(t.at(2)) for t in recipe.data_outputs]
    torch.testing.assert_close(weights.sum(1), torch.ones(2))
    torch.testing.assert_close(net.classifier(read), logits)


@torch.inference_mode()
def test_what_is_read_of_a_clip() -> None:
    recipe, net = small("cnn_lstm")
    frames = clip(recipe)
    outputs, (final, _) = net.rnn(net.feature_sequence(frames))
    assert recipe.outputs[0].shape == ("batch", 2)
    torch.testing.assert_close(net(frames), net.classifier(torch.cat([final[-2], final[-1]], dim=-1)))
    for summary, read in (("last", outputs[:, -1]), ("mean", outputs.mean(1))):
        _, other = small("cnn_lstm", summary=summary)
        other.load_state_dict(net.state_dict())
        torch.testing.assert_close(other(frames), net.classifier(read))
    ends, last = (small("cnn_lstm", summary=summary, bidirectional="false")[1] for summary in ("ends", "last"))
    assert torch.equal(ends(frames), last(frames))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("cnn_lstm", {}),
        ("cnn_gru", {"bidirectional": "false", "summary": "mean"}),
        ("resnet50_gru", {"attention": "true"}),
        ("resnet50_lstm", {"bidirectional": "true"}),
    ],
)
@pytest.mark.parametrize("hop", [1, 2, 5])
@torch.inference_mode()
def test_a_window_that_slides_gives_what_each_window_gives(name: str, params: Mapping[str, str], hop: int) -> None:
    """Only new frames go through the backbone: the features of those before are the state."""
    recipe, net = small(name, **params)
    assert recipe.window == 5
    assert [tensor.name for tensor in recipe.inputs] == ["frames", "seen"]
    film, seen = torch.randn(2, 20, 3, 32, 32), torch.zeros(recipe.inputs[1].at(2))
    for end in range(hop, 21, hop):
        *answers, seen = net(film[:, end - hop : end], seen)
        if end >= recipe.window:
            whole = net(film[:, end - recipe.window : end])
            torch.testing.assert_close(answers[0], whole[0] if isinstance(whole, tuple) else whole)


def test_a_window_of_one_frame_remembers_nothing() -> None:
    assert not small("cnn_lstm", frames="1")[0].state
    assert not small("cnn_lstm", streams="false")[0].state
    assert small("resnet50_lstm")[0].window == 0


@torch.inference_mode()
def test_a_frame_is_looked_at_by_itself() -> None:
    recipe, net = small("resnet50_gru")
    frames = clip(recipe)
    features = net.features(frames)
    assert features.shape == (2 * 5, 2048)
    torch.testing.assert_close(features[7:8], net.backbone(frames[1, 2][None]))
    _, with_features = small("resnet50_gru", features="true")
    with_features.load_state_dict(net.state_dict())
    assert torch.equal(with_features(frames)[1], features.reshape(2, 5, 2048))


@pytest.mark.parametrize(
    ("name", "params", "says"),
    [
        ("cnn_lstm", {"attention": "true", "summary": "mean"}, "attention=true sums it up"),
        ("cnn_lstm", {"backbone": "resnet20"}, "backbone=resnet20 is not one of its values"),
        ("cnn_lstm", {"backbone": "resnet18", "depth": "3"}, "depth=3 is outside"),
        ("resnet50_gru", {"backbone": "resnet18"}, "has no parameter 'backbone'"),
        ("resnet50_gru", {"summary": "mean"}, "has no parameter 'summary'"),
        ("resnet50_gru", {"frames": "0"}, "frames=0 is outside"),
        ("efficientnet_b5_gru", {"num_layers": "0"}, "num_layers=0 is outside"),
    ],
)
def test_values_that_the_network_does_not_take_are_refused(name: str, params: Mapping[str, str], says: str) -> None:
    recipe = deploy_recipes.get(name)
    with pytest.raises(UsageError, match=says):
        recipe.fitted(recipe.values(params))


def test_grey_frames_and_one_layer() -> None:
    recipe, net = small("efficientnet_b5_lstm", channels="1", num_layers="1", depth="2")
    assert recipe.inputs[0].shape == ("batch", 5, 1, 32, 32)
    assert recipe.preprocess is not None
    assert len(recipe.preprocess.mean) == 1
    with torch.inference_mode():
        assert net(clip(recipe)).shape == (2, 5, 13)


def test_branch_ends_are_those_of_the_backbone() -> None:
    names = {name for name, _ in small("efficientnet_b5_gru", depth="2")[1].named_modules()}
    for backbone, end in (("resnet18", "bn2"), ("resnet101", "bn3")):
        recipe = deploy_recipes.get("cnn_gru")
        assert recipe.fitted(recipe.values({"backbone": backbone})).branch_ends == (f"backbone.layer*.{end}",)
    assert all(end.startswith("backbone.features.") for end in deploy_recipes.get("efficientnet_b5_gru").branch_ends)
    assert "backbone.features.7.1.block.3.1" in names


class Document(nn.Module):
    """Document 001's network as it prints it: torchvision's backbone, its own `lstm` or `gru`, a linear classifier."""

    def __init__(self, cell: str) -> None:
        super().__init__()
        self.backbone = get_model("resnet50", weights=None)
        self.backbone.fc = nn.Identity()
        for stage in ("layer1", "layer2", "layer3", "layer4"):
            blocks = getattr(self.backbone, stage)
            setattr(self.backbone, stage, blocks[:1])
        kind = nn.LSTM if cell == "lstm" else nn.GRU
        setattr(self, cell, kind(2048, 8, 2, batch_first=True, dropout=0.3))
        self.cell, self.classifier = cell, nn.Linear(8, 13)

    def forward(self, frames: Tensor) -> Tensor:
        features = self.backbone(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        scores: Tensor = self.classifier(getattr(self, self.cell)(features)[0])
        return scores


def wrapped(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(("cell", "prefix"), [("lstm", ""), ("lstm", "model.module."), ("gru", "backbone.")])
def test_the_documents_checkpoint_gives_its_own_answer(cell: str, prefix: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    document = Document(cell).eval()
    training: dict[str, Any] = {"epoch": 3, "model_state_dict": wrapped(document.state_dict(), prefix)}
    torch.save(training, tmp_path / "best.pt")
    name = f"resnet50_{cell}"
    recipe, net = small(name)
    (tmp_path / "out").mkdir()
    loaded = load.load(tmp_path / "out", recipe, name, SMALL, tmp_path / "best.pt", None)
    frames = clip(recipe)
    with torch.inference_mode():
        torch.testing.assert_close(load.module(loaded)(frames), document(frames))
    assert loaded.parameters == count(net)


def test_own_checkpoints_load_although_backbone_is_a_wrappers_name_too(tmp_path: Path) -> None:
    _, net = small("cnn_gru", attention="true")
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    _, other = small("cnn_gru", attention="true")
    other.load_state_dict(checkpoint.fit(checkpoint.read(tmp_path / "net.safetensors"), other, "net"))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items())
    assert {name.split(".")[0] for name in net.state_dict()} == {"backbone", "rnn", "attention", "classifier"}


def test_the_wrong_checkpoint_says_what_differs(tmp_path: Path) -> None:
    gru, net = small("resnet50_gru", num_classes="7")
    torch.save(net.state_dict(), tmp_path / "seven.pt")
    with pytest.raises(DeployError) as raised:
        load.load(tmp_path, gru, "resnet50_gru", SMALL, tmp_path / "seven.pt", None)
    assert "--param num_classes=7" in raised.value.fix
    _, lstm = small("resnet50_lstm", num_classes="7")
    with pytest.raises(DeployError, match=r"rnn.weight_ih_l0 is \[24, 2048\] and should be \[32, 2048\]"):
        checkpoint.fit(net.state_dict(), lstm, "weights of a GRU")
