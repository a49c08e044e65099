"""Longitudinal chest X-ray networks: pairs of studies to a map of change, and what they are trained with.

Source: the document "Models Architecture" (models.py, `LongitudinalMIMModelBig` and others). It gives shapes, blocks
and three parameter counts (180, 120, 100 M), not the code. The readings, chosen together so that the three counts fit
(179.7, 119.7, 100.1 M); a fit, not evidence of the original:

* The encoder's stem is 1 -> 8 -> 64 channels (`inp=1, exp=8, exp2=8`) at full size; the diagram's "1 -> 64 -> 512"
  does not fit B7's block 0, which takes 64. `block_idxs` counts B7's 55 blocks as transformers does: the first of each
  of the seven stages and the second of the last. The features of blocks 1, 2 and 3 are the decoder's skips.
* The transformer's branch is 640 -> 704 (3x3) -> 768 (2x2, stride 2): a token for 32 x 32 pixels, 256 of 512 x 512.
* LongitudinalMIMModelBig has a BottleneckBlock in the encoder and one behind the fusion, which share one ViT (their
  constructors take it): 180 M. Fusion paths are 1280 wide there; 640 wide with 1x1 kernels in LongitudinalMIMModel.
* "Depthwise (1x1)" compares like with like: groups of one channel of the baseline and the same of the follow-up.
* A skip is both encoders' features, through a 1x1 convolution, added. The sigmoid comes once, behind the last 1x1.
* The smaller networks end in a 1x1 convolution and a pixel shuffle.

State-dict names: `encoder.efficientnet.{stem, blocks.N}`, `encoder.bottleneck.{transformer, convolution, compress}`,
`fusion`, `bottleneck`, `decoder`, `head`; inside blocks and layers those of transformers 4 (see longitudinal_parts).
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from deploy_recipes.networks.longitudinal_parts import (
    BLOCKS,
    FEATURES,
    PATCH,
    SHRINK,
    SKIPS,
    BottleneckBlock,
    BottleneckEncoder,
    ConvNormAct,
    MiniEncoder,
    TransformerBranch,
    Widths,
    group_norm,
    vit_encoder,
)

DECODER = (320, 160, 80, 40)
PATCHGAN_WIDTH = 64  # of its first convolution
LEAK = 0.2


class DifferenceFusion(nn.Module):
    """Two studies' features [batch, 1280, s, s], channels in turn, to their difference [batch, 640, s, s].

    Three paths: 1x1 in pairs, 3x3, and depthwise 7x7 with 1x1. `light` halves them and has 1x1 for 3x3.
    """

    def __init__(self, width: Widths, *, light: bool = False) -> None:
        super().__init__()
        features = width(FEATURES)
        both = 2 * features
        path, kernel = (features, 1) if light else (both, 3)
        self.depthwise = ConvNormAct(both, path, 1, groups=features)
        self.standard = ConvNormAct(both, path, kernel)
        spatial = nn.Conv2d(both, both, 7, padding=3, groups=both, bias=False)
        self.separable = nn.Sequential(OrderedDict(spatial=spatial, pointwise=ConvNormAct(both, path, 1)))
        self.out = ConvNormAct(3 * path, features, kernel)

    def forward(self, pair: Tensor) -> Tensor:
        """Return what differs."""
        made: Tensor = self.out(torch.cat([self.depthwise(pair), self.standard(pair), self.separable(pair)], 1))
        return made


class DecoderBlock(nn.Module):
    """Double the size, add the skip, two convolutions: [batch, wide, s, s] to [batch, narrow, 2 s, 2 s]."""

    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(wide, narrow, 2, 2, bias=False)
        self.norm = group_norm(narrow)
        self.convs = nn.Sequential(ConvNormAct(narrow, narrow), ConvNormAct(narrow, narrow))

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Return the larger features; `skip` has their shape."""
        x = self.norm(self.up(x))
        made: Tensor = self.convs(x if skip is None else x + skip)
        return made


