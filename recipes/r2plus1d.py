"""R(2+1)D: residual networks whose 3-D convolutions are split in space and time. Tran et al., arXiv:1711.11248.

Two libraries, two networks: torchvision's of 18 and 34 layers (basic blocks, 112 pixels, space before time) and
pytorchvideo's of 50 (bottlenecks, 224 pixels, time before space). The outputs are logits: pytorchvideo's own head ends
in a softmax, which is left out here. The trap: each was trained on frames prepared in its own library's way.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from deploy_recipes.networks import clips
from deploy_recipes.networks.pytorchvideo_models import STRIDE, library, published, shorten, with_clip_features
from deploy_recipes.recipe import Classes, Param, Preprocess, Recipe

if TYPE_CHECKING:
    from torch import nn

FRAMES = 16
LEAST_FRAMES = 2  # the temporal kernels are 3 long: of a single frame their ends would never see anything
WINDOW = (4, 7)  # the head's pooling window in pytorchvideo, in frames and in pixels of the last map
SHORTENED = 4  # frames of a clip for each frame of the last map there: two temporal strides of 2

# torchvision's R2Plus1D_18_Weights.KINETICS400_V1: every frame is squeezed to 128 by 171 pixels, whatever its shape.
TORCHVISION = Preprocess(
    crop=(112, 112),
    mean=(0.43216, 0.394666, 0.37645),
    std=(0.22803, 0.22145, 0.216989),
    layout="CTHW",
    stretch=(128, 171),
    frames=FRAMES,
    antialias=False,
)
# As of all Kinetics networks of pytorchvideo; 224 pixels are what its head's window of 7 by 7 is made for.
PYTORCHVIDEO = replace(TORCHVISION, crop=(224, 224), mean=(0.45,) * 3, std=(0.225,) * 3, short_side=256, stretch=None)


def of_torchvision(
    blocks: tuple[int, ...],
    *,
    num_classes: int,
    frames: int,  # noqa: ARG001 (any length and size: the pool adapts)
    size: int,  # noqa: ARG001
    depth: int = 0,
    channels: int = 3,
    features: bool = False,
) -> "nn.Module":
    """Build torchvision's network for clips [batch, channels, frames, size, size]: logits [batch, num_classes].

    `blocks` are those of its four stages, at most `depth` each where that is not 0. With `features`, (logits,
    features [batch, 512]).
    """
    from torch import nn
    from torchvision.models.video import resnet  # type: ignore[import-untyped]

    from deploy_recipes.networks.features import with_features

    def stem() -> nn.Sequential:
        layers: nn.Sequential = resnet.R2Plus1dStem()
        if channels != 3:
            layers[0] = nn.Conv3d(channels, 45, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False)
        return layers

    stages = [min(count, depth or count) for count in blocks]
    net: nn.Module = resnet.VideoResNet(
        resnet.BasicBlock, [resnet.Conv2Plus1D] * 4, stages, stem, num_classes=num_classes
    )
    return with_features(net, "fc") if features else net


def of_pytorchvideo(
    *,
    num_classes: int,
    frames: int,
    size: int,
    depth: int = 0,
    channels: int = 3,
    features: bool = False,
) -> "nn.Module":
    """Build pytorchvideo's network for clips [batch, channels, frames, size, size]: logits [batch, num_classes].

    The head's window is the library's, 4 frames by 7 by 7, where the last map holds it. With `features`, (logits,
    features [batch, 2048]).
    """
    window, side = min(WINDOW[0], -(-frames // SHORTENED)), min(WINDOW[1], -(-size // STRIDE))
    net: nn.Module = library("r2plus1d").create_r2plus1d(
        input_channel=channels,
        model_num_class=num_classes,
        dropout_rate=0.5,
        head_pool_kernel_size=(window, side, side),
        head_activation=None,
    )
    net = shorten(net, depth)
    return with_clip_features(net) if features else net


def pretrained_18(**_params: object) -> Mapping[str, Any]:
    """Return torchvision's Kinetics-400 state dict. Raises OSError without a network."""
    from torchvision.models import get_model_weights  # type: ignore[import-untyped]

    state: Mapping[str, Any] = get_model_weights("r2plus1d_18")["KINETICS400_V1"].get_state_dict(progress=True)
    return state


def shaped(standard: Preprocess, width: int, recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Fit clip length, frame size, channels, classes and features; what frames are resized to keeps its proportion.

    `standard` is the preprocessing of the library, `width` the length of its network's feature vector.
    """
    return clips.fit(recipe, values, standard, width)


def model(name: str, standard: Preprocess, least_size: int, width: int, **stated: Any) -> Recipe:
    """Return one depth: its library's preprocessing, the smallest frame, the features' length, what else it states."""
    recipe = Recipe(
        name=name,
        family="r2plus1d",
        inputs=(),
        outputs=(),
        task=Classes(400),
        params=(
            Param("num_classes", 400, "number of classes", range(2, 100_001)),
            Param("frames", FRAMES, "frames of a clip; kernels of 3 need at least 2", range(LEAST_FRAMES, 257)),
            Param("size", standard.crop[0], "height and width in pixels", range(least_size, 1025)),
            Param("channels", 3, "colour channels of a frame", (1, 3)),
            Param("depth", 0, "most blocks of a stage; 0: as published", range(7)),
            Param("features", False, f"give the feature vector [batch, {width}] as a second output"),
        ),
        shaped=partial(shaped, standard, width),
        twin={"num_classes": "5", "frames": "4", "size": str(2 * least_size), "depth": "1"},
        **stated,
    )
    return recipe.fitted({param.name: param.default for param in recipe.params})


PAPER = "Tran et al., R(2+1)D, arXiv:1711.11248"

RECIPES = (
    model(
        "r2plus1d_r18",
        TORCHVISION,
        16,
        512,
        network=partial(of_torchvision, (2, 2, 2, 2)),
        parameters=31_505_325,
        source=f"{PAPER}; torchvision.models.video r2plus1d_18",
        branch_ends=("layer*.*.conv2.1",),
        pretrained=pretrained_18,
        weights_from="Kinetics-400 (KINETICS400_V1), torchvision",
        aliases=("r2plus1d_18",),
    ),
    model(
        "r2plus1d_r34",
        TORCHVISION,
        16,
        512,
        network=partial(of_torchvision, (3, 4, 6, 3)),
        parameters=61_831_661,
        source=f"{PAPER}; torchvision.models.video VideoResNet(BasicBlock, Conv2Plus1D, (3, 4, 6, 3), R2Plus1dStem)",
        branch_ends=("layer*.*.conv2.1",),
        aliases=("r2plus1d_34",),
    ),
    model(
        "r2plus1d_r50",
        PYTORCHVIDEO,
        STRIDE,
        2048,
        network=of_pytorchvideo,
        parameters=28_107_600,
        source=f"{PAPER}; pytorchvideo 0.1.5 create_r2plus1d (16x4)",
        branch_ends=("blocks.*.res_blocks.*.branch2.norm_c",),
        pretrained=partial(published, "R2PLUS1D_16x4_R50.pyth"),
        weights_from="Kinetics-400, pytorchvideo",
    ),
)
