"""Weights of which whole slices are zero, and products with them that leave those slices out.

The masked model computes mostly with zeros. What convolutions and linear layers do with rows and columns of zeros is
known: rows give nothing but the bias, columns let nothing through, unless it is not finite. So their weights are not
copied and filled with zeros; the slices that count as zero are written down beside them, and arithmetic is spent on
the others alone. Any other operator that reads such a weight is given a copy with the zeros in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.surgery.kernels import streamed

Lines = Mapping[int, Tensor]  # dimension -> which entries along it stay, bool of shape [size]
Convolve = Callable[[Sequence[Any]], Tensor]


class Zeroed:
    """Weights that count as zero outside some lines, known by where they lie in memory."""

    def __init__(self) -> None:
        self.lines: dict[int, tuple[Tensor, dict[int, Tensor]]] = {}

    def add(self, weight: Tensor, dim: int, stays: Tensor) -> None:
        """Let the slices of a weight along `dim` be zero where `stays` (bool, `[size]`) says so; they add up."""
        _, own = self.lines.setdefault(weight.data_ptr(), (weight, {}))
        own[dim] = own[dim] & stays if dim in own else stays

    def of(self, tensor: Any) -> Lines | None:
        """What stays of a weight, or of its transpose; None for any other tensor. Raises `ValueError` for its parts."""
        known = self.lines.get(tensor.data_ptr()) if self.lines and isinstance(tensor, Tensor) else None
        if known is None:
            return None
        weight, own = known
        if (tensor.shape, tensor.stride()) == (weight.shape, weight.stride()):
            return own
        if (tensor.shape[::-1], tensor.stride()[::-1]) == (weight.shape, weight.stride()) and tensor.dim() == 2:
            return {1 - dim: line for dim, line in own.items()}
        raise ValueError(f"a weight of shape {tuple(weight.shape)} is read as {tuple(tensor.shape)}")

    def written(self, tensor: Tensor) -> Tensor:
        """The weight with its zeros in it, in float64; any other tensor as it is."""
        own = self.of(tensor)
        return tensor if own is None else filled(tensor, own)


def filled(weight: Tensor, lines: Lines) -> Tensor:
    """A copy of a weight in float64 with zeros outside its lines."""
    result = weight.to(torch.float64, copy=True)
    for dim, stays in lines.items():
        result.mul_(stays.view([-1 if d == dim else 1 for d in range(weight.dim())]))
    return result


def convolution(args: Sequence[Any], lines: Lines, convolve: Convolve) -> Tensor:
    """An ATen convolution in float64 with a weight that is zero outside `lines`; `convolve` does what is left of it."""
    x, weight, bias, *geometry, transposed, padding, groups = args
    if transposed:
        return convolve([x, filled(weight, lines), *args[2:]])
    rows, inner = _chosen(weight, lines, 0), lines.get(1)
    if groups == 1:
        columns = _chosen(weight, lines, 1)
        part = _taken(weight, {0: rows, 1: columns}).double()
    else:
        alive = rows_of(weight, lines).view(groups, -1).any(1)
        rows = alive.repeat_interleave(len(weight) // groups).nonzero()[:, 0]
        columns = alive.repeat_interleave(weight.shape[1]).nonzero()[:, 0]
        part = weight.index_select(0, rows).double()
        part.mul_(rows_of(weight, lines)[rows].view(-1, *[1] * (weight.dim() - 1)))
        if inner is not None:
            part.mul_(inner.view(1, -1, *[1] * (weight.dim() - 2)))
        groups = int(alive.sum())
    if not len(rows) or not len(columns) or not _is_finite(x):
        return convolve([x, filled(weight, lines), *args[2:]])
    read = x if len(columns) == x.shape[1] else x.index_select(1, columns)
    own = None if bias is None else bias.index_select(0, rows)
    small = convolve([read, part, own, *geometry, transposed, padding, groups])
    return _spread(small, len(weight), rows, bias)


def linear(bias: Tensor | None, x: Tensor, weight: Tensor, lines: Lines) -> Tensor:
    """`x` `[N, in]` times the transpose of `weight` `[out, in]`, zero outside `lines`, plus `bias`, in float64."""
    rows, columns = _chosen(weight, lines, 0), _chosen(weight, lines, 1)
    if not len(rows) or not len(columns) or not _is_finite(x):
        out = x @ filled(weight, lines).t()
        return out if bias is None else out.add_(bias)
    read = x if len(columns) == x.shape[1] else x.index_select(1, columns)
    small = streamed(None if bias is None else bias.index_select(0, rows), read, weight, rows, columns)
    return _spread(small, len(weight), rows, bias)


def _taken(weight: Tensor, lines: Mapping[int, Tensor]) -> Tensor:
    """The entries at some positions along dimensions, by the operator that is several times faster than indexing."""
    for dim, places in lines.items():
        if len(places) < weight.shape[dim]:
            weight = weight.index_select(dim, places)
    return weight


def rows_of(weight: Tensor, lines: Lines) -> Tensor:
    """Which rows stay, bool of shape `[rows]`."""
    return lines[0] if 0 in lines else torch.ones(len(weight), dtype=torch.bool, device=weight.device)


def _chosen(weight: Tensor, lines: Lines, dim: int) -> Tensor:
    """The positions along a dimension that stay."""
    if dim not in lines:
        return torch.arange(weight.shape[dim], device=weight.device)
    return lines[dim].nonzero()[:, 0]


def _is_finite(x: Tensor) -> bool:
    """Whether zeros times any of it are zeros; a sum is finite only if every term is."""
    return bool(torch.isfinite(x.sum()))


def _spread(small: Tensor, width: int, rows: Tensor, bias: Tensor | None) -> Tensor:
    """Results of some rows among those of all, which are the bias."""
    if len(rows) == width:
        return small
    shape = [len(small), width, *small.shape[2:]]
    out = small.new_zeros(shape)
    if bias is not None:
        out += bias.view(1, -1, *[1] * (small.dim() - 2))
    out.index_copy_(1, rows, small)
    last = small.dim() == 4 and not small.is_contiguous() and small.is_contiguous(memory_format=torch.channels_last)
    return out.contiguous(memory_format=torch.channels_last) if last else out
