"""CNN-RNN: a 2-D network for each frame of a clip, an LSTM or GRU over the frames.

`cnn_lstm`, `cnn_gru`: one answer a clip (seed document 000, surgical skill). `resnet50_lstm` … `efficientnet_b5_gru`:
one answer a frame (document 001, phases of an operation). networks/cnn_rnn.py says the state-dict names.
The trap: `summary` and `bidirectional` change the answer and `summary` not one key, so that a checkpoint cannot tell
what it was trained with.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from deploy_recipes.recipe import Classes, Param, Preprocess, Recipe, Tensor
from deploy_recipes.resnet import IMAGENET, SHORT_SIDE, SIZE
from deploy_runtime.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

FRAMES = 16  # document 001; 000 states none
WIDTHS = {"resnet18": 512, "resnet34": 512, "resnet50": 2048, "resnet101": 2048, "resnet152": 2048}
WIDTHS |= {"efficientnet_b5": 2048}
BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
_CELL = re.compile(r"(^|\.)(?:lstm|gru)\.(?=(?:weight|bias)_(?:ih|hh)_l\d)")


def network(cell: str, *, summary: str = "frames", features: bool, **values: Any) -> "nn.Module":
    """Build a network for clips [batch, frames, channels, size, size]; see networks/cnn_rnn.py for what it gives."""
    from deploy_recipes.networks.cnn_rnn import CNNRNN

    values = {name: value for name, value in values.items() if name not in ("frames", "size")}  # any: the pool adapts
    return CNNRNN(cell=cell, summary=summary, gives_features=features, **values)  # type: ignore[arg-type]


def adapt(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Name the recurrent layers `rnn`, which the documents' own modules call `lstm` or `gru`."""
    return {_CELL.sub(r"\1rnn.", name): value for name, value in state.items()}


def branch_ends(backbone: str) -> tuple[str, ...]:
    """Return the last normalisation of each residual branch of a backbone, inside `backbone`.

    The first block of an EfficientNet's stage has no way around it, so nothing there is damped.
    """
    if backbone.startswith("efficientnet"):
        return ("backbone.features.1.[1-9].block.2.1", "backbone.features.[2-7].[1-9].block.3.1")
    return ("backbone.layer*.bn2",) if backbone in ("resnet18", "resnet34") else ("backbone.layer*.bn3",)


def preprocess(frames: int, size: int, channels: int) -> Preprocess:
    """Return ImageNet's constants for clips; of one channel, the average of the three."""
    mean, std = (
        one if channels == len(one) else (round(sum(one) / len(one), 4),) for one in (IMAGENET.mean, IMAGENET.std)
    )
    side = round(SHORT_SIDE * size / SIZE)
    return replace(IMAGENET, layout="TCHW", frames=frames, crop=(size, size), short_side=side, mean=mean, std=std)


def shaped(recipe: Recipe, values: Mapping[str, Any], backbone: str = "") -> Recipe:
    """Fit clip, classes and the outputs beside the logits. The short side keeps its proportion to the crop.

    `backbone` is that of a recipe that has no parameter for it.
    """
    frames, size, classes, channels = (values[name] for name in ("frames", "size", "num_classes", "channels"))
    backbone = backbone or values["backbone"]
    if values["attention"] and values.get("summary", "ends") != "ends":
        raise UsageError(
            f"--param summary={values['summary']} says how a clip is summed up, and attention=true sums it up",
            "Leave one of the two out.",
        )
    if backbone.startswith("efficientnet") and values["depth"] == 1:
        raise UsageError(
            f"--param depth=1 leaves {backbone} without a residual block: the first of each stage is none",
            "Give 2 or more, or 0 for all of them.",
        )
    clip = "summary" in values
    scores = ("batch", classes) if clip else ("batch", frames, classes)
    outputs = [Tensor("logits", scores, layout="NC" if clip else "NTC")]
    if values["attention"]:
        outputs.append(Tensor("attention_weights", ("batch", frames), layout="NT"))
    if values["features"]:
        outputs.append(Tensor("features", ("batch", frames, WIDTHS[backbone]), layout="NTC"))
    return replace(
        recipe,
        inputs=(Tensor("frames", ("batch", frames, channels, size, size), layout="NTCHW"),),
        outputs=tuple(outputs),
        task=Classes(classes, of=("logits",)),
        preprocess=preprocess(frames, size, channels),
        branch_ends=branch_ends(backbone),
    )


