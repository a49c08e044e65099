"""The encoder of the longitudinal chest X-ray networks, and the library blocks that it is made of, written plainly.

The document (models.py of longitudinal change detection; see `longitudinal` for how it was read) takes blocks of
`EfficientNetModel` and a `ViTEncoder` from transformers 4. Version 5 has no ViTEncoder any more and other module names,
so nothing is imported: the blocks stand here, with the names of version 4, and a test holds them to the library's
numbers.

    EfficientNetBlock   expansion.{expand_conv, expand_bn}, depthwise_conv.{depthwise_conv, depthwise_norm},
                        squeeze_excite.{reduce, expand}, projection.{project_conv, project_bn}
    ViTLayer            layernorm_before, attention.attention.{query, key, value}, attention.output.dense,
                        layernorm_after, intermediate.dense, output.dense

The trap: before a stride of two transformers pads as TensorFlow does, one more at the bottom and right than at the
other sides, which PyTorch's own padding does not.
"""

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

BATCH_NORM_EPSILON = 1e-3  # transformers' EfficientNetConfig
BATCH_NORM_MOMENTUM = 0.01  # torch's word for it: that config says 0.99, of the old value
LAYER_NORM_EPSILON = 1e-12  # transformers' ViTConfig
GROUPS = 32  # the document's GROUP_NORM_GROUPS
HEADS = 12
MLP_RATIO = 4
FEATURES = 640  # the document's FEATURE_CHANNELS
INTER, HIDDEN = 704, 768  # INTER_CHANNELS, HIDDEN_CHANNELS
STEM = (8, 64)
LAYERS = 12
SHRINK = 16  # of the encoder: 512 pixels to 32 features
PATCH = 32  # pixels a token stands for, each way
INIT_STD = 0.02
# in, out, kernel, stride, expansion, residual of B7's blocks 0, 4, 11, 18, 28, 38, 51, 52
BLOCKS = (
    (64, 32, 3, 1, 1, False),
    (32, 48, 3, 2, 6, False),
    (48, 80, 5, 2, 6, False),
    (80, 160, 3, 2, 6, False),
    (160, 224, 5, 1, 6, False),
    (224, 384, 5, 2, 6, False),
    (384, 640, 3, 1, 6, False),
    (640, 640, 3, 1, 6, True),
)
SKIPS = (3, 2, 1)  # the blocks whose features the decoder sees, in its order
SQUEEZE = 4  # the squeeze-excite's middle is so many times narrower than the block's input,
LEAST_SQUEEZED = 8  # but in reduced networks no narrower: TensorRT computes products over fewer channels in float


def group_norm(channels: int) -> nn.GroupNorm:
    """Return the norm of all convolutions here: 32 groups, or as many of them as divide the channels.

    The document's 32 does not divide its own 8, 48, 80 and 40 channels: the greatest common divisor is the reading.
    """
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels)


