"""Vision transformers for images. Dosovitskiy et al., arXiv:2010.11929; architecture and weights of timm.

`--param num_classes=0` leaves the classifier out, as in timm: the features are then the only output. The trap: the
position table has a row a patch, so weights fit only the `size` that they were trained with.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from deploy_recipes.recipe import Classes, Features, Param, Preprocess, Recipe, Tensor
from deploy_runtime.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

SIZE = 224
LARGEST = 1024  # pixels a side; attention grows with its fourth power
CROP_SHARE = 0.9  # crop_pct: the short side is the crop divided by this, cut to a whole number
MIDDLE = 0.5  # mean and standard deviation of every channel: values from -1 to 1

# The checkpoints that timm takes for these names: their pretrained_cfg states size, mean, std, bicubic and crop_pct.
PUBLISHED = {
    "vit_base_patch16_224": "augreg2_in21k_ft_in1k",
    "vit_large_patch16_224": "augreg_in21k_ft_in1k",
    "vit_huge_patch14_224": "orig_in21k",  # without a classifier
}


def network(name: str, *, num_classes: int, size: int, channels: int, depth: int, features: bool) -> "nn.Module":
    """Build timm's `name` for images [batch, channels, size, size].

    It gives logits [batch, num_classes], with `features` also the class token after the last norm, [batch, width]; with
    num_classes 0 that alone. `depth` keeps the first blocks only.
    """
    import timm

    fewer: dict[str, Any] = {"depth": depth} if depth else {}
    net: nn.Module = timm.create_model(name, num_classes=num_classes, img_size=size, in_chans=channels, **fewer)
    if features and num_classes:
        from deploy_recipes.networks.features import with_features

        net = with_features(net, "head")
    return net


def pretrained(name: str, *, num_classes: int, size: int, channels: int, **_params: object) -> Mapping[str, Any]:
    """Return the state dict of the checkpoint in PUBLISHED. Raises OSError without a network.

    timm fits it to another size (the position table is interpolated) and to one channel (the stem's weights are added
    up). Its classifier stays as published, whatever `num_classes` is: timm would draw another at random.
    """
    import timm

    headless: dict[str, Any] = {} if num_classes else {"num_classes": 0}
    net = timm.create_model(f"{name}.{PUBLISHED[name]}", pretrained=True, img_size=size, in_chans=channels, **headless)
    state: Mapping[str, Any] = net.state_dict()
    return state


def shaped(recipe: Recipe, values: Mapping[str, Any], *, width: int, patch: int) -> Recipe:
    """Fit image size, channels and outputs. Raises UsageError for a size that is no multiple of the patch."""
    size, classes, channels = values["size"], values["num_classes"], values["channels"]
    whole_patches(size, patch)
    several_classes(classes)
    logits = Tensor("logits", ("batch", classes), layout="NC")
    features = Tensor("features", ("batch", width), layout="NC")
    given = (logits, features) if values["features"] else (logits,)
    return replace(
        recipe,
        inputs=(Tensor("image", ("batch", channels, size, size), layout="NCHW"),),
        outputs=given if classes else (features,),
        task=Classes(classes, of=("logits",)) if classes else Features(),
        preprocess=Preprocess(
            crop=(size, size),
            mean=(MIDDLE,) * channels,
            std=(MIDDLE,) * channels,
            layout="CHW",
            short_side=math.floor(size / CROP_SHARE),
            interpolation="bicubic",
        ),
    )


def whole_patches(size: int, patch: int) -> None:
    """Raise UsageError where an image of `size` pixels does not divide into patches."""
    if size % patch:
        below, above = size // patch * patch, (size // patch + 1) * patch
        raise UsageError(
            f"--param size={size} is no multiple of {patch}, and the network cuts images in patches of {patch} pixels",
            f"Give {above}." if below == 0 else f"Give {below} or {above}.",
        )


def several_classes(count: int) -> None:
    """Raise UsageError for a classifier of one class, which would always decide for it."""
    if count == 1:
        raise UsageError(
            "--param num_classes=1 leaves nothing to decide: the largest of one score is always the same",
            "Give at least 2, or 0 for the features without a classifier.",
        )


def model(name: str, parameters: int, *, alias: str, width: int, patch: int, weights_from: str) -> Recipe:
    """Return one size of the family: `width` is that of its tokens, `patch` the side of a patch in pixels."""
    params = (
        Param("num_classes", 1000, "number of classes; 0: no classifier, the features alone", range(100_001)),
        Param("size", SIZE, f"height and width in pixels, a multiple of {patch}", range(patch, LARGEST + 1)),
        Param("channels", 3, "3 for colour, 1 for grey", (1, 3)),
        Param("depth", 0, "number of transformer blocks; 0: as published", range(65)),
        Param("features", False, "give the class token before the classifier too"),
    )
    recipe = replace(
        VIT,
        name=name,
        parameters=parameters,
        network=partial(network, name),
        pretrained=partial(pretrained, name),
        params=params,
        shaped=partial(shaped, width=width, patch=patch),
        weights_from=f"{weights_from} ({PUBLISHED[name]}), timm",
        aliases=(alias,),
        twin={"depth": "1", "size": str(4 * patch), "num_classes": "8"},
    )
    return recipe.fitted({param.name: param.default for param in params})


VIT = Recipe(
    name="vit",
    family="vit",
    network=network,
    inputs=(),
    outputs=(),
    task=Classes(1000),
    parameters=0,
    source="Dosovitskiy et al., arXiv:2010.11929; timm",
    branch_ends=("blocks.*.attn.proj", "blocks.*.mlp.fc2"),
)

RECIPES = (
    model(
        "vit_base_patch16_224",
        86_567_656,
        alias="vit_base",
        width=768,
        patch=16,
        weights_from="ImageNet-21k, then ImageNet-1k",
    ),
    model(
        "vit_large_patch16_224",
        304_326_632,
        alias="vit_large",
        width=1024,
        patch=16,
        weights_from="ImageNet-21k, then ImageNet-1k",
    ),
    model(
        "vit_huge_patch14_224",
        632_045_800,
        alias="vit_huge",
        width=1280,
        patch=14,
        weights_from="ImageNet-21k, published without a classifier: needs --param num_classes=0",
    ),
)
