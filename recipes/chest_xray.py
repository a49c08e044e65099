"""Networks for chest radiographs: CheXNet (arXiv:1711.05225), RAD-DINO (arXiv:2401.10815) and the small Custom_1.

Findings occur together, so each label is decided by itself. The traps: CheXNet's checkpoints carry key names of several
generations, RAD-DINO's those of two, and both are translated here; the fourteen labels are those of ChestX-ray14, and
CheXpert, which many train the same network on, has fourteen others: state those with your weights.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deploy_recipes import densenet
from deploy_recipes.recipe import Classes, Features, MultiLabel, Param, Preprocess, Recipe, Tensor
from deploy_recipes.vit import LARGEST, whole_patches
from deploy_runtime.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

LABELS = (  # of ChestX-ray14, in the order of its paper (Wang et al., arXiv:1705.02315) and of CheXNet's outputs
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)

SIZE = 224
SHORT_SIDE = 256  # of a 224 crop, as CheXNet is tested
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

PATCH = 14
RADDINO_HUB = "microsoft/rad-dino"
RADDINO_SIZE = 518
RADDINO_WIDTH = 768
RADDINO_MEAN, RADDINO_STD = 0.5307, 0.2583  # of its preprocessor_config.json; three channels see the same grey

CUSTOM_1_WIDTH = 256

DECISION = Param("multi_label", True, "labels decided each by itself (logit above 0); false: classes that exclude")
FEATURES = Param("features", False, "give what reaches the classifier too")
CHANNELS = Param("channels", 3, "3 for colour or grey seen thrice, 1 for grey", (1, 3))


def chexnet(*, num_classes: int, size: int, channels: int, depth: int, features: bool) -> "nn.Module":  # noqa: ARG001
    """Build torchvision's DenseNet-121 for images [batch, channels, size, size], with a sigmoid behind it.

    It gives probabilities [batch, num_classes], with `features` also what reaches the classifier, [batch, 1024];
    `depth` is the most layers a dense block keeps. Keys are torchvision's: the sigmoid has none.
    """
    net = densenet.network(densenet.DENSENET_121, num_classes=num_classes, channels=channels, depth=depth)
    net.register_forward_hook(lambda _, __, logits: logits.sigmoid())
    if features:
        from deploy_recipes.networks.features import with_features

        net = with_features(net, "classifier")  # its hook comes second and leaves the sigmoid's answer alone
    return net


def raddino(*, num_classes: int, size: int, depth: int, features: bool, multi_label: bool) -> "nn.Module":  # noqa: ARG001
    """Build timm's ViT-B/14 of DINOv2 for images [batch, 3, size, size].

    It gives features [batch, 768], the class token after the last norm, which Hugging Face calls `pooler_output`. With
    `num_classes` a linear head on it gives logits [batch, num_classes]. `depth` keeps the first blocks only.
    """
    import timm

    fewer: dict[str, Any] = {"depth": depth} if depth else {}
    net: nn.Module = timm.create_model("vit_base_patch14_dinov2", num_classes=num_classes, img_size=size, **fewer)
    if features and num_classes:
        from deploy_recipes.networks.features import with_features

        net = with_features(net, "head")
    return net


def custom_1(*, num_classes: int, size: int, channels: int, features: bool, multi_label: bool) -> "nn.Module":  # noqa: ARG001
    """Build Custom_1 for images [batch, channels, size, size] that gives logits [batch, num_classes]."""
    from deploy_recipes.networks.custom_1 import Custom1

    net: nn.Module = Custom1(num_classes, channels)
    if features:
        from deploy_recipes.networks.features import with_features

        net = with_features(net, "head")
    return net


def raddino_pretrained(**_params: object) -> Mapping[str, Any]:
    """Return the state dict that Microsoft publishes on the Hugging Face hub. Raises OSError without a network."""
    from transformers import Dinov2Model

    state: Mapping[str, Any] = Dinov2Model.from_pretrained(RADDINO_HUB).state_dict()
    return from_dinov2(state)


def from_chexnet(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return CheXNet's state dict under torchvision's names, wrapper prefixes outside of `densenet121.` kept.

    Known are `densenet121.features...` with `classifier.0.weight` (the sigmoid was in the classifier) and the names
    `denselayer1.norm.1` and `denselayer1.conv.1` from before PyTorch forbade dots in them.
    """
    renamed: dict[str, Any] = {}
    for name, value in state.items():
        plain = re.sub(r"(^|\.)densenet121\.", r"\1", name, count=1)
        plain = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", plain)
        renamed[re.sub(r"(^|\.)classifier\.0\.(weight|bias)$", r"\1classifier.\2", plain)] = value
    return renamed