class ConvNormAct(nn.Sequential):
    """Convolution that keeps height and width, group norm, SiLU: [batch, wide, H, W] to [batch, narrow, H, W]."""

    def __init__(self, wide: int, narrow: int, kernel: int = 3, groups: int = 1) -> None:
        conv = nn.Conv2d(wide, narrow, kernel, padding=kernel // 2, groups=groups, bias=False)
        super().__init__(OrderedDict(conv=conv, norm=group_norm(narrow), act=nn.SiLU()))


class SqueezeExcite(nn.Module):
    """Weigh each channel by what all places say: [batch, channels, H, W] to the same."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Average, look at all channels, multiply."""
        return x * torch.sigmoid(self.expand(functional.silu(self.reduce(x.mean((2, 3), keepdim=True)))))


class EfficientNetBlock(nn.Module):
    """One block of EfficientNet: [batch, wide, H, W] to [batch, narrow, H / stride, W / stride]."""

    def __init__(self, wide: int, narrow: int, *, kernel: int, stride: int, expand: int, residual: bool) -> None:
        super().__init__()
        middle = wide * expand
        before, after = (kernel // 2, kernel // 2) if stride == 1 else (kernel // 2 - 1, kernel // 2)
        self.expansion = nn.Sequential()
        if expand > 1:
            widen = nn.Conv2d(wide, middle, 1, bias=False)
            self.expansion = _named(expand_conv=widen, expand_bn=_batch_norm(middle), act=nn.SiLU())
        self.depthwise_conv = _named(
            pad=nn.ZeroPad2d((before, after, before, after)),
            depthwise_conv=nn.Conv2d(middle, middle, kernel, stride, groups=middle, bias=False),
            depthwise_norm=_batch_norm(middle),
            act=nn.SiLU(),
        )
        self.squeeze_excite = SqueezeExcite(middle, max(LEAST_SQUEEZED, wide // SQUEEZE))
        self.projection = _named(project_conv=nn.Conv2d(middle, narrow, 1, bias=False), project_bn=_batch_norm(narrow))
        self.residual = residual

    def forward(self, given: Tensor) -> Tensor:
        """Expand, look around, weigh the channels, project; add the input where the block is residual."""
        made: Tensor = self.projection(self.squeeze_excite(self.depthwise_conv(self.expansion(given))))
        return made + given if self.residual else made


class SelfAttention(nn.Module):
    """Attention of every token to every token: [batch, tokens, width] to the same."""

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.shape = (tokens, HEADS, width // HEADS)  # literal, so that the graph computes no shapes
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Attend with twelve heads."""
        tokens, heads, size = self.shape
        query, key, value = (
            made.reshape(-1, tokens, heads, size).transpose(1, 2)
            for made in (self.query(x), self.key(x), self.value(x))
        )
        weights = torch.softmax((query * size**-0.5) @ key.transpose(2, 3), dim=-1)
        mixed: Tensor = (weights @ value).transpose(1, 2)
        return mixed.reshape(-1, tokens, heads * size)


class ViTLayer(nn.Module):
    """One layer of ViT, normalised before attention and before the MLP: [batch, tokens, width] to the same."""

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.layernorm_before = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)
        self.attention = _named(attention=SelfAttention(width, tokens), output=_named(dense=nn.Linear(width, width)))
        self.layernorm_after = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)
        self.intermediate = _named(dense=nn.Linear(width, MLP_RATIO * width))
        self.output = _named(dense=nn.Linear(MLP_RATIO * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Add attention, then the MLP."""
        x = x + self.attention(self.layernorm_before(x))
        made: Tensor = x + self.output(functional.gelu(self.intermediate(self.layernorm_after(x))))
        return made


class ViTEncoder(nn.Module):
    """ViT-Base's layers without a last norm, as in transformers 4: [batch, tokens, width] to the same."""

    def __init__(self, width: int, tokens: int, layers: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList([ViTLayer(width, tokens) for _ in range(layers)])

    def forward(self, x: Tensor) -> Tensor:
        """Pass every layer."""
        for layer in self.layer:
            x = layer(x)
        return x


class Widths:
    """The published channel counts, all scaled by `features` / 640, the published width of the encoder's features."""

    def __init__(self, features: int = FEATURES) -> None:
        self.features = features

    def __call__(self, published: int) -> int:
        """Return how many channels stand for a published count."""
        return published * self.features // FEATURES


class MiniEncoder(nn.Module):
    """EfficientNetMiniEncoder: [batch, channels, S, S] to features [batch, 640, S / 16, S / 16] and three skips.

    The skips are [batch, 160, S / 8, S / 8], [batch, 80, S / 4, S / 4] and [batch, 48, S / 2, S / 2].
    """

    def __init__(self, width: Widths, channels: int = 1) -> None:
        super().__init__()
        first, second = (width(published) for published in STEM)
        self.stem = nn.Sequential(ConvNormAct(channels, first), ConvNormAct(first, second))
        self.blocks = nn.ModuleList(
            EfficientNetBlock(
                width(wide), width(narrow), kernel=kernel, stride=stride, expand=expand, residual=residual
            )
            for wide, narrow, kernel, stride, expand, residual in BLOCKS
        )

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the features, and those that skip to the decoder, the smallest first."""
        x, seen = self.stem(image), []
        for block in self.blocks:
            x = block(x)
            seen.append(x)
        return nn.functional.silu(x), [seen[index] for index in SKIPS]


class TransformerBranch(nn.Module):
    """Features to tokens, through a ViT and back: [batch, 640, s, s] to the same; `plain`: without norms or 704."""

    def __init__(self, width: Widths, vit: ViTEncoder, side: int, *, plain: bool = False) -> None:
        super().__init__()
        features, inter, hidden = width(FEATURES), width(INTER), width(HIDDEN)
        self.side, self.hidden, self.vit = side, hidden, vit
        self.position_embeddings = nn.Parameter(torch.empty(1, side * side, hidden))
        nn.init.trunc_normal_(self.position_embeddings, std=INIT_STD)
        self.down: nn.Module = nn.Conv2d(features, hidden, 2, 2)
        self.up: nn.Module = nn.ConvTranspose2d(hidden, features, 2, 2)
        if not plain:
            halve = nn.Conv2d(inter, hidden, 2, 2, bias=False)
            double = nn.ConvTranspose2d(hidden, inter, 2, 2, bias=False)
            self.down = nn.Sequential(ConvNormAct(features, inter), halve, group_norm(hidden), nn.SiLU())
            self.up = nn.Sequential(double, group_norm(inter), nn.SiLU(), ConvNormAct(inter, features))

    def forward(self, x: Tensor) -> Tensor:
        """Return what the tokens say, at the features' places."""
        tokens = self.down(x).reshape(-1, self.hidden, self.side**2).transpose(1, 2) + self.position_embeddings
        tokens = self.vit(tokens).transpose(1, 2)
        made: Tensor = self.up(tokens.reshape(-1, self.hidden, self.side, self.side))
        return made


class BottleneckBlock(nn.Module):
    """A transformer's and a convolutional branch beside each other, compressed: [batch, 640, s, s] to the same."""

    def __init__(self, width: Widths, vit: ViTEncoder, side: int) -> None:
        super().__init__()
        features = width(FEATURES)
        self.transformer = TransformerBranch(width, vit, side)
        self.convolution = nn.Sequential(ConvNormAct(features, features), ConvNormAct(features, features))
        self.compress = ConvNormAct(2 * features, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return both branches' answer in the features' channels."""
        made: Tensor = self.compress(torch.cat([self.transformer(x), self.convolution(x)], 1))
        return made


class BottleneckEncoder(nn.Module):
    """EfficientNet, then a BottleneckBlock: [batch, channels, S, S] to [batch, 640, S / 16, S / 16] and the skips."""

    def __init__(self, width: Widths, size: int, layers: int, channels: int = 1) -> None:
        super().__init__()
        self.efficientnet = MiniEncoder(width, channels)
        self.bottleneck = BottleneckBlock(width, vit_encoder(width, size, layers), size // PATCH)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the features and what skips to the decoder."""
        features, skips = self.efficientnet(image)
        return self.bottleneck(features), skips


def vit_encoder(width: Widths, size: int, layers: int) -> ViTEncoder:
    """Return ViT-Base's encoder for images of `size` pixels; `layers` 0 are the published twelve."""
    return ViTEncoder(width(HIDDEN), (size // PATCH) ** 2, layers or LAYERS)


def _named(**parts: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(parts))


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPSILON, momentum=BATCH_NORM_MOMENTUM)
