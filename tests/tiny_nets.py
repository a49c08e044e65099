"""A net small enough to be compiled whole in a test, in a user's own file."""

from typing import TYPE_CHECKING

from deploy_recipes import Classes, Param, Preprocess, Recipe, Tensor

if TYPE_CHECKING:
    from torch import nn


def network(*, num_classes: int) -> "nn.Module":
    """Build a residual net for images [batch, 3, 32, 32] that gives logits [batch, num_classes]."""
    import torch
    from torch import nn

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(
                nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
            )
            self.block = nn.Sequential(
                nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
                nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16),
            )  # fmt: skip
            self.head = nn.Linear(16, num_classes)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            x = self.stem(image)
            x = torch.relu(x + self.block(x))
            logits: torch.Tensor = self.head(x.mean(dim=(2, 3)))
            return logits

    return Tiny()


tiny = Recipe(
    name="tiny",
    family="tiny",
    network=network,
    inputs=(Tensor("image", ("batch", 3, 32, 32), layout="NCHW"),),
    outputs=(Tensor("logits", ("batch", 5), layout="NC"),),
    task=Classes(5),
    parameters=5221,
    source="written for the tests",
    preprocess=Preprocess(crop=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3, layout="CHW", short_side=32),
    params=(Param("num_classes", 5, "number of classes", range(5, 6)),),
    branch_ends=("block.4",),
)
