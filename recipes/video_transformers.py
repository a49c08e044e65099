"""Transformers over the tokens of a clip: VideoMAE, TimeSformer and ViViT; through transformers, or written.

Clips come frame by frame, [batch, frames, channels, size, size]. VideoMAE (arXiv:2203.12602) and `vivit_base_joint`
attend among all tokens at once, TimeSformer (arXiv:2102.05095) in time and then in space, `vivit_base` in space and
then in time: what the seed document describes is model 3 of the ViViT paper (networks/vivit.py says why). The trap: all
but VideoMAE learn a table of positions, so weights fit only the `size` and `frames` that they were trained with.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from deploy_recipes.mvit import multiple
from deploy_recipes.networks import clips
from deploy_recipes.recipe import Classes, Param, Preprocess, Recipe

if TYPE_CHECKING:
    from torch import nn

SIZE, PATCH, WIDTH = 224, 16, 768

# What the authors trained with; the short side and the filter are those of transformers' processors. VideoMAE's and
# TimeSformer's published processor files; ViViT's authors bring values to -1..1 and so did the conversion of their
# weights (transformers' class would normalise those once more unless it is told not to).
IMAGENET = Preprocess(
    crop=(SIZE, SIZE), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), layout="TCHW", short_side=SIZE, frames=16
)
KINETICS = replace(IMAGENET, mean=(0.45,) * 3, std=(0.225,) * 3, frames=8)
CENTRED = replace(IMAGENET, mean=(0.5,) * 3, std=(0.5,) * 3, short_side=256, frames=32)


def library(
    kind: str, *, num_classes: int, frames: int, size: int, channels: int, depth: int, features: bool
) -> "nn.Module":
    """Build transformers' `<kind>ForVideoClassification` for clips [batch, frames, channels, size, size].

    It gives logits [batch, num_classes], with `features` also what the classifier reads, [batch, 768]. `depth` keeps
    the first layers only.
    """
    from deploy_recipes.networks.transformers_video import build

    fewer = {"num_hidden_layers": depth} if depth else {}
    net = build(kind, num_labels=num_classes, num_frames=frames, image_size=size, num_channels=channels, **fewer)
    return _with_features(net, "classifier") if features else net


def factorised(*, num_classes: int, frames: int, size: int, channels: int, depth: int, features: bool) -> "nn.Module":
    """Build ViViT-B with factorised self-attention; arguments and answers as those of `library`."""
    from deploy_recipes.networks.vivit import ViViT

    net = ViViT(num_classes=num_classes, frames=frames, size=size, channels=channels, blocks=depth)
    return _with_features(net, "head") if features else net


def _with_features(net: "nn.Module", head: str) -> "nn.Module":
    from deploy_recipes.networks.features import with_features

    return with_features(net, head)


def published(kind: str, repository: str, **_params: object) -> Mapping[str, Any]:
    """Return the state dict of a repository on the Hugging Face hub. Raises OSError without a network."""
    from deploy_recipes.networks import transformers_video

    return transformers_video.published(kind, repository)


def adapt_vivit(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a state dict of transformers' ViViT, whose files have other names than its modules, under the latter."""
    from deploy_recipes.networks import transformers_video

    return transformers_video.to_modules(transformers_video.VIVIT, state)


def adapt_videomae(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a state dict of transformers' VideoMAE with the biases named as its modules name them."""
    from deploy_recipes.networks import transformers_video

    return transformers_video.to_modules(transformers_video.VIDEOMAE, state)


def shaped(recipe: Recipe, values: Mapping[str, Any], *, standard: Preprocess, tubelet: int) -> Recipe:
    """Fit clip length, frame size, channels, classes and features.

    Raises UsageError for a size or length that does not divide into tokens of `tubelet` frames and 16 by 16 pixels.
    """
    multiple("size", values["size"], PATCH, f"the network cuts frames in patches of {PATCH} pixels")
    multiple("frames", values["frames"], tubelet, f"a token is {tubelet} frames long")
    return clips.fit(recipe, values, standard, WIDTH)


def model(name: str, standard: Preprocess, *, tubelet: int, **changed: Any) -> Recipe:
    """Return one network: how its clips are prepared, how many frames a token has, and what else it is."""
    multiples = f", a multiple of {tubelet}" if tubelet > 1 else ""
    params = (
        Param("num_classes", 400, "number of classes", range(2, 100_001)),
        Param("frames", standard.frames or tubelet, f"frames of a clip{multiples}", range(tubelet, 129)),
        Param("size", SIZE, f"height and width in pixels, a multiple of {PATCH}", range(PATCH, 513)),
        Param("channels", 3, "3 for colour, 1 for grey", (1, 3)),
        Param("depth", 0, "number of layers, the first ones; 0: as published", range(13)),
        Param("features", False, f"give what the classifier reads, [batch, {WIDTH}], as a second output"),
    )
    recipe = Recipe(
        name=name,
        family="video_transformers",
        inputs=(),
        outputs=(),
        task=Classes(400),
        params=params,
        shaped=partial(shaped, standard=standard, tubelet=tubelet),
        twin={"num_classes": "5", "frames": "4", "size": "64", "depth": "1"},
        **changed,
    )
    return recipe.fitted({param.name: param.default for param in params})


RECIPES = (
    model(
        "videomae_base",
        IMAGENET,
        tubelet=2,
        network=partial(library, "VideoMAE"),
        parameters=86_534_800,
        source="Tong et al., VideoMAE, arXiv:2203.12602; transformers VideoMAEForVideoClassification",
        branch_ends=("videomae.encoder.layer.*.output.dense",),
        pretrained=partial(published, "VideoMAE", "MCG-NJU/videomae-base-finetuned-kinetics"),
        adapt=adapt_videomae,
        weights_from="Kinetics-400, MCG-NJU/videomae-base-finetuned-kinetics",
    ),
    model(
        "timesformer_base",
        KINETICS,
        tubelet=1,
        network=partial(library, "Timesformer"),
        parameters=121_566_352,
        source="Bertasius et al., TimeSformer, arXiv:2102.05095; transformers TimesformerForVideoClassification",
        branch_ends=(
            "timesformer.encoder.layer.*.temporal_dense",
            "timesformer.encoder.layer.*[0-9].attention.output.dense",  # and not temporal_attention
            "timesformer.encoder.layer.*[0-9].output.dense",
        ),
        pretrained=partial(published, "Timesformer", "facebook/timesformer-base-finetuned-k400"),
        weights_from="Kinetics-400, facebook/timesformer-base-finetuned-k400",
    ),
    model(
        "vivit_base",
        CENTRED,
        tubelet=2,
        network=factorised,
        parameters=117_319_312,
        source="Arnab et al., ViViT, arXiv:2103.15691, model 3, factorised self-attention; written",
        branch_ends=("blocks.*.space.proj", "blocks.*.time.proj", "blocks.*.mlp.fc2"),
    ),
    model(
        "vivit_base_joint",
        CENTRED,
        tubelet=2,
        network=partial(library, "Vivit"),
        parameters=88_954_000,
        source="Arnab et al., ViViT, arXiv:2103.15691, model 1, joint attention; transformers",
        branch_ends=("vivit.layers.*.attention.o_proj", "vivit.layers.*.mlp.fc2"),
        pretrained=partial(published, "Vivit", "google/vivit-b-16x2-kinetics400"),
        adapt=adapt_vivit,
        weights_from="Kinetics-400, google/vivit-b-16x2-kinetics400",
    ),
)
