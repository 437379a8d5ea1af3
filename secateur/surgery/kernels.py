"""Three operators in float64 that torch has no good way to compute.

Depthwise convolutions run as one ordinary convolution for each channel; a product with a weight in single precision
first needs a copy of it twice its size, for which fresh memory costs more than the arithmetic; and the products of
experts with their own rows are not made for float64 at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

BLOCK = 32767  # entries worked on at a time: they stay in the processor's cache, and torch wakes no thread for so few
LARGE = 1 << 19  # entries of a weight converted at a time, for the same reason


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


def is_streamed(func: Any, args: Sequence[Any]) -> bool:
    """Whether an ATen call multiplies by the transpose of a large weight that is not in float64 yet."""
    if func is not torch.ops.aten.mm.default and not (func is torch.ops.aten.addmm.default and len(args) == 3):
        return False
    weight = args[-1]
    return bool(
        weight.numel() > LARGE
        and weight.dtype in (torch.float32, torch.float16, torch.bfloat16)
        and weight.device.type == "cpu"
        and weight.t().is_contiguous()
    )


def streamed(
    bias: Tensor | None, x: Tensor, weight: Tensor, rows: Tensor | None = None, columns: Tensor | None = None
) -> Tensor:
    """`x` `[N, in]` times the transpose of `weight` `[out, in]` plus `bias` in float64, a few rows after the other.

    With `rows` and `columns` of those alone, by position.
    """
    count, width = len(weight) if rows is None else len(rows), x.shape[1]
    size = max(1, LARGE // width)
    out = x.new_empty(len(x), count)
    scratch = x.new_empty(min(size, count), width)
    for start, block in zip(range(0, count, size), out.split(size, 1), strict=True):
        part = weight[start : start + size] if rows is None else weight.index_select(0, rows[start : start + size])
        if columns is not None and len(columns) < part.shape[1]:
            part = part.index_select(1, columns)
        block.copy_(x @ scratch[: len(part)].copy_(part).t())
    return out if bias is None else out.add_(bias)


def is_grouped(func: Any, args: Sequence[Any]) -> bool:
    """Whether an ATen call multiplies by the matrices of experts, in float64; torch takes no bias there yet."""
    alone = func is torch.ops.aten._grouped_mm.default and (len(args) < 4 or args[3] is None)
    return alone and args[0].dtype is torch.float64


def grouped(left: Tensor, right: Tensor, ends: Tensor | None = None) -> Tensor:
    """The products of experts: of each a matrix of its own, or the entries from `ends[e - 1]` to `ends[e]` of one.

    `[N, in]` times `[E, in, out]` gives every expert a run of rows (`[N, out]`), `[E, N, in]` times `[in, out]` a run
    of columns (`[N, out]`), two matrices a run of what is summed over (`[E, N, out]`); without `ends` there are none.
    """
    if ends is None:
        return left @ right
    runs = [slice(*run) for run in pairwise([0, *ends.tolist()])]
    if left.dim() == right.dim() == 2:
        return torch.stack([left[:, run] @ right[run] for run in runs])
    out = left.new_zeros(left.shape[-2], right.shape[-1])
    for e, run in enumerate(runs):
        if left.dim() == 2:
            out[run] = left[run] @ right[e]
        else:
            out[:, run] = left[e] @ right[:, run]
    return out
