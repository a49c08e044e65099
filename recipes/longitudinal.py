"""Longitudinal chest X-rays: pairs of studies to a map of change, and the networks it is trained with. Written here.

The document that describes them gives no code, no weights and no preprocessing. How it was read stands in
`networks/longitudinal.py`; grey levels are taken from 0..255 to -1..1 (mean and std 0.5), both studies of a pair alike:
where training did otherwise, state it in a recipe of your own. The pair's order matters: `baseline` is the earlier.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from deploy_recipes.recipe import DenseMap, Keep, MultiLabel, Param, Preprocess, Recipe, Tensor
from deploy_runtime.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

SIZE, PATCH = 512, 32
WIDTH = 640
FINDINGS = (  # of ChestX-ray14, in the order of its paper (Wang et al., arXiv:1705.02315)
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
XRAY = Preprocess(crop=(SIZE, SIZE), mean=(0.5,), std=(0.5,), layout="CHW", short_side=SIZE)
AT_THE_END = "the last convolution, of one channel: ONNX Runtime keeps what makes the graph's output in float"
TRANSPOSED = "a transposed convolution: TensorRT computes it in float whatever the graph says"

# The last normalisation or Linear layer of each residual branch: EfficientNet's one residual block, attention, MLP.
BRANCH_ENDS = ("*blocks.7.projection.project_bn", "*vit.layer.*.output.dense")

# ViT layers of transformers 5 by their names in transformers 4, which the networks here have.
RENAMED = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def network(kind: str, *, size: int, depth: int, width: int, **others: Any) -> "nn.Module":
    """Build a network of `networks.longitudinal` for images of `size` pixels."""
    from deploy_recipes.networks import longitudinal

    if "encoder" in others:
        others["together"] = others.pop("encoder") == "once"
    net: nn.Module = getattr(longitudinal, kind)(size=size, layers=depth, features=width, **others)
    return net


def classifier(*, num_classes: int, features: bool, **others: Any) -> "nn.Module":
    """Build the classifier for images [batch, channels, size, size] that gives logits [batch, num_classes]."""
    from deploy_recipes.networks.features import with_features

    net = network("ClassificationModel", labels=num_classes, **others)
    return with_features(net, "head") if features else net


def discriminator(*, size: int, depth: int, channels: int) -> "nn.Module":  # noqa: ARG001 (it takes any size)
    """Build PatchGAN for maps [batch, channels, size, size] that gives a logit a patch."""
    from deploy_recipes.networks.longitudinal import Discriminator

    net: nn.Module = Discriminator(channels=channels, layers=depth or PATCHGAN_LAYERS)
    return net


def adapt(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rename the ViT layers of transformers 5 to the names of version 4; any other state dict stays as it is."""
    new = re.compile(rf"(\.layers?\.\d+\.)({'|'.join(map(re.escape, RENAMED))})(\.\w+)$")
    return {new.sub(lambda hit: hit[1] + RENAMED[hit[2]] + hit[3], name): value for name, value in state.items()}


