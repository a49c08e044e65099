"""What the clip classifiers share: inputs, outputs and preprocessing fitted to length, size, channels and classes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from deploy_recipes.recipe import Classes, Preprocess, Recipe, Tensor


def fit(recipe: Recipe, values: Mapping[str, Any], native: Preprocess, width: int) -> Recipe:
    """Fit `frames`, `size`, `channels`, `num_classes` and `features` ([batch, width]) of a clip classifier.

    `native` is the preprocessing that the network was published with: what frames are resized to keeps its proportion
    to the crop, and one channel has the average mean and deviation of the three.
    """
    frames, size, classes, channels = values["frames"], values["size"], values["num_classes"], values["channels"]
    share = size / native.crop[0]
    mean, std = (one if channels == 3 else (round(sum(one) / len(one), 6),) for one in (native.mean, native.std))
    axes = {"C": channels, "T": frames, "H": size, "W": size}
    logits = Tensor("logits", ("batch", classes), layout="NC")
    vector = Tensor("features", ("batch", width), layout="NC")
    return replace(
        recipe,
        inputs=(Tensor("video", ("batch", *(axes[axis] for axis in native.layout)), layout=f"N{native.layout}"),),
        outputs=(logits, vector) if values["features"] else (logits,),
        task=Classes(classes, of=("logits",) if values["features"] else ()),
        preprocess=replace(
            native,
            frames=frames,
            crop=(size, size),
            short_side=None if native.short_side is None else round(native.short_side * share),
            stretch=None
            if native.stretch is None
            else (round(native.stretch[0] * share), round(native.stretch[1] * share)),
            mean=mean,
            std=std,
        ),
    )
