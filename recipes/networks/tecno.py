"""TeCNO: a multi-stage temporal convolution network over the features of a frame backbone, causal by default.

Source: Czempiel et al., TeCNO, arXiv:2003.10751, and its authors' code, whose names it keeps inside `tcn`; the seed
document's `resnet50_tecno` and `efficientnet_b5_tecno`. Layer i of a stage looks 2^i and 2^(i+1) frames back: the
scales. Each adds what it finds to the stream, so that a stage's classifier reads the sum over all scales; with
`multi_scale`, which is not in the paper, it reads them side by side. State-dict names:

    backbone.*                                   as in cnn_rnn.py
    tcn.stage1.conv_1x1.*                        width -> maps
    tcn.stage1.layers.0.conv_dilated.*, .conv_1x1.*
    tcn.stage1.conv_out_classes.*                maps -> classes
    tcn.stages.0.*                               the second stage, on the softmax of the first; and so on

Padding stands outside the convolutions: zeros in front of the first frame are the initial state of a stream, of which a
causal layer keeps its last 2^(i+1) inputs. The trap: the paper's stages each have a loss; only the last one answers.
"""

from collections.abc import Sequence
from itertools import zip_longest

import torch
from torch import Tensor, nn
from torch.nn import functional

from deploy_recipes.networks.cnn_rnn import FrameEncoder

KERNEL = 3  # frames that a dilated convolution looks at
DROPOUT = 0.5  # the authors' nn.Dropout(); not there in eval mode


class DilatedResidualLayer(nn.Module):
    """x + conv_1x1(relu(conv_dilated(x))): [B, maps, T] to the same. A causal one reads no frame after its own."""

    def __init__(self, dilation: int, maps: int, causal: bool) -> None:
        super().__init__()
        self.reach = reach = dilation * (KERNEL - 1)  # frames
        self.padding = (reach, 0) if causal else (reach // 2, reach // 2)  # before, after
        self.conv_dilated = nn.Conv1d(maps, maps, KERNEL, dilation=dilation)
        self.conv_1x1 = nn.Conv1d(maps, maps, 1)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map [B, maps, T] to [B, maps, T]; also return its last inputs, as many as it looks back.

        `before` [B, maps, reach] are the inputs that came before these; without it there were none.
        """
        known = functional.pad(x, self.padding) if before is None else torch.cat([before, x], dim=2)
        found: Tensor = self.dropout(self.conv_1x1(torch.relu(self.conv_dilated(known))))
        return x + found, known[:, :, -self.reach :]


class SingleStage(nn.Module):
    """[B, width, T] to logits [B, num_classes, T]."""

    def __init__(self, layers: int, maps: int, width: int, num_classes: int, causal: bool, multi_scale: bool) -> None:
        super().__init__()
        self.multi_scale = multi_scale
        self.conv_1x1 = nn.Conv1d(width, maps, 1)
        self.layers = nn.ModuleList([DilatedResidualLayer(2**i, maps, causal) for i in range(layers)])
        self.conv_out_classes = nn.Conv1d(maps * layers if multi_scale else maps, num_classes, 1)

    def forward(self, x: Tensor, before: Sequence[Tensor] = ()) -> tuple[Tensor, list[Tensor]]:
        """Map [B, width, T] to [B, num_classes, T]; `before` and what is returned beside it: each layer's state."""
        x = self.conv_1x1(x)
        scales, after = [], []
        for layer, known in zip_longest(self.layers, before):
            x, last = layer(x, known)
            scales.append(x)
            after.append(last)
        read = torch.cat(scales, dim=1) if self.multi_scale else x
        logits: Tensor = self.conv_out_classes(read)
        return logits, after


class MultiStage(nn.Module):
    """[B, width, T] to the last stage's logits [B, num_classes, T]; each later stage refines the one before it."""

    def __init__(
        self, stages: int, layers: int, maps: int, width: int, num_classes: int, causal: bool, multi_scale: bool
    ) -> None:
        super().__init__()
        self.stage1 = SingleStage(layers, maps, width, num_classes, causal, multi_scale)
        self.stages = nn.ModuleList(
            [SingleStage(layers, maps, num_classes, num_classes, causal, multi_scale) for _ in range(stages - 1)]
        )

    def forward(self, x: Tensor, before: Sequence[Tensor] = ()) -> tuple[Tensor, list[Tensor]]:
        """Map [B, width, T] to [B, num_classes, T]; `before` and what is returned beside it: each layer's state."""
        count = len(self.stage1.layers)
        logits, after = self.stage1(x, before[:count])
        for place, stage in enumerate(self.stages, start=1):
            logits, more = stage(torch.softmax(logits, dim=1), before[place * count : (place + 1) * count])
            after += more
        return logits, after


class TeCNO(FrameEncoder):
    """Frames [B, T, C, H, W] to logits [B, T, num_classes]; with `gives_features` also features [B, T, width]."""

    def __init__(
        self,
        backbone: nn.Module,
        width: int,
        *,
        num_classes: int,
        num_stages: int = 2,
        num_layers: int = 8,
        maps: int = 32,
        causal: bool = True,
        multi_scale: bool = False,
        window: int = 0,
        gives_features: bool = False,
    ) -> None:
        super().__init__(backbone, width, window)
        self.causal = causal
        self.gives_features = gives_features
        self.tcn = MultiStage(num_stages, num_layers, maps, self.width, num_classes, causal, multi_scale)

    def forward(self, frames: Tensor, *state: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the logits, or (logits, features) where those are asked for.

        `state`, each layer's last inputs [B, maps, reach] before these frames in the order of the layers, is
        continued, and what it is after them comes last. Without `causal` it is `seen` [B, window - 1, width], the
        features of the frames before, and the logits are those of the last `window` frames.
        """
        features = self.feature_sequence(frames)
        if state and not self.causal:
            window, seen = self.slide(features, *state)
            logits, after = self.tcn(window.transpose(1, 2))[0], [seen]
        else:
            logits, after = self.tcn(features.transpose(1, 2), state)
        others = [features] if self.gives_features else []
        others += after if state else []
        return (logits.transpose(1, 2), *others) if others else logits.transpose(1, 2)
