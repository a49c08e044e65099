"""MViT v2 for clips whose graph is plain products: torchvision's weights and numbers, without its Loop and ScatterND.

Li et al., arXiv:2112.01526; torchvision.models.video.mvit. torchvision's forward splits off the class token with
`tensor_split`, adds positions in place into a slice, and reads shapes from tensors: in ONNX these are Sequence and
Loop, ScatterND and Range nodes that no engine takes. Attention, pooling and positions are written here without them,
over the parameters that torchvision makes, under the same keys. The trap: torchvision's attention adds its pooled query
in place and drops what the adding function returns, so that function cannot be replaced alone.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.video.mvit import (  # type: ignore[import-untyped]
    MSBlockConfig,
    MultiscaleAttention,
    MultiscaleBlock,
    MViT,
)

Grid = tuple[int, int, int]  # tokens along time, height and width

# MViTv2-S of the paper's table 2, a stage a row: blocks, heads, width, stride of the keys and values.
STAGES = ((1, 1, 96, 8), (2, 2, 192, 4), (11, 4, 384, 2), (2, 8, 768, 1))
KERNEL = [3, 3, 3]
COLOURS = 3  # channels that torchvision builds the stem for
BLOCKS = sum(stage[0] for stage in STAGES)


def mvit_v2_s(*, num_classes: int, frames: int, size: int, channels: int = 3, depth: int = 0) -> nn.Module:
    """Return MViTv2-S for clips [batch, channels, frames, size, size] that gives logits [batch, num_classes].

    `depth` keeps the first blocks; 0: all 16. Keys and shapes are those of torchvision's `mvit_v2_s`.
    """
    net = MViT(
        spatial_size=(size, size),
        temporal_size=frames,
        block_setting=settings()[: depth or None],
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        num_classes=num_classes,
        block=Block,
    )
    if channels != COLOURS:
        net.conv_proj = nn.Conv3d(channels, STAGES[0][2], (3, 7, 7), (2, 4, 4), (1, 3, 3))
    made: nn.Module = net
    return made


def settings() -> list[MSBlockConfig]:
    """Return the sixteen blocks; the first of each later stage widens the tokens and halves the grid."""
    blocks = []
    width = STAGES[0][2]
    for stage, (count, heads, wide, stride) in enumerate(STAGES):
        for place in range(count):
            halving = 2 if stage and not place else 1
            blocks.append(
                MSBlockConfig(
                    num_heads=heads,
                    input_channels=width,
                    output_channels=wide,
                    kernel_q=KERNEL,
                    kernel_kv=KERNEL,
                    stride_q=[1, halving, halving],
                    stride_kv=[1, stride, stride],
                )
            )
            width = wide
    return blocks


class Pool(nn.Module):
    """A convolution or maximum over the grid of all tokens but the class token, then a norm; torchvision's `Pool`."""

    def __init__(self, pool: nn.Module, norm_act: nn.Module | None) -> None:
        super().__init__()
        self.pool = pool
        self.norm_act = norm_act

    def forward(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        """Pool [batch, heads, 1 + t·h·w, width] or [batch, 1 + t·h·w, width]; return it with its new grid."""
        heads, tokens, width = int(x.shape[1]) if x.ndim == 4 else 1, int(x.shape[-2]), int(x.shape[-1])
        flat = x.reshape(-1, tokens, width)  # batch and heads together
        pooled = self.pool(flat[:, 1:].transpose(1, 2).reshape(-1, width, *grid))
        frames, height, wide = (int(count) for count in pooled.shape[2:])
        places = pooled.reshape(-1, width, frames * height * wide).transpose(1, 2)
        flat = torch.cat((flat[:, :1], places), dim=1)
        if self.norm_act is not None:
            flat = self.norm_act(flat)
        if x.ndim == 4:
            flat = flat.reshape(-1, heads, 1 + frames * height * wide, width)
        return flat, (frames, height, wide)


class Attention(MultiscaleAttention):  # type: ignore[misc]
    """Attention whose queries, keys and values are pooled, with positions relative in time, height and width."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("pool_q", "pool_k", "pool_v"):
            pool = getattr(self, name)
            if pool is not None:
                setattr(self, name, Pool(pool.pool, pool.norm_act))
        self.positions = Positions()

    def forward(self, x: Tensor, thw: Grid) -> tuple[Tensor, Grid]:
        """Turn [batch, 1 + t·h·w, width] into [batch, 1 + pooled tokens, width out]; return it with its new grid."""
        tokens = int(x.shape[1])
        apart = self.qkv(x).reshape(-1, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = apart.unbind(0)  # [batch, heads, tokens, head width]
        key_grid = thw
        if self.pool_k is not None:
            k, key_grid = self.pool_k(k, thw)
        if self.pool_v is not None:
            v, _ = self.pool_v(v, thw)
        if self.pool_q is not None:
            q, thw = self.pool_q(q, thw)
        scores = torch.matmul(self.scaler * q, k.transpose(2, 3))
        tables = (self.rel_pos_t, self.rel_pos_h, self.rel_pos_w)
        scores = scores + self.positions(q, thw, key_grid, tables)
        x = torch.matmul(scores.softmax(dim=-1), v)
        x = torch.cat((x[:, :, :1], x[:, :, 1:] + q[:, :, 1:]), dim=2)  # the class token gets no pooled query
        x = x.transpose(1, 2).reshape(-1, 1 + math.prod(thw), self.output_dim)
        return self.project(x), thw


class Positions(nn.Module):
    """Relative positions; a module without weights, so that its products have names of their own in the graph."""

    def forward(self, q: Tensor, grid: Grid, key_grid: Grid, tables: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Return what they add to the scores: [batch, heads, 1 + queries, 1 + keys], 0 for the class token.

        q is [batch, heads, 1 + queries, width], unscaled; the tables of time, height and width are [distances, width].
        No tensor has more than five axes: engines stop at eight.
        """
        heads, width = int(q.shape[1]), int(q.shape[3])
        (t, h, w), (key_t, key_h, key_w) = grid, key_grid
        along_t, along_h, along_w = (
            relative(table, queries, keys).transpose(1, 2)  # [queries, width, keys]
            for table, queries, keys in zip(tables, grid, key_grid, strict=True)
        )
        places = q[:, :, 1:].reshape(-1, h, w, width)  # batch, heads and time together
        in_t = torch.matmul(places.reshape(-1, t, h * w, width), along_t)
        in_h = torch.matmul(places, along_h)
        in_w = torch.matmul(places.transpose(1, 2), along_w).transpose(1, 2)
        queries, keys = t * h * w, key_t * key_h * key_w
        added = (
            in_t.reshape(-1, queries, key_t, 1, 1)
            + in_h.reshape(-1, queries, 1, key_h, 1)
            + in_w.reshape(-1, queries, 1, 1, key_w)
        )
        return functional.pad(added.reshape(-1, heads, queries, keys), (1, 0, 1, 0))


class Block(MultiscaleBlock):  # type: ignore[misc]
    """torchvision's block around this module's attention and pooling."""

    def __init__(self, input_size: list[int], cnf: MSBlockConfig, **options: Any) -> None:
        super().__init__(input_size, cnf, **options)
        self.attn = Attention(
            input_size,
            cnf.input_channels,
            cnf.output_channels,
            cnf.num_heads,
            kernel_q=cnf.kernel_q,
            kernel_kv=cnf.kernel_kv,
            stride_q=cnf.stride_q,
            stride_kv=cnf.stride_kv,
            residual_pool=options["residual_pool"],
            residual_with_cls_embed=options["residual_with_cls_embed"],
            rel_pos_embed=options["rel_pos_embed"],
            norm_layer=options["norm_layer"],
        )
        skip: Any = getattr(self, "pool_skip", None)
        if skip is not None:
            self.pool_skip = Pool(skip.pool, None)


def relative(table: Tensor, queries: int, keys: int) -> Tensor:
    """Return each pair's row of a table: [queries, keys, width]. Where one grid is coarser its steps are longer.

    A table made for another grid is interpolated, as torchvision does. Only weights are read: exporters fold it.
    """
    distances = 2 * max(queries, keys) - 1
    if len(table) != distances:
        table = functional.interpolate(table.T[None], size=distances, mode="linear")[0].T
    step, key_step = max(keys / queries, 1.0), max(queries / keys, 1.0)
    rows = [[int(i * step - (j + 1.0 - keys) * key_step) for j in range(keys)] for i in range(queries)]
    return table[torch.tensor(rows, device=table.device)]