class Decoder(nn.Module):
    """U-Net decoder: features [batch, 640, S / 16, S / 16] and pairs of skips to a map [batch, 1, S, S] in [0, 1]."""

    def __init__(self, width: Widths) -> None:
        super().__init__()
        sizes = [width(published) for published in (FEATURES, *DECODER)]
        self.blocks = nn.ModuleList(map(DecoderBlock, sizes, sizes[1:]))
        skipped = [2 * width(BLOCKS[index][1]) for index in SKIPS]
        self.skips = nn.ModuleList(nn.Conv2d(wide, narrow, 1) for wide, narrow in zip(skipped, sizes[1:], strict=False))
        self.out = nn.Conv2d(sizes[-1], 1, 1)

    def forward(self, x: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """`skips` are of both studies, one behind the other in the channels, the smallest first."""
        for index, block in enumerate(self.blocks):
            x = block(x, self.skips[index](skips[index]) if index < len(skips) else None)
        return torch.sigmoid(self.out(x))


class ShuffleHead(nn.Module):
    """Features [batch, 640, S / 16, S / 16] to a map [batch, channels, S, S] in [0, 1], each feature 16 x 16 pixels."""

    def __init__(self, width: Widths, channels: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width(FEATURES), channels * SHRINK**2, 1)
        self.shuffle = nn.PixelShuffle(SHRINK)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map."""
        return torch.sigmoid(self.shuffle(self.conv(x)))


class PairEncoder(nn.Module):
    """What the networks of pairs share: one encoder for both studies, which it sees as one batch (`together`) or apart.

    Nothing in the encoder mixes the images of a batch, so that the numbers are the same; which is faster is for
    benchmarks/shared_encoder.py to measure.
    """

    def __init__(self, width: Widths, size: int, layers: int, together: bool) -> None:
        super().__init__()
        self.encoder, self.together = BottleneckEncoder(width, size, layers), together

    def encoded(self, baseline: Tensor, followup: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return features and skips of both studies [2 batch, C, s, s], each pair's one behind the other."""
        if self.together:
            made: tuple[Tensor, list[Tensor]] = self.encoder(in_one_batch(baseline, followup))
            return made
        (before, skips), (after, others) = self.encoder(baseline), self.encoder(followup)
        return in_turn(before, after), [in_turn(one, other) for one, other in zip(skips, others, strict=True)]


class LongitudinalMIMModelBig(PairEncoder):
    """Two studies [batch, 1, S, S] to the map of their difference [batch, 1, S, S] in [0, 1]; 180 M parameters."""

    def __init__(self, *, size: int = 512, layers: int = 0, features: int = FEATURES, together: bool = True) -> None:
        width = Widths(features)
        super().__init__(width, size, layers, together)
        self.fusion = DifferenceFusion(width)
        self.bottleneck = BottleneckBlock(width, self.encoder.bottleneck.transformer.vit, size // PATCH)
        self.decoder = Decoder(width)
        initialise(self)

    def forward(self, baseline: Tensor, followup: Tensor) -> Tensor:
        """Encode both studies, compare, decode."""
        features, skips = self.encoded(baseline, followup)
        changed = self.bottleneck(self.fusion(alternating(features)))
        # a study and its follow-up stand behind each other in the batch: so their channels do, in a batch half as long
        made: Tensor = self.decoder(changed, [skip.reshape(-1, 2 * skip.shape[1], *skip.shape[2:]) for skip in skips])
        return made


class LongitudinalMIMModel(PairEncoder):
    """Two studies [batch, 1, S, S] to the map of their difference [batch, 1, S, S] in [0, 1]; 120 M, no decoder."""

    def __init__(self, *, size: int = 512, layers: int = 0, features: int = FEATURES, together: bool = True) -> None:
        width = Widths(features)
        super().__init__(width, size, layers, together)
        self.fusion = DifferenceFusion(width, light=True)
        self.head = ShuffleHead(width)
        initialise(self)

    def forward(self, baseline: Tensor, followup: Tensor) -> Tensor:
        """Encode both studies, compare, spread out."""
        made: Tensor = self.head(self.fusion(alternating(self.encoded(baseline, followup)[0])))
        return made


class MaskedReconstructionModel(nn.Module):
    """A masked image [batch, channels, S, S] to the whole one, in [0, 1], of the same shape; 100 M parameters."""

    def __init__(self, *, size: int = 512, layers: int = 0, features: int = FEATURES, channels: int = 1) -> None:
        super().__init__()
        width = Widths(features)
        self.efficientnet = MiniEncoder(width, channels)
        self.transformer = TransformerBranch(width, vit_encoder(width, size, layers), size // PATCH, plain=True)
        self.head = ShuffleHead(width, channels)
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        """Fill in what is masked."""
        made: Tensor = self.head(self.transformer(self.efficientnet(image)[0]))
        return made


class ClassificationModel(nn.Module):
    """An image [batch, channels, S, S] to the logits of its findings [batch, labels]: no sigmoid."""

    def __init__(
        self, *, labels: int = 14, size: int = 512, layers: int = 0, features: int = FEATURES, channels: int = 1
    ) -> None:
        super().__init__()
        self.encoder = BottleneckEncoder(Widths(features), size, layers, channels)
        self.head = nn.Linear(features, labels)
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        """Encode, average over all places, classify."""
        made: Tensor = self.head(self.encoder(image)[0].mean((2, 3)))
        return made


class Discriminator(nn.Module):
    """PatchGAN: a map [batch, channels, S, S] to a logit a patch, "is it real?", [batch, 1, S / 8 - 2, S / 8 - 2].

    Isola et al., arXiv:1611.07004: each answer sees 70 x 70 pixels. The document says no more than "PatchGAN"; names
    and batch norm are those of pix2pix's own NLayerDiscriminator (`model.0` ... `model.11`). `layers` is its n_layers.
    """

    def __init__(self, *, channels: int = 1, layers: int = 3) -> None:
        super().__init__()
        widths = [min(2**step, 8) * PATCHGAN_WIDTH for step in range(layers + 1)]
        parts: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, 2, 1), nn.LeakyReLU(LEAK)]
        for step, (wide, narrow) in enumerate(pairwise(widths), 1):
            stride = 2 if step < layers else 1
            conv = nn.Conv2d(wide, narrow, 4, stride, 1, bias=False)
            parts += [conv, nn.BatchNorm2d(narrow), nn.LeakyReLU(LEAK)]
        self.model = nn.Sequential(*parts, nn.Conv2d(widths[-1], 1, 4, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Judge each patch."""
        made: Tensor = self.model(image)
        return made


def in_one_batch(baseline: Tensor, followup: Tensor) -> Tensor:
    """Return both studies [batch, 1, S, S] as one batch [2 batch, 1, S, S], each pair's one behind the other."""
    return torch.cat([baseline, followup], 1).reshape(-1, 1, *baseline.shape[2:])


def in_turn(before: Tensor, after: Tensor) -> Tensor:
    """Return features [batch, C, s, s] of the one and of the other studies as [2 batch, C, s, s], a pair at a time."""
    return torch.cat([before, after], 1).reshape(-1, *before.shape[1:])


def alternating(features: Tensor) -> Tensor:
    """Return features [2 batch, C, s, s] of pairs as [batch, 2 C, s, s], the two studies' channels in turn."""
    channels, height, width = features.shape[1:]
    return features.reshape(-1, 2, channels, height, width).transpose(1, 2).reshape(-1, 2 * channels, height, width)


def initialise(net: nn.Module) -> None:
    """Draw convolutions as the document does, Kaiming normal of fan-in, for ReLU; biases zero."""
    for part in net.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(part.weight, mode="fan_in", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