def shaped(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Fit inputs, outputs and task to size, channels and labels. Raises UsageError for a size that does not fit."""
    size, channels = values["size"], values.get("channels", 1)
    if size % PATCH:
        below = size // PATCH * PATCH
        raise UsageError(
            f"--param size={size} is no multiple of {PATCH}",
            f"The encoder halves four times and the transformer once more: give {below} or {below + PATCH}.",
        )
    fitted = with_images(recipe, size, channels)
    if "num_classes" not in values:
        out = channels if recipe.name == "masked_reconstruction" else 1
        return replace(fitted, outputs=(replace(recipe.outputs[0], shape=("batch", out, size, size)),))
    count = values["num_classes"]
    outputs = [Tensor("logits", ("batch", count), layout="NC")]
    if values["features"]:
        outputs.append(Tensor("features", ("batch", values["width"]), layout="NC"))
    labels = FINDINGS if count == len(FINDINGS) else ()
    return replace(fitted, outputs=tuple(outputs), task=MultiLabel(count, 0.0, of=("logits",)), labels=labels)


def shaped_discriminator(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Fit input and output: `depth` halvings, then two convolutions that lose a row and a column each."""
    size, layers = values["size"], values["depth"] or PATCHGAN_LAYERS
    side = size // 2**layers - 2
    if side < 1:
        raise UsageError(
            f"--param size={size} leaves nothing after {layers} halvings and two convolutions",
            f"Give at least {3 * 2**layers}, or a smaller --param depth.",
        )
    return replace(
        with_images(recipe, size, values["channels"]),
        outputs=(replace(recipe.outputs[0], shape=("batch", 1, side, side)),),
        keep_float=(Keep(f"/model/model.{3 * layers + 2}/Conv", AT_THE_END),),
    )


def with_images(recipe: Recipe, size: int, channels: int) -> Recipe:
    """Return the recipe with all its inputs and the preprocessing at one size."""
    return replace(
        recipe,
        inputs=tuple(replace(tensor, shape=("batch", channels, size, size)) for tensor in recipe.inputs),
        preprocess=replace(
            XRAY, crop=(size, size), short_side=size, mean=XRAY.mean * channels, std=XRAY.std * channels
        ),
    )


def model(name: str, parameters: int, **changed: Any) -> Recipe:
    """Return one network of the family: its inputs and outputs, parameters and what else it has."""
    recipe = replace(LONGITUDINAL, name=name, parameters=parameters, **changed)
    return recipe.fitted(recipe.values({}))


def pair(name: str, kind: str, parameters: int) -> Recipe:
    """Return one network that compares two studies."""
    return model(name, parameters, network=partial(network, kind), params=(*PARAMS, ENCODER), pair=BOTH)


def image(name: str, channels: int = 1) -> Tensor:
    """Return an image or map of the default size."""
    return Tensor(name, ("batch", channels, SIZE, SIZE), layout="NCHW")


BOTH = ("baseline", "followup")
PAIR = tuple(map(image, BOTH))
PARAMS = (
    Param("size", SIZE, "height and width in pixels, a multiple of 32", range(PATCH, 1025)),
    Param("depth", 0, "layers of the transformer; 0: the published twelve", range(25)),
    Param("width", WIDTH, "channels of the encoder's features; all others in proportion", (80, 160, 320, 640)),
)
ENCODER = Param("encoder", "once", "both studies as one batch, or one by one: the same numbers", ("once", "twice"))
CHANNELS = Param("channels", 1, "channels of an image: 1 grey, 3 colour", (1, 3))
TWIN = {"size": "128", "depth": "1", "width": "80"}
PATCHGAN_LAYERS = 3

LONGITUDINAL = Recipe(
    name="longitudinal_mim_big",
    family="longitudinal",
    network=network,
    inputs=PAIR,
    outputs=(image("diff_map"),),
    task=DenseMap(),
    parameters=0,
    source="the document Models Architecture (models.py of longitudinal change detection); written, see its readings",
    preprocess=XRAY,
    params=PARAMS,
    shaped=shaped,
    branch_ends=BRANCH_ENDS,
    adapt=adapt,
    twin=TWIN,
    keep_float=(Keep("*/up/*ConvTranspose", TRANSPOSED),),
)

RECIPES = (
    pair("longitudinal_mim_big", "LongitudinalMIMModelBig", 179_717_145),
    pair("longitudinal_mim", "LongitudinalMIMModel", 119_731_504),
    model(
        "masked_reconstruction",
        100_091_824,
        network=partial(network, "MaskedReconstructionModel"),
        inputs=(image("image"),),
        outputs=(image("reconstruction"),),
        params=(*PARAMS, CHANNELS),
        twin={**TWIN, "width": "160"},
    ),
    model(
        "cxr_classification",
        116_640_062,
        network=classifier,
        inputs=(image("image"),),
        params=(
            Param("num_classes", len(FINDINGS), "number of findings", range(1, 1001)),
            *PARAMS,
            CHANNELS,
            Param("features", False, "give the feature vector as an output, too"),
        ),
    ),
    model(
        "patchgan_discriminator",
        2_763_585,
        network=discriminator,
        inputs=(image("diff_map"),),
        outputs=(image("patch_logits"),),
        params=(
            Param("size", SIZE, "height and width in pixels; 70 are what a patch sees", range(24, 2049)),
            Param("depth", 0, "convolutions that halve; 0: the published three", range(5)),
            CHANNELS,
        ),
        shaped=shaped_discriminator,
        branch_ends=(),
        adapt=None,
        twin={"size": "32", "depth": "2"},
    ),
)
