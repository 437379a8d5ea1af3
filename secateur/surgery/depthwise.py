"""Depthwise convolutions in float64: torch has no kernel for them and runs an ordinary convolution for each channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

BLOCK = 65536  # entries worked on at a time, so that they stay in the processor's cache


def is_depthwise(func: Any, args: Sequence[Any]) -> bool:
    """Whether an ATen call is a two-dimensional convolution in float64 on the CPU with one filter for each channel."""
    if func is not torch.ops.aten.convolution.default or args[6]:
        return False
    x, weight, groups = args[0], args[1], args[8]
    return bool(
        x.dim() == 4
        and 1 < groups == x.shape[1] == weight.shape[0]
        and x.dtype is weight.dtype is torch.float64
        and x.device.type == "cpu"
    )


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Sequence[int]) -> Tensor:
    """`[N, C, H, W]` convolved with `[C, 1, h, w]`, one entry of the kernel after the other over all channels at once.

    `geometry`: stride, padding and dilation, each of one number or two.
    """
    stride, padding, dilation = ([*values] * (2 // len(values)) for values in geometry)
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    padded = torch.nn.functional.pad(x.contiguous(), (padding[1], padding[1], padding[0], padding[0]))
    kernel = weight.shape[2:]
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    height, width = ((n - span) // s + 1 for n, span, s in zip(padded.shape[2:], spans, stride, strict=True))
    out = x.new_zeros(*x.shape[:2], height, width)
    if bias is not None:
        out += bias[:, None, None]
    n, c, h, w = padded.stride()
    strides = (n, c, h * stride[0], w * stride[1], h * dilation[0], w * dilation[1])
    windows = padded.as_strided((*out.shape, *kernel), strides)
    size = max(1, BLOCK // (height * width))
    factors = weight[None, :, :, None]  # [1, C, 1, 1, h, w]
    for block, window, factor in zip(out.split(size, 1), windows.split(size, 1), factors.split(size, 1), strict=True):
        for taps, numbers in zip(window.unbind(4), factor.unbind(4), strict=True):
            for tap, number in zip(taps.unbind(4), numbers.unbind(4), strict=True):
                block.addcmul_(tap, number)
    return out.contiguous(memory_format=torch.channels_last) if channels_last else out
