"""A net small enough to be compiled whole in a test, in a user's own file."""

from typing import TYPE_CHECKING

from deploy_recipes import Classes, DenseMap, Keep, Param, Preprocess, Recipe, Tensor

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


def causal(*, num_classes: int) -> "nn.Module":
    """Build a net for frames [batch, T, 3, 16, 16] and h [batch, 1, 32]: logits of every frame, and the state after."""
    import torch
    from torch import nn

    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.ReLU())
            self.rnn = nn.GRU(32, 32, batch_first=True)
            self.head = nn.Linear(32, num_classes)

        def forward(self, frames: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            seen = self.stem(frames.reshape(-1, 3, 16, 16)).mean(dim=(2, 3))
            outputs, after = self.rnn(
                seen.reshape(frames.shape[0], frames.shape[1], 32), h.transpose(0, 1).contiguous()
            )
            return self.head(outputs), after.transpose(0, 1)

    return Causal()


tiny_stream = Recipe(
    name="tiny_stream",
    family="tiny",
    network=causal,
    inputs=(Tensor("frames", ("batch", 6, 3, 16, 16), layout="NTCHW"),),
    outputs=(Tensor("logits", ("batch", 6, 5), layout="NTC"),),
    task=Classes(5, of=("logits",)),
    parameters=7_397,
    source="written for the tests",
    preprocess=Preprocess(crop=(16, 16), mean=(0.5,) * 3, std=(0.25,) * 3, layout="TCHW", short_side=16, frames=6),
    params=(Param("num_classes", 5, "number of classes", range(5, 6)),),
).carrying(Tensor("h", ("batch", 1, 32), layout="NLC"))


def comparing() -> "nn.Module":
    """Build a net for two images [batch, 1, 32, 32] that gives a map of what is new in the second."""
    import torch
    from torch import nn

    class Comparing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
            self.head = nn.Sequential(nn.Conv2d(32, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1))

        def forward(self, baseline: torch.Tensor, followup: torch.Tensor) -> torch.Tensor:
            diff_map: torch.Tensor = self.head(torch.cat([self.encoder(baseline), self.encoder(followup)], dim=1))
            return diff_map

    return Comparing()


tiny_pair = Recipe(
    name="tiny_pair",
    family="tiny",
    network=comparing,
    inputs=tuple(Tensor(name, ("batch", 1, 32, 32), layout="NCHW") for name in ("baseline", "followup")),
    outputs=(Tensor("diff_map", ("batch", 1, 32, 32), layout="NCHW"),),
    task=DenseMap(),
    parameters=7_249,
    source="written for the tests",
    preprocess=Preprocess(crop=(32, 32), mean=(0.5,), std=(0.5,), layout="CHW", short_side=32),
    keep_float=(Keep("/head/head.2/Conv", "ONNX Runtime keeps what makes the graph's output in float"),),
    pair=("baseline", "followup"),
)
