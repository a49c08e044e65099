"""SlowFast: two networks that look at one clip at two rates, joined on the way. arXiv:1812.03982; pytorchvideo.

Two inputs, `slow` and `fast`, the slow one with every fourth frame, or with `single_input` one, `video`, whose slow
path is sampled inside the graph. The trap: pytorchvideo spreads the slow frames from the first to the last of the clip
(0, 4, 8, 13, ...), which is not every fourth one; both forms here do the same.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from deploy_recipes.networks.pytorchvideo_models import STRIDE, library, published, shorten, with_clip_features
from deploy_recipes.recipe import Classes, Param, Preprocess, Recipe, Tensor
from deploy_runtime.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

FASTER = 4  # frames of the fast path for each of the slow one: alpha of the paper, the fusions' temporal stride
WINDOW = 7  # side of the head's pooling window in the library, whatever the frame's size
WIDTH = 2304  # of the feature vector: 2048 of the slow path, 256 of the fast one
SIZE, FRAMES = 256, 32
MEAN, STD = 0.45, 0.225

# As on pytorchvideo's hub page: short side 256, centre crop 256, 32 frames. It resizes without a filter.
KINETICS = Preprocess(
    crop=(SIZE, SIZE),
    mean=(MEAN,) * 3,
    std=(STD,) * 3,
    layout="CTHW",
    short_side=SIZE,
    frames=FRAMES,
    antialias=False,
    pathways={"slow": FRAMES // FASTER, "fast": FRAMES},
)


def network(
    layers: int,
    fusion_frames: int,
    *,
    num_classes: int,
    frames: int,
    size: int,
    depth: int = 0,
    channels: int = 3,
    single_input: bool = False,
    features: bool = False,
) -> "nn.Module":
    """Build a SlowFast of a ResNet of `layers` layers that gives logits [batch, num_classes].

    It takes slow [batch, channels, frames / 4, size, size] and fast [batch, channels, frames, size, size]; with
    `single_input` the latter alone. `fusion_frames` is the length of the kernels that lead from the fast to the slow
    path. With `features`, (logits, features [batch, 2304]).

    The head's window is the library's, 7 by 7, where the last map holds it: at 256 pixels it stands at four places.
    """
    window = min(WINDOW, -(-size // STRIDE))
    net: nn.Module = library("slowfast").create_slowfast(
        model_depth=layers,
        slowfast_fusion_conv_kernel_size=(fusion_frames, 1, 1),
        input_channels=(channels, channels),
        model_num_class=num_classes,
        head_pool_kernel_sizes=((frames // FASTER, window, window), (frames, window, window)),
    )
    net = shorten(net, depth)
    net.register_forward_pre_hook(partial(_sampled, slow_frames(frames)) if single_input else _listed)
    return with_clip_features(net) if features else net


def slow_frames(frames: int) -> list[int]:
    """Return which frames of a clip the slow path sees: PackPathway of pytorchvideo's tutorials."""
    import torch

    return torch.linspace(0, frames - 1, frames // FASTER, device="cpu").long().tolist()


def _listed(_net: "nn.Module", pathways: tuple[Any, ...]) -> tuple[list[Any]]:
    """Hand two inputs on as the one list that the library's network takes, and empties."""
    return (list(pathways),)


def _sampled(index: list[int], _net: "nn.Module", clip: tuple[Any]) -> tuple[list[Any]]:
    """Hand a clip on as the two pathways."""
    return ([clip[0][:, :, index], clip[0]],)


def shaped(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Fit clip length, frame size, channels, classes, inputs and features. Raises UsageError for a wrong length."""
    frames, size, classes, channels = values["frames"], values["size"], values["num_classes"], values["channels"]
    if frames % FASTER:
        near = frames // FASTER * FASTER
        raise UsageError(
            f"--param frames={frames} does not divide by {FASTER}",
            f"The fast path has {FASTER} frames for each of the slow one: give {near} or {near + FASTER}.",
        )
    slow, fast = (("batch", channels, count, size, size) for count in (frames // FASTER, frames))
    single = values["single_input"]
    logits = Tensor("logits", ("batch", classes), layout="NC")
    vector = Tensor("features", ("batch", WIDTH), layout="NC")
    two = (Tensor("slow", slow, layout="NCTHW"), Tensor("fast", fast, layout="NCTHW"))
    return replace(
        recipe,
        inputs=(Tensor("video", fast, layout="NCTHW"),) if single else two,
        outputs=(logits, vector) if values["features"] else (logits,),
        task=Classes(classes, of=("logits",) if values["features"] else ()),
        preprocess=replace(
            KINETICS,
            frames=frames,
            crop=(size, size),
            short_side=size,
            mean=(MEAN,) * channels,
            std=(STD,) * channels,
            pathways={} if single else {"slow": frames // FASTER, "fast": frames},
        ),
    )


def model(name: str, layers: int, fusion_frames: int, parameters: int, file: str) -> Recipe:
    """Return one depth of the family, as pytorchvideo's hub builds it."""
    recipe = replace(
        SLOWFAST,
        name=name,
        parameters=parameters,
        network=partial(network, layers, fusion_frames),
        pretrained=partial(published, file),
    )
    return shaped(recipe, {param.name: param.default for param in recipe.params})


SLOWFAST = Recipe(
    name="slowfast",
    family="slowfast",
    network=network,
    inputs=(),
    outputs=(),
    task=Classes(400),
    parameters=0,
    source="Feichtenhofer et al., SlowFast, arXiv:1812.03982; pytorchvideo 0.1.5 create_slowfast (8x8)",
    params=(
        Param("num_classes", 400, "number of classes", range(2, 100_001)),
        Param("frames", FRAMES, "frames of a clip, a multiple of 4: the slow path sees one in 4", range(8, 257)),
        Param("size", SIZE, "height and width in pixels; five halvings need at least 32", range(STRIDE, 1025)),
        Param("channels", 3, "colour channels of a frame", (1, 3)),
        Param("single_input", False, "take one clip, `video`, and sample the slow path inside the graph"),
        Param("depth", 0, "most blocks of a stage; 0: as published", range(24)),
        Param("features", False, f"give the feature vector [batch, {WIDTH}] as a second output"),
    ),
    shaped=shaped,
    branch_ends=(
        "blocks.*.multipathway_blocks.0.res_blocks.*.branch2.norm_c",
        "blocks.*.multipathway_blocks.1.res_blocks.*.branch2.norm_c",
    ),
    weights_from="Kinetics-400, pytorchvideo",
    # Of fewer classes the last branch of the fast path, a ninth of the features, decides next to nothing.
    twin={"frames": "8", "size": "64", "depth": "1"},
)

RECIPES = (
    model("slowfast_r50", 50, 7, 34_566_488, "SLOWFAST_8x8_R50.pyth"),
    model("slowfast_r101", 101, 5, 62_826_968, "SLOWFAST_8x8_R101.pyth"),
)