def from_dinov2(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return RAD-DINO's state dict under timm's names, from those of Hugging Face or of the DINOv2 authors' code."""
    from deploy_recipes.networks.dinov2_keys import to_timm

    return to_timm(state)


def shaped_chexnet(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Fit image size, channels and labels; fourteen are those of ChestX-ray14."""
    classes = values["num_classes"]
    probabilities = Tensor("probabilities", ("batch", classes), layout="NC")
    blocks = densenet.shortened(densenet.DENSENET_121, values["depth"])
    return replace(
        _imagenet(recipe, values),
        outputs=_with_features(values, probabilities, densenet.width(blocks)),
        task=MultiLabel(classes, 0.5, of=("probabilities",)),
        labels=LABELS if classes == len(LABELS) else (),
    )


def shaped_custom_1(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Fit image size, channels, scores and how they are decided."""
    logits = Tensor("logits", ("batch", values["num_classes"]), layout="NC")
    return replace(
        _imagenet(recipe, values), outputs=_with_features(values, logits, CUSTOM_1_WIDTH), task=_decided(values)
    )


def shaped_raddino(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Fit image size and head. Raises UsageError for a size that is no multiple of the patch."""
    size = values["size"]
    whole_patches(size, PATCH)
    logits = Tensor("logits", ("batch", values["num_classes"]), layout="NC")
    alone = (Tensor("features", ("batch", RADDINO_WIDTH), layout="NC"),)
    return replace(
        recipe,
        inputs=(Tensor("image", ("batch", 3, size, size), layout="NCHW"),),
        outputs=_with_features(values, logits, RADDINO_WIDTH) if values["num_classes"] else alone,
        task=_decided(values) if values["num_classes"] else Features(),
        preprocess=Preprocess(
            crop=(size, size),
            mean=(RADDINO_MEAN,) * 3,
            std=(RADDINO_STD,) * 3,
            layout="CHW",
            short_side=size,
            interpolation="bicubic",
        ),
    )


def _imagenet(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return the recipe with the input and ImageNet's preprocessing; one channel has the mean of the three."""
    size, channels = values["size"], values["channels"]
    mean, std = (every if channels == 3 else (round(sum(every) / 3, 6),) for every in (IMAGENET_MEAN, IMAGENET_STD))
    short_side = round(SHORT_SIDE * size / SIZE)
    return replace(
        recipe,
        inputs=(Tensor("image", ("batch", channels, size, size), layout="NCHW"),),
        preprocess=Preprocess(crop=(size, size), mean=mean, std=std, layout="CHW", short_side=short_side),
    )


def _with_features(values: Mapping[str, Any], scores: Tensor, width: int) -> tuple[Tensor, ...]:
    features = Tensor("features", ("batch", width), layout="NC")
    return (scores, features) if values["features"] else (scores,)


def _decided(values: Mapping[str, Any]) -> MultiLabel | Classes:
    """Return how logits are decided: each label by itself, or the largest of classes."""
    count = values["num_classes"]
    if values["multi_label"]:
        return MultiLabel(count, 0.0, of=("logits",))
    if count == 1:
        raise UsageError(
            "--param num_classes=1 with multi_label=false leaves nothing to decide: one score is always the largest",
            "Give at least 2 classes, or leave multi_label true: one label that is there or not.",
        )
    return Classes(count, of=("logits",))


def _at_defaults(recipe: Recipe) -> Recipe:
    return recipe.fitted({param.name: param.default for param in recipe.params})


CHEXNET = Recipe(
    name="chexnet",
    family="chest_xray",
    network=chexnet,
    inputs=(),
    outputs=(),
    task=MultiLabel(len(LABELS)),
    parameters=6_968_206,
    source="Rajpurkar et al., CheXNet, arXiv:1711.05225; torchvision densenet121 with 14 outputs and a sigmoid",
    params=(
        Param("num_classes", len(LABELS), "number of labels", range(1, 10_001)),
        Param("size", SIZE, "height and width in pixels; its halvings need at least 29", range(29, 2049)),
        CHANNELS,
        Param("depth", 0, "most layers of a dense block; 0: as published", range(25)),
        FEATURES,
    ),
    shaped=shaped_chexnet,
    adapt=from_chexnet,
    twin={"depth": "2", "size": "64"},
)

RADDINO = Recipe(
    name="raddino",
    family="chest_xray",
    network=raddino,
    inputs=(),
    outputs=(),
    task=Features(),
    parameters=86_579_712,
    source="Pérez-García et al., RAD-DINO, arXiv:2401.10815, published for research; timm vit_base_patch14_dinov2",
    params=(
        Param("num_classes", 0, "labels or classes of a head; 0: no head, the features alone", range(10_001)),
        Param("size", RADDINO_SIZE, f"height and width in pixels, a multiple of {PATCH}", range(PATCH, LARGEST + 1)),
        Param("depth", 0, "number of transformer blocks; 0: as published", range(13)),
        FEATURES,
        DECISION,
    ),
    shaped=shaped_raddino,
    branch_ends=("blocks.*.ls1", "blocks.*.ls2"),
    pretrained=raddino_pretrained,
    adapt=from_dinov2,
    weights_from=f"chest radiographs, {RADDINO_HUB}, without a head",
    aliases=("rad_dino",),
    twin={"depth": "1", "size": str(4 * PATCH)},
)

CUSTOM_1 = Recipe(
    name="custom_1",
    family="chest_xray",
    network=custom_1,
    inputs=(),
    outputs=(),
    task=MultiLabel(len(LABELS), 0.0),
    parameters=982_830,
    source="the document on chest X-ray networks: a CNN of five layers, about 1 M parameters; written here",
    params=(
        Param("num_classes", len(LABELS), "number of labels or classes", range(1, 10_001)),
        Param("size", SIZE, "height and width in pixels; four halvings need at least 16", range(16, 2049)),
        CHANNELS,
        FEATURES,
        DECISION,
    ),
    shaped=shaped_custom_1,
    aliases=("custom1",),
    twin={"size": "32"},
)

RECIPES = tuple(map(_at_defaults, (CHEXNET, RADDINO, CUSTOM_1)))
