"""Hugging Face's video transformers as networks of one tensor in and one out, under the names of their own modules.

`save_pretrained` writes the names of the published files, which are not always those of today's modules; `to_modules`
turns either into the latter. The trap: ViViT's and VideoMAE's files load through transformers alone otherwise.
"""

import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

# What stands in files and what it is called in the module; the first that matches is taken.
VIVIT = (
    (
        r"\bvivit\.encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.",
        r"vivit.layers.\1.attention.\2_proj.",
    ),
    (r"\bvivit\.encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"vivit.layers.\1.attention.o_proj."),
    (r"\bvivit\.encoder\.layer\.(\d+)\.intermediate\.dense\.", r"vivit.layers.\1.mlp.fc1."),
    (r"\bvivit\.encoder\.layer\.(\d+)\.output\.dense\.", r"vivit.layers.\1.mlp.fc2."),
    (r"\bvivit\.encoder\.layer\.(\d+)\.", r"vivit.layers.\1."),
)
VIDEOMAE = (
    (r"\.attention\.attention\.q_bias$", ".attention.attention.query.bias"),
    (r"\.attention\.attention\.v_bias$", ".attention.attention.value.bias"),
)
SHORT = {"query_proj": "q_proj", "key_proj": "k_proj", "value_proj": "v_proj"}


def build(kind: str, **settings: Any) -> nn.Module:
    """Build `<kind>ForVideoClassification` of `<kind>Config(**settings)` for clips [batch, frames, channels, H, W].

    It gives logits [batch, num_labels]. Attention is written out (`eager`), which leaves no mask in the graph.
    """
    import transformers

    config = getattr(transformers, f"{kind}Config")(**settings)
    whole = getattr(transformers, f"{kind}ForVideoClassification")
    if kind == "VideoMAE":
        net: nn.Module = _positioned(whole, config)
    else:
        net = whole._from_config(config, attn_implementation="eager")
    for part in net.modules():
        if type(part).__name__ == "TimesformerSelfAttention":
            part.forward = partial(_attend, part)
    net.register_forward_hook(lambda _, __, given: given.logits)
    return net


def published(kind: str, repository: str) -> Mapping[str, Tensor]:
    """Return the state dict that `repository` on the Hugging Face hub holds. Raises OSError without a network."""
    import transformers

    net = getattr(transformers, f"{kind}ForVideoClassification").from_pretrained(repository)
    state: Mapping[str, Tensor] = net.state_dict()
    return state


def to_modules(names: tuple[tuple[str, str], ...], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a state dict under the names of the modules; wrapper prefixes may be on, other names stay."""
    return {_renamed(name, names): value for name, value in state.items()}


def _renamed(name: str, names: tuple[tuple[str, str], ...]) -> str:
    for old, new in names:
        found, count = re.subn(old, new, name)
        if count:
            return re.sub(r"\b(query|key|value)_proj\b", lambda match: SHORT[match[0]], found)
    return name


def _positioned(whole: Any, config: Any) -> Any:
    """Return a VideoMAE, its table of positions computed at once: the library takes a million steps for it.

    No weight depends on the grid, so the network is built for a clip of one token and then told of the others.
    """
    size, frames = config.image_size, config.num_frames
    config.image_size, config.num_frames = config.patch_size, config.tubelet_size
    net = whole._from_config(config, attn_implementation="eager")
    config.image_size, config.num_frames = size, frames
    embeddings = net.videomae.embeddings
    count = frames // config.tubelet_size * (size // config.patch_size) ** 2
    embeddings.num_patches = embeddings.patch_embeddings.num_patches = count
    embeddings.patch_embeddings.image_size = (size, size)
    embeddings.position_embeddings = sinusoids(count, config.hidden_size)
    return net


def sinusoids(count: int, width: int) -> Tensor:
    """Return the fixed positions [1, count, width] of "Attention is all you need", sines and cosines in turn."""
    with torch.device("cpu"):  # a constant, on the meta device too
        place = torch.arange(count, dtype=torch.float64)[:, None]
        pair = torch.arange(width, dtype=torch.float64) // 2
        angle = place * torch.exp(pair * (-2 * math.log(10000) / width))
        even = torch.arange(width) % 2 == 0
        return torch.where(even, angle.sin(), angle.cos()).float()[None]


def _attend(part: Any, hidden_states: Tensor, output_attentions: bool = False) -> tuple[Tensor, ...]:
    """Attend among tokens [rows, tokens, width] as TimesformerSelfAttention does, with sizes that are numbers.

    The original takes q, k and v by three Gather, which hides from engines that they are one matrix product.
    """
    tokens, width = int(hidden_states.shape[1]), int(hidden_states.shape[2])
    apart = part.qkv(hidden_states).reshape(-1, tokens, 3, part.num_heads, width // part.num_heads)
    query, key, value = apart.permute(2, 0, 3, 1, 4).unbind(0)
    shares = (torch.matmul(query, key.transpose(-2, -1)) * part.scale).softmax(dim=-1)
    seen = torch.matmul(shares, value).transpose(1, 2).reshape(-1, tokens, width)
    return (seen, shares) if output_attentions else (seen,)
