"""TeCNO: a causal temporal convolution network over a frame backbone, one answer a frame.

Czempiel et al., arXiv:2003.10751; seed document 001's `advanced_tecno_models`. Two stages of eight dilated layers of
32 maps are the authors' (a frame sees the 510 before it); networks/tecno.py says the state-dict names.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from deploy_recipes import cnn_rnn
from deploy_recipes.recipe import Classes, Param, Recipe

if TYPE_CHECKING:
    from torch import nn


def network(backbone: str, *, features: bool, **values: Any) -> "nn.Module":
    """Build a TeCNO for clips [batch, frames, channels, size, size] that gives logits [batch, frames, num_classes]."""
    from deploy_recipes.networks.tecno import TeCNO

    values = {name: value for name, value in values.items() if name not in ("frames", "size")}  # any: the pool adapts
    return TeCNO(backbone, gives_features=features, **values)


def shaped(backbone: str, recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Fit clip, classes and the features beside the logits, as for the recurrent networks."""
    return cnn_rnn.shaped(recipe, {**values, "attention": False}, backbone)


def model(backbone: str, parameters: int, depth: int) -> Recipe:
    """Return TeCNO over one backbone; `depth` is that of the twin's."""
    recipe = replace(
        TECNO,
        name=f"{backbone}_tecno",
        network=partial(network, backbone),
        shaped=partial(shaped, backbone),
        parameters=parameters,
        twin={**TECNO.twin, "depth": str(depth)},
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
    source="Czempiel et al., TeCNO, arXiv:2003.10751; seed document 001; torchvision backbone",
    params=(
        *cnn_rnn.clip_params(13),
        Param("num_stages", 2, "stages, each refining the one before it", range(1, 11)),
        Param("num_layers", 8, "dilated layers of a stage: the last looks 2^num_layers frames back", range(1, 15)),
        Param("maps", 32, "channels of a stage", range(1, 2049)),
        Param("causal", True, "no frame's answer depends on a later frame; false is not for streams"),
        Param("multi_scale", False, "classify the outputs of all layers side by side, not only their sum"),
    ),
    twin={"size": "32", "frames": "3", "num_layers": "2", "maps": "16"},
)

RECIPES = (
    model("resnet50", 23_641_466, depth=1),
    model("efficientnet_b5", 28_474_218, depth=2),
)
