"""DenseNet for images. Huang et al., arXiv:1608.06993; architecture and ImageNet weights of torchvision.

DenseNet-264 is in the paper and in no library: it is torchvision's DenseNet with the paper's blocks. The traps: an
image needs 29 pixels, so that the last pooling has 2 x 2 places (MedMNIST's 28 are one short); and the published
weights have key names from before PyTorch forbade dots in them (`denselayer1.norm.1.weight`).
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from deploy_recipes.networks import torchvision_images as images
from deploy_recipes.recipe import Classes, Recipe
from deploy_recipes.resnet import IMAGENET, SIZE
from deploy_runtime.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

STEM, HEAD = "features.conv0", "classifier"
LEAST = 29  # 29 -> 15 -> 8 -> 4 -> 2 -> 1; of 28 the last pooling would get a single place
GROWTH, FIRST = 32, 64  # channels that a layer adds, and that the stem gives
Blocks = tuple[int, int, int, int]  # layers of each of the four
DENSENET_121 = (6, 12, 24, 16)  # layers of its blocks
_OLD_KEY = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


def network(
    blocks: Blocks,
    *,
    num_classes: int,
    channels: int = 3,
    depth: int = 0,
    features: bool = False,
    **_seen_outside: object,  # size and multi_label: the pool adapts, and logits are logits
) -> "nn.Module":
    """Build a DenseNet with so many layers in its `blocks`, for images [batch, channels, size, size].

    It gives logits [batch, num_classes], with `features` also what reaches the classifier, [batch, width]. `depth` is
    the most layers of a block.
    """
    from torchvision.models import DenseNet  # type: ignore[import-untyped]

    net: nn.Module = DenseNet(GROWTH, shortened(blocks, depth), FIRST, num_classes=num_classes)
    return images.finish(net, stem=STEM, channels=channels, head=HEAD, features=features)


def shortened(blocks: Blocks, depth: int) -> Blocks:
    """Return the layers of each block where none has more than `depth`; 0: as published."""
    first, second, third, fourth = (min(layers, depth) if depth else layers for layers in blocks)
    return first, second, third, fourth


def width(blocks: Blocks) -> int:
    """Return the channels that reach the classifier: every layer adds GROWTH, between blocks half of them go on."""
    channels = FIRST
    for layers in blocks[:-1]:
        channels = (channels + layers * GROWTH) // 2
    return channels + blocks[-1] * GROWTH


def pretrained(name: str, *, channels: int = 3, **_params: object) -> Mapping[str, Any]:
    """Return torchvision's ImageNet state dict, under today's key names. Raises OSError without a network."""
    return adapt(images.published(name, stem=STEM, channels=channels))


def adapt(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Translate the key names of torchvision's own weight files: `denselayer1.norm.1.weight` is now `norm1.weight`."""
    return {_OLD_KEY.sub(r"\1\2.", name): value for name, value in state.items()}


def shaped(recipe: Recipe, values: Mapping[str, Any], *, blocks: Blocks) -> Recipe:
    """Fit size, channels, classes and features. Raises UsageError for an image that the halvings use up."""
    if values["size"] < LEAST:
        raise UsageError(
            f"--param size={values['size']} is too small: after four halvings DenseNet pools 2 x 2 places once more",
            f"Give at least {LEAST}: smaller images must be enlarged, as in training.",
        )
    return images.fit(recipe, values, IMAGENET, width(shortened(blocks, values["depth"])))


def model(name: str, parameters: int, blocks: Blocks, **changed: Any) -> Recipe:
    """Return one depth: so many layers in its four blocks."""
    recipe = replace(
        DENSENET,
        name=name,
        parameters=parameters,
        network=partial(network, blocks),
        params=images.params(SIZE, max(blocks), "layers of a block"),
        shaped=partial(shaped, blocks=blocks),
        **{"pretrained": partial(pretrained, name), **changed},
    )
    return recipe.fitted(recipe.values({}))


DENSENET = Recipe(
    name="densenet",
    family="densenet",
    network=network,
    inputs=(),
    outputs=(),
    task=Classes(1000),
    parameters=0,
    source="Huang et al., arXiv:1608.06993; torchvision.models",
    adapt=adapt,
    weights_from="ImageNet-1k (IMAGENET1K_V1), torchvision",
    twin={"depth": "2", "size": "64", "num_classes": "8"},
)

RECIPES = (
    model("densenet121", 7_978_856, DENSENET_121),
    model("densenet169", 14_149_480, (6, 12, 32, 32)),
    model("densenet201", 20_013_928, (6, 12, 48, 32)),
    model(
        "densenet264",
        33_337_704,
        (6, 12, 64, 48),
        source="Huang et al., arXiv:1608.06993, table 1; built from torchvision's DenseNet",
        pretrained=None,
        weights_from="",
    ),
)
