"""A convolutional network for each frame, a recurrent one over the frames, a linear classifier.

Source: the seed documents' `CNN_LSTM` and `CNN_GRU` (a score a clip) and `resnet50_lstm` … `efficientnet_b5_gru` (a
score a frame). State-dict names:

    backbone.*          torchvision's own without its classifier: backbone.conv1.weight, backbone.layer4.0.bn3.bias;
                        of an EfficientNet backbone.features.0.0.weight
    rnn.*               torch.nn.LSTM's or GRU's: rnn.weight_ih_l0, rnn.bias_hh_l1, rnn.weight_ih_l0_reverse
    attention.0.*, .2.* the two Linear layers that score a frame, where attention is on
    classifier.*        the last Linear

`features` looks at each frame by itself and what follows is cheap: a stream keeps the recurrent state and runs the
backbone once a frame. The trap: a reshape whose feature size is not a literal breaks where batch and time are both
dynamic.
"""

from typing import Literal

import torch
from torch import Tensor, nn

Summary = Literal["frames", "ends", "last", "mean"]

DROPOUT = 0.3  # of the documents, between recurrent layers and before the classifier; not there in eval mode
ATTENTION_SHRINK = 4  # the attention's hidden layer is so many times narrower than what it looks at


class FrameEncoder(nn.Module):
    """What networks over a frame backbone share. `backbone` turns frames [N, C, H, W] into features [N, width].

    `window` is how many frames a network that reads later ones too looks at, where it takes them as they come.
    """

    def __init__(self, backbone: nn.Module, width: int, window: int) -> None:
        super().__init__()
        self.backbone, self.width, self.window = backbone, width, window

    def features(self, frames: Tensor) -> Tensor:
        """Run the backbone on every frame by itself: [B, T, C, H, W] to [B·T, width]."""
        out: Tensor = self.backbone(frames.reshape(-1, *frames.shape[2:]))
        return out

    def feature_sequence(self, frames: Tensor) -> Tensor:
        """Return the documents' `extract_features`: [B, T, C, H, W] to [B, T, width]."""
        return self.features(frames).reshape(frames.shape[0], frames.shape[1], self.width)

    def slide(self, features: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last `window` frames' features [B, window, width], and those but the first, to be `seen` next.

        `features` [B, T, width] follow on `seen` [B, window - 1, width].
        """
        known = torch.cat([seen, features], dim=1)
        return known[:, -self.window :].reshape(-1, self.window, self.width), known[:, 1 - self.window :]


class CNNRNN(FrameEncoder):
    """Frames [B, T, C, H, W] to logits: [B, T, num_classes] with summary `frames`, else [B, num_classes].

    `summary` says what of the recurrent outputs the classifier reads: each frame's (`frames`), the final state of each
    direction (`ends`), the last frame's output in both directions (`last`: of the backward direction that is its first
    step; the usual `output[:, -1]`), or the `mean` over frames. With `attention` a clip is read through weights over
    its frames instead, and each frame of `frames` has that weighted sum added; the weights [B, T] become the second
    output. With `gives_features` the backbone's features [B, T, width] come last.
    """

    def __init__(
        self,
        backbone: nn.Module,
        width: int,
        cell: Literal["lstm", "gru"],
        *,
        num_classes: int,
        hidden_dim: int = 512,
        num_layers: int = 2,
        bidirectional: bool = False,
        attention: bool = False,
        summary: Summary = "frames",
        window: int = 0,
        gives_features: bool = False,
    ) -> None:
        super().__init__(backbone, width, window)
        self.summary: Summary = summary
        self.hidden_dim = hidden_dim
        self.gives_features = gives_features
        kind = nn.LSTM if cell == "lstm" else nn.GRU
        self.rnn = kind(
            self.width,
            hidden_dim,
            num_layers,
            batch_first=True,
            dropout=DROPOUT if num_layers > 1 else 0.0,  # it is between layers
            bidirectional=bidirectional,
        )
        wide = hidden_dim * (2 if bidirectional else 1)
        narrow = max(wide // ATTENTION_SHRINK, 1)
        self.attention = nn.Sequential(nn.Linear(wide, narrow), nn.Tanh(), nn.Linear(narrow, 1)) if attention else None
        self.dropout = nn.Dropout(DROPOUT)
        self.classifier = nn.Linear(wide, num_classes)

    def forward(self, frames: Tensor, *state: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the logits, or (logits, attention weights where they are on, features where they are asked for).

        `state`, what an LSTM (h, c) or GRU (h) knew before these frames, each [B, num_layers, hidden_dim], is
        continued, and what it knows after them comes last. Of a network that reads later frames too it is `seen`
        [B, window - 1, width], the features of the frames before; it answers for the last `window` frames.
        """
        features = self.feature_sequence(frames)
        outputs, following = self._recurred(features, state)
        logits, *others = self.head(outputs)
        if self.gives_features:
            others.append(features)
        others += following
        return (logits, *others) if others else logits

    def _recurred(self, features: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
        """Return the recurrent outputs [B, T, wide] of features [B, T, width], and the state after them."""
        if not state:
            return self.rnn(features)[0], []
        if self.rnn.bidirectional or self.attention is not None or self.summary == "mean":
            window, seen = self.slide(features, *state)
            return self.rnn(window)[0], [seen]
        before = [part.transpose(0, 1).contiguous() for part in state]  # PyTorch wants the layers first
        outputs, after = self.rnn(features, tuple(before) if len(before) > 1 else before[0])
        return outputs, [part.transpose(0, 1) for part in (after if len(before) > 1 else (after,))]

    def head(self, outputs: Tensor) -> tuple[Tensor, ...]:
        """Turn recurrent outputs [B, T, wide] into (logits,), or (logits, attention weights [B, T])."""
        if self.attention is None:
            return (self.classifier(self.dropout(self._summarised(outputs))),)
        weights = torch.softmax(self.attention(outputs), dim=1)  # [B, T, 1]
        context = (weights * outputs).sum(dim=1)  # [B, wide]
        read = outputs + context.unsqueeze(1) if self.summary == "frames" else context
        return self.classifier(self.dropout(read)), weights.squeeze(-1)

    def _summarised(self, outputs: Tensor) -> Tensor:
        if self.summary == "frames":
            return outputs
        if self.summary == "mean":
            return outputs.mean(dim=1)
        if self.summary == "last" or not self.rnn.bidirectional:
            return outputs[:, -1]
        return torch.cat([outputs[:, -1, : self.hidden_dim], outputs[:, 0, self.hidden_dim :]], dim=-1)
