"""X3D: small 3-D convolutional networks for clips. Feichtenhofer, arXiv:2004.04730; through pytorchvideo.

The outputs are logits: pytorchvideo's own head ends in a softmax, which is left out here.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from deploy_recipes.networks import clips
from deploy_recipes.networks.pytorchvideo_models import STRIDE, library, published, shorten, with_clip_features
from deploy_recipes.recipe import Classes, Param, Preprocess, Recipe
from deploy_runtime.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

FACTOR = 2.2  # the paper's depth factor, of all but x3d_l
STEM_FRAMES = 5  # length of the stem's temporal kernel, the longest of the network
WIDTH = 2048  # of the feature vector
MEAN, STD = 0.45, 0.225

# Training normalised with these and cropped `size` pixels from a short side that is `short_side` here (the least
# of the training scales, arXiv:2004.04730 §4). pytorchvideo's hub page tests on that whole short side (182, 256).
# pytorchvideo resizes with torch's interpolate, which does not filter.
KINETICS = Preprocess(
    crop=(160, 160),
    mean=(MEAN,) * 3,
    std=(STD,) * 3,
    layout="CTHW",
    short_side=182,
    frames=13,
    antialias=False,
)


def network(
    *,
    num_classes: int,
    frames: int,
    size: int,
    depth: int = 0,
    channels: int = 3,
    features: bool = False,
    factor: float = FACTOR,
) -> "nn.Module":
    """Build an X3D for clips [batch, channels, frames, size, size] that gives logits [batch, num_classes].

    `factor` lengthens the paper's stages of 1, 2, 5 and 3 blocks; `depth` then bounds each (0: it does not). With
    `features`, (logits, features [batch, 2048]).
    """
    net: nn.Module = library("x3d").create_x3d(
        input_channel=channels,
        input_clip_length=frames,
        input_crop_size=size,
        model_num_class=num_classes,
        depth_factor=factor,
        head_activation=None,
    )
    net = shorten(net, depth)
    return with_clip_features(net) if features else net


def shaped(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Fit clip length, frame size, channels, classes and features. The short side keeps its proportion to the crop.

    Raises UsageError for a clip that the temporal kernels do not fit.
    """
    least = STEM_FRAMES // 2 + 1
    if values["frames"] < least:
        raise UsageError(
            f"--param frames={values['frames']} is shorter than the temporal kernels of {recipe.name} need",
            f"The stem looks {STEM_FRAMES // 2} frames back and ahead: give at least {least} frames, or the ends of "
            "its kernel never see one.",
        )
    return clips.fit(recipe, values, recipe.preprocess or KINETICS, WIDTH)


def model(name: str, *, frames: int, size: int, short_side: int, **changed: Any) -> Recipe:
    """Return one model of the family: what it is trained on, and what else differs from X3D-S."""
    params = (
        Param("num_classes", 400, "number of classes", range(2, 100_001)),
        Param("frames", frames, "frames of a clip; the temporal kernels need at least 3", range(1, 129)),
        Param("size", size, "height and width in pixels; five halvings need at least 32", range(STRIDE, 1025)),
        Param("channels", 3, "colour channels of a frame", (1, 3)),
        Param("depth", 0, "most blocks of a stage; 0: as published", range(26)),
        Param("features", False, f"give the feature vector [batch, {WIDTH}] as a second output"),
    )
    preprocess = replace(KINETICS, frames=frames, crop=(size, size), short_side=short_side)
    recipe = replace(X3D, name=name, params=params, preprocess=preprocess, **changed)
    return shaped(recipe, {param.name: param.default for param in params})


X3D = Recipe(
    name="x3d_s",
    family="x3d",
    network=network,
    inputs=(),
    outputs=(),
    task=Classes(400),
    parameters=3_794_274,
    source="Feichtenhofer, X3D, arXiv:2004.04730; pytorchvideo 0.1.5 create_x3d",
    shaped=shaped,
    branch_ends=("blocks.*.res_blocks.*.branch2.norm_c",),
    pretrained=partial(published, "X3D_S.pyth"),
    weights_from="Kinetics-400, pytorchvideo",
    twin={"num_classes": "5", "frames": "4", "size": "64", "depth": "1"},
)

RECIPES = (
    model("x3d_xs", frames=4, size=160, short_side=182, pretrained=partial(published, "X3D_XS.pyth")),
    model("x3d_s", frames=13, size=160, short_side=182),
    model("x3d_m", frames=16, size=224, short_side=256, pretrained=partial(published, "X3D_M.pyth")),
    model(
        "x3d_l",
        frames=16,
        size=312,
        short_side=356,
        parameters=6_153_384,
        network=partial(network, factor=5.0),
        pretrained=partial(published, "X3D_L.pyth"),
    ),
)
