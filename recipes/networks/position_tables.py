"""Position tables of a transformer fitted to another image size, as its authors do when they change the resolution.

The trap: positions between those that were trained are a guess, if a good one; accuracy has to be measured again.
"""

import math
from collections.abc import Mapping

from torch import Size, Tensor
from torch.nn import functional


def resized(state: Mapping[str, Tensor], wanted: Mapping[str, Size]) -> Mapping[str, Tensor]:
    """Return a state dict whose tables have the `wanted` shapes, by their names; wrapper prefixes may be on.

    A table over places, [1, height · width, channels], is square; one over distances is [distances, channels]. Both are
    interpolated linearly. A table that this does not fit is left as it is, for the loader to refuse.
    """
    return {name: _fitted(value, _shape(name, wanted)) for name, value in state.items()}


def _shape(name: str, wanted: Mapping[str, Size]) -> Size | None:
    return next((shape for own, shape in wanted.items() if name == own or name.endswith(f".{own}")), None)


def _fitted(table: Tensor, shape: Size | None) -> Tensor:
    if shape is None or table.shape == shape or table.ndim != len(shape) or table.shape[-1] != shape[-1]:
        return table
    if table.ndim == 2:
        return functional.interpolate(table.T[None], size=shape[0], mode="linear")[0].T.contiguous()
    side, wide = math.isqrt(table.shape[1]), math.isqrt(shape[1])
    if table.ndim != 3 or side * side != table.shape[1] or wide * wide != shape[1]:
        return table
    square = table.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    return functional.interpolate(square, size=(wide, wide), mode="bilinear").flatten(2).transpose(1, 2).contiguous()
