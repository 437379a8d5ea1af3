"""Depthwise convolutions in float64 equal torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from secateur.surgery.depthwise import depthwise, is_depthwise

CONVOLUTION = torch.ops.aten.convolution.default


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 5)])
@pytest.mark.parametrize(
    ("stride", "padding", "dilation"), [([1], [0], [1]), ([2, 1], [1, 2], [1]), ([3], [4], [2, 1])]
)
def test_it_equals_torch(kernel: tuple[int, int], stride: list[int], padding: list[int], dilation: list[int]) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 5, 13, 11).double(), torch.randn(5, 1, *kernel).double()
    for bias in (None, torch.randn(5).double()):
        ours = depthwise(x, weight, bias, stride, padding, dilation)
        theirs = functional.conv2d(x, weight, bias, stride, padding, dilation, groups=5)
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)


def test_channels_last_stays() -> None:
    x, weight = torch.randn(2, 6, 8, 8).double().to(memory_format=torch.channels_last), torch.randn(6, 1, 3, 3).double()
    ours = depthwise(x, weight, None, [1], [1], [1])
    torch.testing.assert_close(ours, functional.conv2d(x, weight, padding=1, groups=6), rtol=1e-13, atol=1e-13)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_many_channels_are_worked_on_in_blocks() -> None:
    x, weight = torch.randn(1, 70, 40, 40).double(), torch.randn(70, 1, 3, 3).double()
    ours = depthwise(x, weight, None, [1], [1], [1])
    torch.testing.assert_close(ours, functional.conv2d(x, weight, padding=1, groups=70), rtol=1e-13, atol=1e-13)


def test_only_depthwise_calls_are_taken() -> None:
    def call(x: torch.Tensor, weight: torch.Tensor, groups: int, transposed: bool = False) -> bool:
        return is_depthwise(CONVOLUTION, (x, weight, None, [1], [0], [1], transposed, [0], groups))

    x, weight = torch.randn(1, 4, 5, 5).double(), torch.randn(4, 1, 3, 3).double()
    assert call(x, weight, 4)
    assert not call(x, weight, 4, transposed=True)
    assert not call(x.float(), weight.float(), 4)
    assert not call(x, torch.randn(8, 1, 3, 3).double(), 4)
    assert not call(x, torch.randn(4, 2, 3, 3).double(), 2)
    assert not call(x[:, :, 0], weight[:, :, 0], 4)
    assert not is_depthwise(torch.ops.aten.relu.default, (x,))