def clip_params(num_classes: int) -> tuple[Param, ...]:
    """Return what every network over a frame backbone lets one set."""
    return (
        Param("num_classes", num_classes, "number of classes", range(2, 100_001)),
        Param("frames", FRAMES, "frames of a clip", range(1, 1025)),
        Param("size", SIZE, "height and width in pixels; five halvings need at least 32", range(32, 1025)),
        Param("channels", 3, "1 for grey frames", (1, 3)),
        Param("depth", 0, "blocks that each stage of the backbone keeps at most; 0 keeps all", range(65)),
        Param("features", False, "also give the backbone's features of every frame, as output `features`"),
    )


def rnn_params(*, bidirectional: bool) -> tuple[Param, ...]:
    """Return what the recurrent part lets one set."""
    return (
        Param("hidden_dim", 512, "width of the recurrent state of one direction", range(1, 8193)),
        Param("num_layers", 2, "recurrent layers", range(1, 17)),
        Param("bidirectional", bidirectional, "read the clip backwards too; not for streams"),
        Param("attention", False, "weigh the frames of the clip; gives output `attention_weights`; not for streams"),
    )


def clip_model(cell: str, parameters: int) -> Recipe:
    """Return document 000's network: one answer a clip, the backbone a parameter."""
    params = (
        *clip_params(2),
        *rnn_params(bidirectional=True),
        Param("backbone", "resnet50", "the network of a frame", BACKBONES),
        Param(
            "summary",
            "ends",
            "what is read of a clip: each direction's final state (ends), the last frame's output (last), the mean",
            ("ends", "last", "mean"),
        ),
    )
    twin = {"backbone": "resnet18", "depth": "1", "size": "32", "frames": "3", "hidden_dim": "16"}
    return model(f"cnn_{cell}", cell, parameters, params, twin, network=partial(network, cell))


def frame_model(backbone: str, cell: str, parameters: int) -> Recipe:
    """Return document 001's network: one answer a frame, in one direction."""
    params = (*clip_params(13), *rnn_params(bidirectional=False))
    depth = "2" if backbone.startswith("efficientnet") else "1"
    twin = {"depth": depth, "size": "32", "frames": "3", "hidden_dim": "16"}
    own = {"network": partial(network, cell, backbone=backbone), "shaped": partial(shaped, backbone=backbone)}
    return model(f"{backbone}_{cell}", cell, parameters, params, twin, **own)


def model(
    name: str, cell: str, parameters: int, params: tuple[Param, ...], twin: Mapping[str, str], **changed: Any
) -> Recipe:
    """Return one model of the family, fitted to its default parameters."""
    source = f"seed documents 000 and 001; torchvision backbone, torch.nn.{cell.upper()}"
    recipe = replace(CNN_RNN, name=name, parameters=parameters, params=params, twin=twin, source=source, **changed)
    return recipe.fitted(recipe.values({}))


CNN_RNN = Recipe(
    name="cnn_rnn",
    family="cnn_rnn",
    network=network,
    inputs=(),
    outputs=(),
    task=Classes(13),
    parameters=0,
    source="",
    shaped=shaped,
    adapt=adapt,
)

RECIPES = (
    clip_model("lstm", 40_303_682),
    clip_model("gru", 36_105_282),
    frame_model("resnet50", "lstm", 30_862_925),
    frame_model("resnet50", "gru", 29_025_869),
    frame_model("efficientnet_b5", "lstm", 35_695_677),
    frame_model("efficientnet_b5", "gru", 33_858_621),
)
