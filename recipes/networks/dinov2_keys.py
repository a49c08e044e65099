"""Key names of DINOv2 vision transformers: from Hugging Face's Dinov2Model to timm's `vit_*_dinov2`.

Known are today's names (`attention.q_proj`) and the older ones of most published files (`attention.attention.query`).
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# Names within a Hugging Face Dinov2Model and within timm's; query, key and value are joined afterwards.
NAMES = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"^layernorm\.", "norm."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attention\.(?:attention\.query|q_proj)\.", ".attn.qkv.0."),
    (r"\.attention\.(?:attention\.key|k_proj)\.", ".attn.qkv.1."),
    (r"\.attention\.(?:attention\.value|v_proj)\.", ".attn.qkv.2."),
)


def to_timm(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the state dict of a Hugging Face Dinov2Model under timm's names; wrapper prefixes stay on.

    The network may be called `dinov2.` within another; the `classifier.` beside it becomes `head.`. The mask token,
    which only pre-training uses, is left behind, also in files of the DINOv2 authors' own code, whose names are timm's.
    """
    marks = [name for name in state if name.endswith("embeddings.cls_token")]
    prefix = marks[0].removesuffix("embeddings.cls_token") if marks else ""
    wrapper = prefix.removesuffix("dinov2.")
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.split(".")[-1] == "mask_token":
            continue
        if marks and name.startswith(prefix):
            plain = name.removeprefix(prefix)
            for old, new in NAMES:
                plain = re.sub(old, new, plain)
            renamed[wrapper + plain] = value
        elif marks and name.startswith(f"{wrapper}classifier."):
            renamed[name.replace("classifier.", "head.", 1)] = value
        else:
            renamed[name] = value
    return _joined(renamed)


def _joined(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the state with the three matrices (and biases) of each `qkv.0`, `.1`, `.2` as one, where all are there."""
    joined: dict[str, Tensor] = {}
    for name, value in state.items():
        part = re.fullmatch(r"(.*\.attn\.qkv\.)([012])\.(weight|bias)", name)
        three = [f"{part[1]}{place}.{part[3]}" for place in range(3)] if part else []
        if not part or not all(other in state for other in three):
            joined[name] = value
        elif part[2] == "0":
            joined[part[1] + part[3]] = torch.cat([state[other] for other in three])
    return joined
