"""CNN-RNN: an image network for each frame of a clip, an LSTM or GRU over the frames.

`cnn_lstm`, `cnn_gru`: one answer a clip (seed document 000, surgical skill). `resnet50_lstm` … `efficientnet_b5_gru`:
one answer a frame (document 001, phases of an operation). networks/cnn_rnn.py says the state-dict names.
The trap: `summary` changes the answer and not one key, so that a checkpoint cannot tell what it was trained with.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from deploy_recipes import efficientnet, resnet
from deploy_recipes.recipe import Classes, Param, Recipe, Tensor
from deploy_runtime.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

FRAMES = 16  # document 001; 000 states none
BACKBONES = {recipe.name: recipe for recipe in (*resnet.RECIPES, *efficientnet.RECIPES)}
UNBUILT = ("frames", "size", "streams")  # values of no layer: the pool adapts, the state is an argument
CARRIED = {"lstm": ("h", "c"), "gru": ("h",)}  # by cell
STREAMS = Param("streams", True, "take frames as they come: carry the state, or the features of a sliding window")
_CELL = re.compile(r"(^|\.)(?:lstm|gru)\.(?=(?:weight|bias)_(?:ih|hh)_l\d)")


def network(cell: str, *, backbone: str, depth: int, channels: int, **values: Any) -> "nn.Module":
    """Build a network for clips [batch, frames, channels, size, size]; networks/cnn_rnn.py says what it gives."""
    from deploy_recipes.networks.cnn_rnn import CNNRNN

    features, frames = values.pop("features"), values["frames"]
    rest = {name: value for name, value in values.items() if name not in UNBUILT}
    return CNNRNN(*encoder(backbone, depth, channels), cell, window=frames, gives_features=features, **rest)  # type: ignore[arg-type]


def encoder(backbone: str, depth: int, channels: int) -> "tuple[nn.Module, int]":
    """Return torchvision's network without its classifier, images [N, channels, H, W] to [N, width], and its width."""
    from torch import nn

    recipe = BACKBONES[backbone]
    net = recipe.network(**recipe.values({"depth": str(depth), "channels": str(channels)}))
    net.set_submodule(resnet.HEAD if recipe.family == "resnet" else efficientnet.HEAD, nn.Identity())
    return net, width(backbone)


def width(backbone: str) -> int:
    """Return how many features a backbone gives of a frame."""
    return int(image(backbone, features=True).outputs[-1].shape[-1])


def image(name: str, **values: Any) -> Recipe:
    """Return the recipe of an image network fitted to some of its parameters. Raises UsageError as it does."""
    recipe = BACKBONES[name]
    return recipe.fitted(recipe.values({key: str(value) for key, value in values.items()}))


