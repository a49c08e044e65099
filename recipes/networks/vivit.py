"""ViViT with factorised self-attention: Arnab et al., arXiv:2103.15691, model 3 of four. Written; no library has it.

The seed document asks for "separated spatial/temporal attention" where full attention costs O((HWT)²), for tubelets
and for learnable positions in three dimensions. Model 3 is that: every block attends in space, then in time, then has
its MLP. Model 1 attends jointly (`vivit_base_joint`); model 2 has two encoders one after the other, not two attentions
in a block; in model 4 some heads of one attention look along space, the others along time. As in the paper there is no
class token, which would belong to no place and no time: the mean over all tokens is classified. The paper counts
117.3 M parameters for this model at 32 frames. The trap: TimeSformer also divides, but attends in time first and has a
class token; its weights do not fit.

Keys: `patch` (a Conv3d), `position`, `blocks.N.` with `norm1`, `space.qkv`, `space.proj`, `norm2`, `time.qkv`,
`time.proj`, `norm3`, `mlp.fc1`, `mlp.fc2`; then `norm` and `head`.
"""

import math

import torch
from torch import Tensor, nn

WIDTH, HEADS, HIDDEN, BLOCKS = 768, 12, 3072, 12  # of the Base size, as ViT-B
TUBELET, PATCH = 2, 16  # frames and pixels a side of one token
EPSILON = 1e-6
POSITION_STD = 0.02


class Attention(nn.Module):
    """Attention among the tokens of one row."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Turn [rows, tokens, width] into [rows, tokens, width]; no row sees another."""
        tokens, width = int(x.shape[1]), int(x.shape[2])
        each = width // self.heads
        q, k, v = self.qkv(x).reshape(-1, tokens, 3, self.heads, each).permute(2, 0, 3, 1, 4).unbind(0)
        scores = torch.matmul(q * each**-0.5, k.transpose(2, 3))  # [rows, heads, tokens, tokens]
        seen = torch.matmul(scores.softmax(dim=-1), v)
        mixed: Tensor = self.proj(seen.transpose(1, 2).reshape(-1, tokens, width))
        return mixed


class Mlp(nn.Module):
    """Two layers over each token."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Turn [..., width] into [..., width]."""
        out: Tensor = self.fc2(nn.functional.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Attention within each time, then along time at each place, then the MLP; each added to what came in."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, EPSILON)
        self.space = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, EPSILON)
        self.time = Attention(width, heads)
        self.norm3 = nn.LayerNorm(width, EPSILON)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Turn [batch, times, places, width] into the same shape."""
        times, places, width = (int(size) for size in x.shape[1:])
        flat = x.reshape(-1, places, width)  # a row a time
        x = (flat + self.space(self.norm1(flat))).reshape(-1, times, places, width)
        flat = x.transpose(1, 2).reshape(-1, times, width)  # a row a place
        flat = flat + self.time(self.norm2(flat))
        x = flat.reshape(-1, places, times, width).transpose(1, 2)
        out: Tensor = x + self.mlp(self.norm3(x))
        return out


class ViViT(nn.Module):
    """ViViT-B of model 3 for clips of one length and size; 0 blocks: the paper's 12."""

    def __init__(self, *, num_classes: int, frames: int, size: int, channels: int = 3, blocks: int = 0) -> None:
        super().__init__()
        self.grid = (frames // TUBELET, (size // PATCH) ** 2)
        tubelet = (TUBELET, PATCH, PATCH)
        self.patch = nn.Conv3d(channels, WIDTH, tubelet, tubelet)
        self.position = nn.Parameter(torch.empty(1, math.prod(self.grid), WIDTH))
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS, HIDDEN) for _ in range(blocks or BLOCKS))
        self.norm = nn.LayerNorm(WIDTH, EPSILON)
        self.head = nn.Linear(WIDTH, num_classes)
        nn.init.trunc_normal_(self.position, std=POSITION_STD)

    def forward(self, video: Tensor) -> Tensor:
        """Turn clips [batch, frames, channels, size, size] into logits [batch, num_classes]."""
        times, places = self.grid
        tokens = self.patch(video.transpose(1, 2)).reshape(-1, WIDTH, times * places).transpose(1, 2)
        x = (tokens + self.position).reshape(-1, times, places, WIDTH)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x).reshape(-1, times * places, WIDTH).mean(dim=1))
        return logits
