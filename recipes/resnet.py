"""ResNet for images. He et al., arXiv:1512.03385; architecture and ImageNet weights of torchvision."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from deploy_recipes.recipe import Classes, Param, Preprocess, Recipe, Tensor

if TYPE_CHECKING:
    from torch import nn

SIZE = 224
SHORT_SIDE = 256  # of a 224 crop, as torchvision's ImageClassification transform has it for IMAGENET1K_V1

IMAGENET = Preprocess(
    crop=(SIZE, SIZE),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    layout="CHW",
    short_side=SHORT_SIDE,
)


def network(name: str, *, num_classes: int, size: int) -> "nn.Module":  # noqa: ARG001 (any size: the pool adapts)
    """Build torchvision's `name` for images [batch, 3, size, size] that gives logits [batch, num_classes]."""
    from torchvision.models import get_model  # type: ignore[import-untyped]

    net: nn.Module = get_model(name, weights=None, num_classes=num_classes)
    return net


def pretrained(name: str, **_params: object) -> Mapping[str, Any]:
    """Return torchvision's first ImageNet state dict. Raises OSError without a network.

    The second (IMAGENET1K_V2) was trained for a short side of 232 and is not what the preprocessing here says.
    """
    from torchvision.models import get_model_weights

    state: Mapping[str, Any] = get_model_weights(name)["IMAGENET1K_V1"].get_state_dict(progress=True)
    return state


def shaped(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Fit image size and number of classes. The short side keeps its proportion to the crop."""
    size, classes = values["size"], values["num_classes"]
    return replace(
        recipe,
        inputs=(Tensor("image", ("batch", 3, size, size), layout="NCHW"),),
        outputs=(Tensor("logits", ("batch", classes), layout="NC"),),
        task=Classes(classes),
        preprocess=replace(IMAGENET, crop=(size, size), short_side=round(SHORT_SIDE * size / SIZE)),
    )


def model(name: str, parameters: int, branch_end: str) -> Recipe:
    """Return one depth; `branch_end` is the last normalisation of its blocks."""
    return replace(
        RESNET,
        name=name,
        parameters=parameters,
        network=partial(network, name),
        pretrained=partial(pretrained, name),
        branch_ends=(f"layer*.{branch_end}",),
    )


RESNET = shaped(
    Recipe(
        name="resnet",
        family="resnet",
        network=network,
        inputs=(),
        outputs=(),
        task=Classes(1000),
        parameters=0,
        source="He et al., arXiv:1512.03385; torchvision.models",
        params=(
            Param("num_classes", 1000, "number of classes", range(2, 100_001)),
            Param("size", SIZE, "height and width in pixels; five halvings need at least 32", range(32, 2049)),
        ),
        shaped=shaped,
        weights_from="ImageNet-1k (IMAGENET1K_V1), torchvision",
    ),
    {"num_classes": 1000, "size": SIZE},
)

RECIPES = (
    model("resnet18", 11_689_512, "bn2"),
    model("resnet34", 21_797_672, "bn2"),
    model("resnet50", 25_557_032, "bn3"),
    model("resnet101", 44_549_160, "bn3"),
    model("resnet152", 60_192_808, "bn3"),
)
