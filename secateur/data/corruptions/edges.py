"""Where the edges of an image are, and how far every pixel is from one."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.data.corruptions.linear import Matrix, folded, separable


def edges(images: Tensor, low: float, high: float) -> Tensor:
    """The edges of Canny (1986) in grey images, [batch, 1, height, width] -> bool of that shape.

    Ridges of the Sobel gradient's length, compared with its neighbours interpolated along the gradient; those above
    `high` and what hangs together with them above `low`. The outermost pixels are none.
    """
    down, across = _sobel(images)
    length = torch.hypot(down, across)
    ridge = _ridge(length, down, across)
    inner = F.pad(torch.ones_like(ridge[..., 1:-1, 1:-1]), (1, 1, 1, 1))
    weak = ridge & inner & (length >= low)
    found = weak & (length >= high)
    while True:
        grown = weak & (F.max_pool2d(found.float(), 3, stride=1, padding=1) > 0)
        if torch.equal(grown, found):
            return found
        found = grown


def distances(marked: Tensor, most: int) -> Tensor:
    """The Euclidean distance to the nearest marked pixel, at most `most`: float32 in the shape [..., height, width]."""
    width = marked.shape[-1]
    columns = torch.arange(width, device=marked.device)
    left = columns - torch.where(marked, columns, -most).cummax(-1).values
    right = torch.where(marked, columns, width - 1 + most).flip(-1).cummin(-1).values.flip(-1) - columns
    along = torch.minimum(left, right).clamp(max=most).float().square()
    padded = F.pad(along, (0, 0, most, most), value=float(most**2))
    height = marked.shape[-2]
    nearest = along
    for away in range(1, most):
        both = torch.minimum(
            padded[..., most - away :, :][..., :height, :], padded[..., most + away :, :][..., :height, :]
        )
        nearest = torch.minimum(nearest, both + away**2)
    return nearest.sqrt().clamp(max=most)


def _sobel(images: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives down and across, the border reflected."""
    (rise_h, mean_h), (rise_w, mean_w) = (_slopes(size) for size in images.shape[-2:])
    return separable(images, rise_h, mean_w), separable(images, mean_h, rise_w)


@lru_cache(maxsize=64)
def _slopes(size: int) -> tuple[Matrix, Matrix]:
    """Sobel's difference and weighted sum along one axis, as matrices."""
    here = np.arange(size)
    before, after = (np.eye(size)[folded(here + by, size, "reflect")] for by in (-1, 1))
    return after - before, before + 2 * np.eye(size) + after


def _ridge(length: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Where the gradient is as long as on both sides along its own direction."""
    height, width = length.shape[-2:]
    padded = F.pad(length, (1, 1, 1, 1))

    def beside(by_rows: int, by_columns: int) -> Tensor:
        return padded[..., 1 + by_rows : 1 + by_rows + height, 1 + by_columns : 1 + by_columns + width]

    steep = down.abs() >= across.abs()
    larger, smaller = (torch.where(steep, *pair) for pair in ((down, across), (across, down)))
    share = smaller.abs() / larger.abs().clamp(min=1e-12)
    falls = down * across < 0
    ridge = torch.ones_like(steep)
    for side in (-1, 1):
        straight = torch.where(steep, beside(side, 0), beside(0, side))
        slanted = torch.where(falls, beside(side, -side), beside(side, side))
        # of a shallow gradient that falls, the side to the right is the one above
        slanted = torch.where(falls & ~steep, beside(-side, side), slanted)
        ridge &= torch.lerp(straight, slanted, share) <= length
    return ridge
