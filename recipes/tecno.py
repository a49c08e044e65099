"""TeCNO: a causal temporal convolution network over a frame backbone, one answer a frame.

Czempiel et al., arXiv:2003.10751; seed document 001's `advanced_tecno_models`. Two stages of eight dilated layers of
32 maps are the authors' (each lets a frame see the 510 before it); networks/tecno.py says the state-dict names.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from deploy_recipes import cnn_rnn
from deploy_recipes.recipe import Classes, Keep, Param, Recipe, Tensor

if TYPE_CHECKING:
    from torch import nn


def network(backbone: str, *, depth: int, channels: int, **values: Any) -> "nn.Module":
    """Build a TeCNO for clips [batch, frames, channels, size, size] that gives logits [batch, frames, num_classes]."""
    from deploy_recipes.networks.tecno import TeCNO

    features, frames = values.pop("features"), values["frames"]
    rest = {name: value for name, value in values.items() if name not in cnn_rnn.UNBUILT}
    return TeCNO(*cnn_rnn.encoder(backbone, depth, channels), window=frames, gives_features=features, **rest)


def shaped(backbone: str, recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Fit clip, classes and features."""
    logits = Tensor("logits", ("batch", values["frames"], values["num_classes"]), layout="NTC")
    fitted = cnn_rnn.fit(recipe, values, backbone, logits)
    if not values["streams"]:
        return fitted
    return fitted.carrying(*state(values)) if values["causal"] else cnn_rnn.windowed(fitted, backbone)


def state(values: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Return the last inputs of every dilated layer, as many as it looks back."""
    return tuple(
        Tensor(f"state_s{stage}_l{layer}", ("batch", values["maps"], 2 ** (layer + 1)), layout="NCK")
        for stage in range(1, values["num_stages"] + 1)
        for layer in range(values["num_layers"])
    )


def model(backbone: str, parameters: int, **twin: str) -> Recipe:
    """Return TeCNO over one backbone. `twin`: what its twin has beside small frames."""
    recipe = replace(
        TECNO,
        name=f"{backbone}_tecno",
        network=partial(network, backbone),
        shaped=partial(shaped, backbone),
        parameters=parameters,
        params=(*cnn_rnn.clip_params(13, backbone), *TECNO.params),
        twin={**TECNO.twin, **twin},
    )
    return recipe.fitted(recipe.values({}))


TECNO = Recipe(
    name="tecno",
    family="tecno",
    network=network,
    inputs=(),
    outputs=(),
    task=Classes(13),
    parameters=0,
    source="Czempiel et al., TeCNO, arXiv:2003.10751; torchvision backbone",
    params=(
        Param("num_stages", 2, "stages, each refining the one before it", range(1, 11)),
        Param("num_layers", 8, "dilated layers of a stage: the last looks 2^num_layers frames back", range(1, 15)),
        Param("maps", 32, "channels of a stage", range(1, 2049)),
        Param("causal", True, "no frame's answer depends on a later frame; false: for sliding windows"),
        cnn_rnn.STREAMS,
        Param("multi_scale", False, "classify the outputs of all layers side by side, not only their sum"),
    ),
    keep_float=(
        Keep(
            "/tcn/*",
            "one vector a frame, less than a ten-thousandth of the arithmetic: no time to gain, and each layer would "
            "add its rounding to the stream that all later ones read",
        ),
    ),
    keep_fp32=(
        Keep(
            "/tcn/*",
            "a stage reads the probabilities of the one before, and fp16's step is 6e-5 where 13 classes are all but "
            "even; less than a ten-thousandth of the arithmetic, so no time to gain",
        ),
    ),
    twin={"size": "64"},
)

RECIPES = (
    model("resnet50", 23_641_466, depth="1"),
    model("efficientnet_b5", 28_474_218, depth="2", frames="4"),
)
