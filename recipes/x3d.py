"""X3D: small 3-D convolutional networks for clips. Feichtenhofer, arXiv:2004.04730; through pytorchvideo.

The outputs are logits: pytorchvideo's own head ends in a softmax, which is left out here.
"""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from deploy_recipes.recipe import Classes, Param, Preprocess, Recipe, Tensor

if TYPE_CHECKING:
    from torch import nn

URL = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics"  # as in pytorchvideo.models.hub.x3d
DEPTH = 2.2  # depth factor of all but x3d_l

# Training normalised with these and cropped `size` pixels from a short side that is `short_side` here (the least
# of the training scales, arXiv:2004.04730 §4). pytorchvideo's hub page tests on that whole short side (182, 256).
# pytorchvideo resizes with torch's interpolate, which does not filter.
KINETICS = Preprocess(
    crop=(160, 160),
    mean=(0.45, 0.45, 0.45),
    std=(0.225, 0.225, 0.225),
    layout="CTHW",
    short_side=182,
    frames=13,
    antialias=False,
)


def network(*, num_classes: int, frames: int, size: int, depth: float = DEPTH) -> "nn.Module":
    """Build an X3D for clips [batch, 3, frames, size, size] that gives logits [batch, num_classes]."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)  # at import, fvcore's
        from pytorchvideo.models.x3d import create_x3d  # type: ignore[import-untyped]

    net: nn.Module = create_x3d(
        input_clip_length=frames,
        input_crop_size=size,
        model_num_class=num_classes,
        depth_factor=depth,
        head_activation=None,  # pyright: ignore[reportArgumentType]  # its own annotation forgets None
    )
    return net


def pretrained(file: str, **_params: object) -> Mapping[str, Any]:
    """Return the Kinetics-400 state dict that pytorchvideo publishes. Raises OSError without a network."""
    from torch.hub import load_state_dict_from_url

    state: Mapping[str, Any] = load_state_dict_from_url(f"{URL}/{file}", map_location="cpu", weights_only=True)
    return state["model_state"]  # type: ignore[no-any-return]


def shaped(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Fit clip length, frame size and number of classes. The short side keeps its proportion to the crop."""
    frames, size, classes = values["frames"], values["size"], values["num_classes"]
    standard = recipe.preprocess or KINETICS
    short_side = round((standard.short_side or size) * size / standard.crop[0])
    return replace(
        recipe,
        inputs=(Tensor("video", ("batch", 3, frames, size, size), layout="NCTHW"),),
        outputs=(Tensor("logits", ("batch", classes), layout="NC"),),
        task=Classes(classes),
        preprocess=replace(standard, frames=frames, crop=(size, size), short_side=short_side),
    )


def model(name: str, *, frames: int, size: int, short_side: int, **changed: Any) -> Recipe:
    """Return one model of the family: what it is trained on, and what else differs from X3D-S."""
    params = (
        Param("num_classes", 400, "number of classes", range(2, 100_001)),
        Param("frames", frames, "frames of a clip", range(1, 129)),
        Param("size", size, "height and width in pixels; five halvings need at least 32", range(32, 1025)),
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
    pretrained=partial(pretrained, "X3D_S.pyth"),
    weights_from="Kinetics-400, pytorchvideo",
)

RECIPES = (
    model("x3d_xs", frames=4, size=160, short_side=182, pretrained=partial(pretrained, "X3D_XS.pyth")),
    model("x3d_s", frames=13, size=160, short_side=182),
    model("x3d_m", frames=16, size=224, short_side=256, pretrained=partial(pretrained, "X3D_M.pyth")),
    model(
        "x3d_l",
        frames=16,
        size=312,
        short_side=356,
        parameters=6_153_384,
        network=partial(network, depth=5.0),
        pretrained=partial(pretrained, "X3D_L.pyth"),
    ),
)
