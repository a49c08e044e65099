"""ResNet for images. He et al., arXiv:1512.03385; architecture and ImageNet weights of torchvision.

Any image of 1 pixel and more goes through, also 28 x 28 (MedMNIST): five stages halve, each rounding up. timm's
checkpoints of the same names have the same keys.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from deploy_recipes.networks import torchvision_images as images
from deploy_recipes.recipe import Classes, Preprocess, Recipe

if TYPE_CHECKING:
    from torch import nn

SIZE = 224
SHORT_SIDE = 256  # of a 224 crop, as torchvision's ImageClassification transform has it for IMAGENET1K_V1
STEM, HEAD = "conv1", "fc"
STAGES = ("layer1", "layer2", "layer3", "layer4")

IMAGENET = Preprocess(
    crop=(SIZE, SIZE),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    layout="CHW",
    short_side=SHORT_SIDE,
)


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

    It gives logits [batch, num_classes], with `features` also what reaches `fc`, [batch, 512 or 2048]. `depth` keeps
    the first blocks of each stage.
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

    The second (IMAGENET1K_V2) was trained for a short side of 232 and is not what the preprocessing here says.
    """
    return images.published(name, stem=STEM, channels=channels)


def model(name: str, parameters: int, *, branch_end: str, width: int, deepest: int, twin_depth: int) -> Recipe:
    """Return one depth.

    branch_end: the last normalisation of its blocks.    width: of what reaches the classifier.
    deepest: blocks of its longest stage.    twin_depth: so many that a block without a projection is among them.
    """
    recipe = replace(
        RESNET,
        name=name,
        parameters=parameters,
        network=partial(network, name),
        pretrained=partial(pretrained, name),
        params=images.params(SIZE, deepest, "blocks of a stage"),
        shaped=partial(images.fit, native=IMAGENET, width=width),
        branch_ends=(f"layer*.{branch_end}",),
        twin={"depth": str(twin_depth), "size": "64", "num_classes": "8"},
    )
    return recipe.fitted(recipe.values({}))


RESNET = Recipe(
    name="resnet",
    family="resnet",
    network=network,
    inputs=(),
    outputs=(),
    task=Classes(1000),
    parameters=0,
    source="He et al., arXiv:1512.03385; torchvision.models",
    weights_from="ImageNet-1k (IMAGENET1K_V1), torchvision",
)

basic = partial(model, branch_end="bn2", width=512, twin_depth=1)
bottleneck = partial(model, branch_end="bn3", width=2048, twin_depth=2)

RECIPES = (
    basic("resnet18", 11_689_512, deepest=2),
    basic("resnet34", 21_797_672, deepest=6),
    bottleneck("resnet50", 25_557_032, deepest=6),
    bottleneck("resnet101", 44_549_160, deepest=23),
    bottleneck("resnet152", 60_192_808, deepest=36),
)
