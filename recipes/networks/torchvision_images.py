"""What torchvision's image classifiers (ResNet, EfficientNet, DenseNet) share: sizes, channels, features, weights.

State-dict keys stay torchvision's. The trap: weights published for colour do not fit a stem of one channel as they are.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deploy_recipes.recipe import Classes, MultiLabel, Param, Preprocess, Recipe, Task, Tensor
from deploy_runtime.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

LARGEST = 2048  # pixels a side


def params(native: int, deepest: int, unit: str) -> tuple[Param, ...]:
    """Return what can be set: `native` is the side it was published with, `deepest` the most of `unit` it has."""
    return (
        Param("num_classes", 1000, "number of classes or labels", range(1, 100_001)),
        Param("size", native, f"height and width in pixels; the native side is {native}", range(1, LARGEST + 1)),
        Param("channels", 3, "3 for colour, 1 for grey", (1, 3)),
        Param("depth", 0, f"most {unit}; 0: as published", range(deepest + 1)),
        Param("features", False, "give the pooled vector that reaches the classifier too"),
        Param("multi_label", False, "labels decided each by itself (logit above 0), not classes that exclude"),
    )


def fit(recipe: Recipe, values: Mapping[str, Any], native: Preprocess, width: int) -> Recipe:
    """Fit image size, channels, classes and features [batch, width].

    The short side keeps its proportion to the crop; one channel has the average mean and deviation of the three.
    Raises UsageError for one class, which would always be the largest.
    """
    size, classes, channels = values["size"], values["num_classes"], values["channels"]
    short_side = native.short_side or native.crop[0]
    mean, std = (one if channels == 3 else (round(sum(one) / len(one), 6),) for one in (native.mean, native.std))
    logits = Tensor("logits", ("batch", classes), layout="NC")
    vector = Tensor("features", ("batch", width), layout="NC")
    return replace(
        recipe,
        inputs=(Tensor("image", ("batch", channels, size, size), layout="NCHW"),),
        outputs=(logits, vector) if values["features"] else (logits,),
        task=_task(values),
        preprocess=replace(
            native, crop=(size, size), short_side=round(short_side * size / native.crop[0]), mean=mean, std=std
        ),
    )


def _task(values: Mapping[str, Any]) -> Task:
    count, of = values["num_classes"], ("logits",) if values["features"] else ()
    if values["multi_label"]:
        return MultiLabel(count, 0.0, of)
    if count == 1:
        raise UsageError(
            "--param num_classes=1 leaves nothing to decide: the largest of one score is always the same",
            "Give at least 2, or add --param multi_label=true: one label that is there or not.",
        )
    return Classes(count, of)


def finish(net: "nn.Module", *, stem: str, channels: int, head: str, features: bool) -> "nn.Module":
    """Give the stem convolution its number of input channels, and the network its second output where asked."""
    if channels != 3:
        from torch import nn

        conv = net.get_submodule(stem)
        assert isinstance(conv, nn.Conv2d)
        conv.weight = nn.Parameter(conv.weight[:, :channels].detach().clone())
        conv.in_channels = channels
    if features:
        from deploy_recipes.networks.features import with_features

        return with_features(net, head)
    return net


def published(name: str, *, stem: str, channels: int = 3) -> Mapping[str, Any]:
    """Return torchvision's IMAGENET1K_V1 state dict of `name`. Raises OSError without a network.

    For one channel the stem's weights are added up, as timm does: what the network gave for grey seen thrice, but
    for the small differences of the channels' normalisation.
    """
    from torchvision.models import get_model_weights  # type: ignore[import-untyped]

    state: dict[str, Any] = dict(get_model_weights(name)["IMAGENET1K_V1"].get_state_dict(progress=True))
    if channels == 1:
        state[f"{stem}.weight"] = state[f"{stem}.weight"].sum(dim=1, keepdim=True)
    return state
