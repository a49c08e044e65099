"""EfficientNet for images. Tan & Le, arXiv:1905.11946; architecture and ImageNet weights of torchvision.

Each model has a native side, at which it was published; any other goes through too. The traps: B5 to B7 normalise with
an epsilon of 0.001 and the others with 0.00001; and torchvision's B2 is shown 288 pixels, where the paper says 260.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from deploy_recipes.networks import torchvision_images as images
from deploy_recipes.recipe import Classes, Keep, Recipe
from deploy_recipes.resnet import IMAGENET

if TYPE_CHECKING:
    from torch import nn

STEM, HEAD = "features.0.0", "classifier"
STAGES = tuple(f"features.{stage}" for stage in range(1, 8))

# The last normalisation of every block but the first of a stage, which has no residual: it changes the width. The
# blocks of stage 1 do not expand, so that theirs comes one place earlier. StochasticDepth does nothing when deployed.
BRANCH_ENDS = tuple(f"features.{stage}.[1-9]*.block.3.1" for stage in range(2, 7))
FIRST_STAGE_ENDS, LAST_STAGE_ENDS = "features.1.[1-9]*.block.2.1", "features.7.[1-9]*.block.3.1"

# TensorRT-RTX computes some of these in float whatever the graph says. They are 0.2 % of B0's multiply-adds, and its
# int8 answer with them in float is 0.1 dB from the one with them in int8.
GATES = Keep("*/fc[12]/Conv", "squeeze and excitation: a gate computed at one place, no time to gain")


def network(
    name: str,
    *,
    num_classes: int,
    channels: int = 3,
    depth: int = 0,
    features: bool = False,
    **_seen_outside: object,  # size and multi_label: the pool adapts, and logits are logits
) -> "nn.Module":
    """Build torchvision's `name` for images [batch, channels, size, size].

    It gives logits [batch, num_classes], with `features` also what reaches the classifier, [batch, width]. `depth`
    keeps the first blocks of each stage.
    """
    from torch import nn
    from torchvision.models import get_model  # type: ignore[import-untyped]

    net: nn.Module = get_model(name, weights=None, num_classes=num_classes)
    for stage in STAGES if depth else ():
        blocks = net.get_submodule(stage)
        assert isinstance(blocks, nn.Sequential)
        net.set_submodule(stage, blocks[:depth])
    return images.finish(net, stem=STEM, channels=channels, head=HEAD, features=features)


def pretrained(name: str, *, channels: int = 3, **_params: object) -> Mapping[str, Any]:
    """Return torchvision's first ImageNet state dict. Raises OSError without a network.

    B1 has a second (IMAGENET1K_V2), trained for other constants (255, bilinear) than the preprocessing here has.
    """
    return images.published(name, stem=STEM, channels=channels)


def shaped(recipe: Recipe, values: Mapping[str, Any], *, ends: tuple[str, ...], **native: Any) -> Recipe:
    """Fit size, channels, classes and features. One block a stage leaves no residual branch."""
    return replace(images.fit(recipe, values, **native), branch_ends=() if values["depth"] == 1 else ends)


def model(
    name: str,
    parameters: int,
    *,
    side: int,
    short_side: int,
    width: int,
    blocks: tuple[int, ...],
    crop: int | None = None,
) -> Recipe:
    """Return one scale of the family.

    side: native, in pixels.    short_side, crop: what torchvision resizes to and cuts for IMAGENET1K_V1.
    width: of what reaches the classifier.    blocks: of the seven stages.
    """
    crop = crop or side
    native = replace(IMAGENET, crop=(crop, crop), short_side=short_side, interpolation="bicubic")
    ends = (FIRST_STAGE_ENDS,) * (blocks[0] > 1) + BRANCH_ENDS + (LAST_STAGE_ENDS,) * (blocks[-1] > 1)
    recipe = replace(
        EFFICIENTNET,
        name=name,
        parameters=parameters,
        network=partial(network, name),
        pretrained=partial(pretrained, name),
        params=images.params(side, max(blocks), "blocks of a stage"),
        shaped=partial(shaped, ends=ends, native=native, width=width),
    )
    return recipe.fitted(recipe.values({}))


EFFICIENTNET = Recipe(
    name="efficientnet",
    family="efficientnet",
    network=network,
    inputs=(),
    outputs=(),
    task=Classes(1000),
    parameters=0,
    source="Tan & Le, arXiv:1905.11946; torchvision.models",
    weights_from="ImageNet-1k (IMAGENET1K_V1), torchvision",
    twin={"depth": "2", "size": "64", "num_classes": "8"},
    keep_float=(GATES,),
)

RECIPES = (
    model("efficientnet_b0", 5_288_548, side=224, short_side=256, width=1280, blocks=(1, 2, 2, 3, 3, 4, 1)),
    model("efficientnet_b1", 7_794_184, side=240, short_side=256, width=1280, blocks=(2, 3, 3, 4, 4, 5, 2)),
    model("efficientnet_b2", 9_109_994, side=260, short_side=288, crop=288, width=1408, blocks=(2, 3, 3, 4, 4, 5, 2)),
    model("efficientnet_b3", 12_233_232, side=300, short_side=320, width=1536, blocks=(2, 3, 3, 5, 5, 6, 2)),
    model("efficientnet_b4", 19_341_616, side=380, short_side=384, width=1792, blocks=(2, 4, 4, 6, 6, 8, 2)),
    model("efficientnet_b5", 30_389_784, side=456, short_side=456, width=2048, blocks=(3, 5, 5, 7, 7, 9, 3)),
    model("efficientnet_b6", 43_040_704, side=528, short_side=528, width=2304, blocks=(3, 6, 6, 8, 8, 11, 3)),
    model("efficientnet_b7", 66_347_960, side=600, short_side=600, width=2560, blocks=(4, 7, 7, 10, 10, 13, 4)),
)
