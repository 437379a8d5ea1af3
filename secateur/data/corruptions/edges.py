"""Where the edges of an image are, and how far every pixel is from one."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.data.corruptions.linear import banded, like, separable


def edges(images: Tensor, low: float, high: float) -> Tensor:
    """The edges of Canny (1986) in grey images, [batch, 1, height, width]: float32 of that shape, 1 on an edge, else 0.

    Ridges of the Sobel gradient's length, compared with its neighbours interpolated along the gradient; those above
    `high` and what hangs together with them above `low`. The outermost pixels are none.
    """
    down, across = _sobel(images)
    length = torch.hypot(down, across)
    weak = F.pad(_ridge(length, down, across)[..., 1:-1, 1:-1], (1, 1, 1, 1)).mul_(_where(torch.ge, length, low))
    found = _where(torch.ge, length, high).mul_(weak)
    while True:
        grown = _grown(found).mul_(weak)
        if torch.equal(grown, found):
            return found
        found = grown


def distances(marked: Tensor, most: int) -> Tensor:
    """The Euclidean distance to the nearest pixel that is not 0, at most `most`: float32 [..., height, width]."""
    along = torch.where(marked > 0, 0.0, float(most))
    reach = 1
    while reach < most:  # along the row: what is right up to one reach is right up to twice as far after the next
        nearer = along + reach
        for here, there in ((slice(reach, None), slice(None, -reach)), (slice(None, -reach), slice(reach, None))):
            torch.minimum(along[..., here], nearer[..., there], out=along[..., here])
        reach *= 2
    height = marked.shape[-2]
    padded = F.pad(along.square_(), (0, 0, most, most), value=float(most**2))
    nearest, both = along, torch.empty_like(along)
    for away in range(1, most):
        above, below = (padded[..., start : start + height, :] for start in (most - away, most + away))
        torch.minimum(nearest, torch.minimum(above, below, out=both).add_(away**2), out=nearest)
    return nearest.sqrt_()


def _where(compare: Callable[..., Tensor], values: Tensor, other: Tensor | float) -> Tensor:
    """1 where the comparison holds, else 0, in float32: on a CPU several times as fast as with booleans."""
    return compare(values, other, out=torch.empty_like(values))


def _grown(marked: Tensor) -> Tensor:
    """The largest of every pixel and the eight around it."""
    for axis in (-1, -2):
        size = marked.shape[axis]
        out = marked.clone()
        for here, there in ((1, 0), (0, 1)):
            part = out.narrow(axis, here, size - 1)
            torch.maximum(part, marked.narrow(axis, there, size - 1), out=part)
        marked = out
    return marked


def _sobel(images: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives down and across, the border reflected."""
    rises, means = (
        like(images, banded, *((size, taps, "reflect") for size in images.shape[-2:]))
        for taps in ((-1, 0, 1), (1, 2, 1))
    )
    return separable(images, rises[0], means[1]), separable(images, means[0], rises[1])


def _ridge(length: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """1 where the gradient is as long as on both sides along its own direction, else 0."""
    height, width = length.shape[-2:]
    padded = F.pad(length, (1, 1, 1, 1))

    def beside(by_rows: int, by_columns: int) -> Tensor:
        return padded[..., 1 + by_rows : 1 + by_rows + height, 1 + by_columns : 1 + by_columns + width]

    falls = _where(torch.lt, down * across, 0)
    down, across = down.abs(), across.abs()
    steep = _where(torch.ge, down, across)
    share = torch.minimum(down, across).div_(torch.maximum(down, across).clamp_(min=1e-12))
    ridge = torch.ones_like(steep)
    for side in (-1, 1):
        straight = _either(steep, beside(side, 0), beside(0, side))
        # of a shallow gradient that falls, the side to the right is the one above
        slanted = _either(falls, _either(steep, beside(side, -side), beside(-side, side)), beside(side, side))
        ridge.mul_(_where(torch.le, slanted.sub_(straight).mul_(share).add_(straight), length))
    return ridge


def _either(which: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """`one` where `which` is 1, `other` where it is 0, both to the last bit."""
    return torch.addcmul(other * (1 - which), which, one)