def adapt(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Name the recurrent layers `rnn`, which the documents' own modules call `lstm` or `gru`."""
    return {_CELL.sub(r"\1rnn.", name): value for name, value in state.items()}


def fit(recipe: Recipe, values: Mapping[str, Any], backbone: str, scores: Tensor) -> Recipe:
    """Fit what every network over a frame backbone has: clip, preprocessing, `scores` and features as outputs."""
    frames, size, channels = values["frames"], values["size"], values["channels"]
    single = image("resnet50", size=size, channels=channels).preprocess  # its 224 of 256 pixels, whatever the backbone
    assert single is not None
    vectors = Tensor("features", ("batch", frames, width(backbone)), layout="NTC")
    return replace(
        recipe,
        inputs=(Tensor("frames", ("batch", frames, channels, size, size), layout="NTCHW"),),
        outputs=(scores, vectors) if values["features"] else (scores,),
        state=(),
        task=Classes(values["num_classes"], of=("logits",)),
        preprocess=replace(single, layout="TCHW", frames=frames),
        branch_ends=tuple(f"backbone.{end}" for end in image(backbone, depth=values["depth"]).branch_ends),
    )


def shaped(cell: str, recipe: Recipe, values: Mapping[str, Any], backbone: str = "") -> Recipe:
    """Fit clip, classes, state and the outputs beside the logits; `backbone`: of a recipe without such a parameter."""
    if values["attention"] and values.get("summary", "ends") != "ends":
        raise UsageError(
            f"--param summary={values['summary']} says how a clip is summed up, and attention=true sums it up",
            "Leave one of the two out.",
        )
    frames, classes = values["frames"], values["num_classes"]
    clip = "summary" in values
    ahead = values["bidirectional"] or values["attention"] or values.get("summary") == "mean"
    logits = Tensor(
        "logits", ("batch", classes) if clip else ("batch", frames, classes), layout="NC" if clip else "NTC"
    )
    backbone = backbone or values["backbone"]
    fitted = fit(recipe, values, backbone, logits)
    if values["attention"]:
        weights = Tensor("attention_weights", ("batch", frames), layout="NT")
        fitted = replace(fitted, outputs=(logits, weights, *fitted.outputs[1:]))
    if not values["streams"]:
        return fitted
    return windowed(fitted, backbone) if ahead else fitted.carrying(*state(cell, values))


def windowed(recipe: Recipe, backbone: str) -> Recipe:
    """Fit a network that reads later frames too: beside the frames it takes the features of those before them.

    It answers for the last frames, as many as a clip has; only new ones go through the backbone. A clip of one frame
    leaves nothing to remember.
    """
    if recipe.frames == 1:
        return recipe
    answers = tuple(
        tensor if tensor.name == "features" else replace(tensor, layout=tensor.layout.replace("T", "F"))
        for tensor in recipe.outputs
    )
    seen = Tensor("seen", ("batch", recipe.frames - 1, width(backbone)), layout="NFC")
    return replace(recipe, outputs=answers).carrying(seen, window=recipe.frames)


def state(cell: str, values: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Return what the recurrent layers carry from frame to frame."""
    shape = ("batch", values["num_layers"], values["hidden_dim"])
    return tuple(Tensor(name, shape, layout="NLC") for name in CARRIED[cell])


def clip_params(num_classes: int, backbone: str) -> tuple[Param, ...]:
    """Return what every network over a frame backbone lets one set."""
    own = {param.name: param for param in BACKBONES[backbone].params}
    return (
        Param("num_classes", num_classes, "number of classes", range(2, 100_001)),
        Param("frames", FRAMES, "frames of a clip", range(1, 1025)),
        Param("size", resnet.SIZE, "height and width in pixels", own["size"].allowed),
        own["channels"],
        own["depth"],
        Param("features", False, "give the backbone's features of every frame too"),
    )


def rnn_params(*, bidirectional: bool) -> tuple[Param, ...]:
    """Return what the recurrent part lets one set."""
    return (
        Param("hidden_dim", 512, "width of the state, of one direction", range(1, 8193)),
        Param("num_layers", 2, "recurrent layers", range(1, 17)),
        Param("bidirectional", bidirectional, "read the clip backwards too: answers for sliding windows"),
        Param("attention", False, "weigh the frames, give attention_weights too: for sliding windows"),
        STREAMS,
    )


def clip_model(cell: str, parameters: int) -> Recipe:
    """Return document 000's network: one answer a clip, the backbone a parameter."""
    names = tuple(recipe.name for recipe in resnet.RECIPES)
    params = (
        *clip_params(2, names[-1]),
        *rnn_params(bidirectional=True),
        Param("backbone", "resnet50", "the network of a frame", names),
        Param(
            "summary", "ends", "read each direction's final state, the last frame's, the mean", ("ends", "last", "mean")
        ),
    )
    return model(f"cnn_{cell}", cell, parameters, params, twin={**TWIN, "backbone": "resnet18", "frames": "16"})


def frame_model(backbone: str, cell: str, parameters: int) -> Recipe:
    """Return document 001's network: one answer a frame, in one direction."""
    # an EfficientNet's first blocks have no residual, and its INT8 errors need the full state to average out
    twin = TWIN if backbone == "resnet50" else {**TWIN, "frames": "4", "depth": "2", "hidden_dim": "512"}
    return model(
        f"{backbone}_{cell}",
        cell,
        parameters,
        (*clip_params(13, backbone), *rnn_params(bidirectional=False)),
        network=partial(network, cell, backbone=backbone),
        shaped=partial(shaped, cell, backbone=backbone),
        twin=twin,
    )


def model(name: str, cell: str, parameters: int, params: tuple[Param, ...], **changed: Any) -> Recipe:
    """Return one model of the family, fitted to its default parameters."""
    recipe = replace(
        CNN_RNN,
        name=name,
        parameters=parameters,
        params=params,
        source=f"model documents on surgical skill and cataract phases; torchvision backbone, torch.nn.{cell.upper()}",
        **{"network": partial(network, cell), "shaped": partial(shaped, cell), **changed},
    )
    return recipe.fitted(recipe.values({}))


TWIN = {"size": "64", "frames": "6", "depth": "1", "hidden_dim": "256"}

CNN_RNN = Recipe(
    name="cnn_rnn",
    family="cnn_rnn",
    network=network,
    inputs=(),
    outputs=(),
    task=Classes(13),
    parameters=0,
    source="",
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
