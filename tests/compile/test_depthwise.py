"""Depthwise convolutions as shifted products give what PyTorch's own give, and no other module is touched."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deploy_compile.depthwise import shifted

KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_the_answers_are_those_of_the_convolution(data: st.DataObject) -> None:
    axes = data.draw(st.integers(1, 3))

    def each(least: int, most: int) -> Any:
        return tuple(data.draw(st.integers(least, most)) for _ in range(axes))

    channels, kernel, dilation, padding = data.draw(st.integers(2, 5)), each(1, 4), each(1, 2), each(0, 3)
    net = KINDS[axes - 1](
        channels,
        channels,
        kernel,
        stride=each(1, 3),
        padding=padding,
        dilation=dilation,
        groups=channels,
        bias=data.draw(st.booleans()),
    ).double()
    sizes = [step * (reach - 1) + 1 + more for step, reach, more in zip(dilation, kernel, each(0, 5), strict=True)]
    x = torch.randn(data.draw(st.integers(1, 3)), channels, *sizes, dtype=torch.float64)
    with torch.inference_mode():
        wanted = net(x)
        assert shifted(net) == 1
        torch.testing.assert_close(net(x), wanted, rtol=1e-12, atol=1e-12)


class Doubled(nn.Conv2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(1, 1, 3),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect"),
        nn.ConvTranspose2d(4, 4, 3, groups=4),
        Doubled(4, 4, 3, groups=4),
    ],
)
def test_any_other_module_is_left_as_it_is(conv: nn.Module) -> None:
    assert shifted(nn.Sequential(conv)) == 0
    assert "forward" not in vars(conv)
