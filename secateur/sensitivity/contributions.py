"""How much of a neuron's sum one weight, or all weights that read one channel, make up.

With the activations `a >= 0` split by the sign of the weights that meet them, `z+ = W+ a` and `z- = W- a`, one weight
contributes to patch `p`

    g_ij,p(x) = max(W+_ij a_jp / z+_ip, W-_ij a_jp / z-_ip)   in [0, 1]

(SiPP, arXiv 1910.05422; PFP, arXiv 1911.07412). One of the two terms is zero, and no bias takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from secateur.sensitivity.products import Product, reciprocal, signed

ROOM = 1 << 22
"""How many numbers a product of all weights with all patches may hold at once."""

Contribution = Callable[[Product], Tensor]


def mean_contributions(product: Product) -> Tensor:
    """`[G, I, J]`: the mean of `g` over patches, the largest over the points of one example.

    One matrix product does it, since weights are the same at every patch: `mean_p g = W+ * ((1 / z+) A^T) / P`, and the
    same with `W-`.
    """
    both = signed(product)
    each = [both * (reciprocal(both @ points) @ points.mT) / points.shape[-1] for points in product.points]
    return _largest(each)


def peak_contributions(product: Product) -> Tensor:
    """`[G, I, J]`: the largest `g` of all patches and points of one example."""
    both = signed(product)
    return _largest([both.abs() * _peaks(points, reciprocal(both @ points).abs()) for points in product.points])


def channel_contributions(product: Product, labels: Tensor, units: int) -> Tensor:
    """`[units]`: the largest share that all columns of a unit together have in any neuron, at any patch.

    `labels`, int64 `[G, J]`, tells the unit of every column, or -1.
    """
    both, found = signed(product), product.weight.new_zeros(units)
    for points in product.points:
        scale = reciprocal(both @ points)
        for g in range(len(both)):
            for chosen, table in _columns(labels[g], units, scale.shape[-2] * scale.shape[-1]):
                rows = _padded(both[g], 1)[:, table].transpose(0, 1)  # [units, 2 I, columns of one]
                shares = rows @ _padded(points[g], 0)[table] * scale[g]
                found[chosen] = torch.maximum(found[chosen], shares.flatten(1).amax(1))
    return found


def _largest(each: list[Tensor]) -> Tensor:
    """The largest over points of what two halves of rows, of which one is zero, have together."""
    whole = torch.stack(each).amax(0)
    half = whole.shape[-2] // 2
    return whole[..., :half, :] + whole[..., half:, :]


def _peaks(points: Tensor, scale: Tensor) -> Tensor:
    """`max_p a_jp scale_ip`, `[G, rows, J]`, a few rows at a time."""
    at_once = max(1, ROOM // max(1, points.numel()))
    parts = [(points[:, None] * rows[:, :, None]).amax(-1) for rows in scale.split(at_once, dim=1)]
    return torch.cat(parts, dim=1)


def _columns(labels: Tensor, units: int, room: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Units and their columns, `[units, most]`, filled up with the number after the last column, a few at a time."""
    owned = (labels >= 0).nonzero().flatten()
    owned = owned[labels[owned].argsort(stable=True)]
    many = torch.bincount(labels[owned], minlength=units)
    place = torch.arange(len(owned), device=labels.device) - (many.cumsum(0) - many)[labels[owned]]
    table = torch.full((units, int(many.max())), len(labels), device=labels.device)
    table[labels[owned], place] = owned
    for chosen in many.nonzero().flatten().split(max(1, ROOM // room)):
        yield chosen, table[chosen]


def _padded(tensor: Tensor, dim: int) -> Tensor:
    """The tensor with zeros after its last column or row."""
    return torch.cat([tensor, torch.zeros_like(tensor.narrow(dim, 0, 1))], dim)
