"""MViT: clip transformers that narrow the grid of tokens on the way. Fan et al., arXiv:2104.11227, and Li et al., v2.

`size` is free, from 224 to 384 as the seed document has it and beyond: the position tables are built for it, and
weights that were trained at another size have theirs interpolated when they are loaded, as SlowFast's own code does in
training. The clip's length is not stretched so: weights fit only the `frames` that they were trained with.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from deploy_recipes.networks import clips
from deploy_recipes.networks.pytorchvideo_models import library, published
from deploy_recipes.recipe import Classes, Keep, Param, Preprocess, Recipe
from deploy_runtime.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

SIZE, SHORT_SIDE, FRAMES = 224, 256, 16
MEAN, STD = 0.45, 0.225
PATCH = 4  # pixels between the places of the stem; it takes every second frame
BLOCKS = 16
WIDER = (1, 3, 14)  # blocks that see the grid halved and, with twice the heads, twice the width
WIDTH = 96  # of a token in the first block

# As pytorchvideo and torchvision test both: short side 256, centre crop 224, 16 frames, every fourth one of 30 in a
# second. Neither filters when it resizes.
KINETICS = Preprocess(
    crop=(SIZE, SIZE),
    mean=(MEAN,) * 3,
    std=(STD,) * 3,
    layout="CTHW",
    short_side=SHORT_SIDE,
    frames=FRAMES,
    antialias=False,
)


def base(*, num_classes: int, frames: int, size: int, channels: int, depth: int, features: bool) -> "nn.Module":
    """Build pytorchvideo's `mvit_base_16x4` for clips [batch, channels, frames, size, size].

    It gives logits [batch, num_classes], with `features` also the class token before the classifier, [batch, width].
    `depth` keeps the first blocks only.
    """
    import torch

    blocks = depth or BLOCKS
    doubled = [[place, 2.0] for place in WIDER if place <= blocks]
    device = torch.get_default_device()
    with torch.device("cpu"):  # the library reads values of tensors as it builds, which meta tensors do not have
        net: nn.Module = library("vision_transformers").create_multiscale_vision_transformers(
            spatial_size=size,
            temporal_size=frames,
            depth=blocks,
            input_channels=channels,
            embed_dim_mul=doubled,
            atten_head_mul=doubled,
            pool_q_stride_size=[[place, 1, 2, 2] for place in WIDER if place < blocks],
            pool_kv_stride_adaptive=[1, 8, 8],
            pool_kvq_kernel=[3, 3, 3],
            head_num_classes=num_classes,
        )
    net = net.to(device)
    return _with_features(net, "head.proj") if features else net


def v2_small(*, num_classes: int, frames: int, size: int, channels: int, depth: int, features: bool) -> "nn.Module":
    """Build torchvision's `mvit_v2_s`, with a graph that engines take; arguments and answers as those of `base`."""
    from deploy_recipes.networks.mvit_v2 import mvit_v2_s

    net = mvit_v2_s(num_classes=num_classes, frames=frames, size=size, channels=channels, depth=depth)
    return _with_features(net, "head.1") if features else net


def _with_features(net: "nn.Module", head: str) -> "nn.Module":
    from deploy_recipes.networks.features import with_features

    return with_features(net, head)


def published_v2(**_params: object) -> Mapping[str, Any]:
    """Return torchvision's Kinetics-400 state dict. Raises OSError without a network."""
    from torchvision.models import get_model_weights  # type: ignore[import-untyped]

    state: Mapping[str, Any] = get_model_weights("mvit_v2_s")["KINETICS400_V1"].get_state_dict(progress=True)
    return state


def resized(
    network: "Callable[..., nn.Module]", values: Mapping[str, Any], state: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return a state dict with its tables of places and of distances in height and width fitted to the network's."""
    import torch

    from deploy_recipes.networks import position_tables

    with torch.device("meta"):
        wanted = network(**values).state_dict()
    tables = ("pos_embed_spatial", "rel_pos_h", "rel_pos_w")
    shapes = {name: value.shape for name, value in wanted.items() if name.rpartition(".")[2] in tables}
    return position_tables.resized(state, shapes)


def shaped(recipe: Recipe, values: Mapping[str, Any], *, ahead: int) -> Recipe:
    """Fit clip length, frame size, channels, classes, features and the size that weights are fitted to.

    `ahead` is 1 where a block widens the tokens for the next one, 0 where it widens its own. Raises UsageError for a
    size or length that the stem's steps do not divide.
    """
    multiple("size", values["size"], PATCH, f"the stem takes every {PATCH}th pixel")
    multiple("frames", values["frames"], 2, "the stem takes every second frame")
    doublings = sum(place < (values["depth"] or BLOCKS) + ahead for place in WIDER)
    return replace(
        clips.fit(recipe, values, KINETICS, WIDTH * 2**doublings),
        adapt=partial(resized, recipe.network, dict(values)),
    )


def multiple(name: str, value: int, step: int, rule: str) -> None:
    """Raise UsageError where a parameter is no multiple of `step`; `rule` says why it must be."""
    if value % step:
        below, above = value // step * step, (value // step + 1) * step
        raise UsageError(
            f"--param {name}={value} is no multiple of {step}, and {rule}",
            f"Give {below} or {above}." if below else f"Give {above}.",
        )


def model(name: str, *, least: int, ahead: int, **changed: Any) -> Recipe:
    """Return one network; `least` is the smallest frame that its grids leave a token of."""
    params = (
        Param("num_classes", 400, "number of classes", range(2, 100_001)),
        Param("frames", FRAMES, "frames of a clip, a multiple of 2", range(2, 129)),
        Param("size", SIZE, f"height and width in pixels, a multiple of {PATCH}", range(least, 513)),
        Param("channels", 3, "3 for colour, 1 for grey", (1, 3)),
        Param("depth", 0, "number of blocks, the first ones; 0: as published", (0, *range(2, BLOCKS + 1))),
        Param("features", False, "give the class token before the classifier as a second output"),
    )
    recipe = Recipe(
        name=name,
        family="mvit",
        inputs=(),
        outputs=(),
        task=Classes(400),
        params=params,
        shaped=partial(shaped, ahead=ahead),
        twin={"num_classes": "5", "frames": "4", "size": "64", "depth": "2"},
        **changed,
    )
    return recipe.fitted({param.name: param.default for param in params})


RECIPES = (
    model(
        "mvit_base",
        least=28,
        ahead=1,
        network=base,
        parameters=36_610_672,
        source="Fan et al., MViT, arXiv:2104.11227; pytorchvideo 0.1.5 mvit_base_16x4",
        branch_ends=("blocks.*.attn.proj", "blocks.*.mlp.fc2"),
        pretrained=partial(published, "MVIT_B_16x4.pyth"),
        weights_from="Kinetics-400, pytorchvideo",
    ),
    model(
        "mvit_v2_s",
        least=32,
        ahead=0,
        network=v2_small,
        parameters=34_537_744,
        source="Li et al., MViTv2, arXiv:2112.01526; torchvision mvit_v2_s, its graph rewritten",
        branch_ends=("blocks.*.attn.project.0", "blocks.*.mlp.3"),
        pretrained=published_v2,
        keep_float=(
            Keep(
                "/blocks.*/attn/positions/*",
                "relative positions: a twentieth of the arithmetic of the scores that they are added to, and ONNX "
                "Runtime 1.31 does not run such products, with a stack of matrices, in INT8",
            ),
        ),
        weights_from="Kinetics-400 (KINETICS400_V1), torchvision",
    ),
)
