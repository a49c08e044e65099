"""Custom_1, the five-layer CNN of the document on chest X-ray networks: about 1 M parameters, for quick experiments.

The document fixes the number of layers, the parameters and 224 pixels; the widths here are the plain reading of them.
State-dict keys: `stages.N.conv.weight`, `stages.N.norm.*` with N from 0 to 4, `head.weight`, `head.bias`.
"""

from torch import Tensor, nn

WIDTHS = (32, 64, 128, 256, 256)


class Stage(nn.Module):
    """A 3x3 convolution, normalisation, ReLU and, to `halve`, a pooling: [N, C, H, W] -> [N, width, H/2, W/2]."""

    def __init__(self, channels: int, width: int, *, halve: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2) if halve else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of a stage."""
        pooled: Tensor = self.pool(self.relu(self.norm(self.conv(x))))
        return pooled


class Custom1(nn.Module):
    """Images [N, channels, H, W] to scores [N, num_classes]; H and W at least 16, halved by all stages but the last."""

    def __init__(self, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        last = len(WIDTHS) - 1
        self.stages = nn.Sequential(
            *(
                Stage(given, width, halve=place < last)
                for place, (given, width) in enumerate(zip((channels, *WIDTHS[:-1]), WIDTHS, strict=True))
            )
        )
        self.head = nn.Linear(WIDTHS[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores, before any softmax or sigmoid."""
        scores: Tensor = self.head(self.stages(x).mean(dim=(2, 3)))
        return scores
