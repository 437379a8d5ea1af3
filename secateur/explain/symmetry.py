"""Which inputs are interchangeable: by the weights that read them, and by what a network does when they are swapped."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.explain.columns import chain, read_inputs
from secateur.sparse import Network


def weight_symmetry(network: Network) -> Tensor:
    """The cosine of the first layer's weights of each pair of inputs, `[in, in]`, float64.

    1: the network sees the sum of the two alone; -1: their difference; 0: no hidden unit reads both, or one is dead.
    Every hidden unit counts by the paths that leave it, so that scaling a rectified one changes nothing.
    """
    first, *later = network.layers
    leaving = torch.ones(len(network.units[-1]), dtype=torch.float64)
    for layer in reversed(later):
        leaving = leaving @ layer.weight.double().abs()
    columns = first.weight.double() * leaving[:, None]
    lengths = columns.norm(dim=0)
    cosine = (columns.t() @ columns) / (lengths[:, None] * lengths)
    return torch.where((lengths[:, None] * lengths) > 0, cosine, 0).clamp(-1, 1)


@dataclass(frozen=True)
class Pair:
    """Two inputs, as positions in the first column, and how the outputs change when their values change places.

    `swapped`: mean |f(x) - f(x with x_i and x_j swapped)|; `negated`: the same for (x_i, x_j) -> (-x_j, -x_i). Both
    are multiples of what swapping two inputs at random does: near 0, the network is symmetric.
    """

    first: int
    second: int
    cosine: float
    swapped: float
    negated: float


def swap_symmetry(
    network: Network, inputs: Tensor, *, most: int = 30, reference: int = 100, seed: int = 0
) -> tuple[Pair, ...]:
    """The pairs of inputs whose weights are most alike or most opposite, with what swapping them does.

    At most `most` pairs, the largest |cosine| first, of those whose cosine is not 0; `reference` is how many random
    pairs the changes are measured by (all of them where there are fewer).
    """
    if reference < 1:
        raise InputError(f"The 'reference' parameter of swap_symmetry must be an int of at least 1. Got {reference}.")
    x = read_inputs(network, inputs)
    cosine = weight_symmetry(network)
    first, second = torch.triu_indices(len(cosine), len(cosine), offset=1)
    values = cosine[first, second]
    chosen = [i for i in values.abs().argsort(descending=True, stable=True).tolist()[:most] if values[i] != 0]
    usual = _reference(network, x, reference, seed)
    found = []
    for at in chosen:
        i, j = int(first[at]), int(second[at])
        swapped, negated = (_change(network, x, i, j, sign) / usual if usual else 0.0 for sign in (1, -1))
        found.append(Pair(i, j, float(values[at]), swapped, negated))
    return tuple(found)


def _reference(network: Network, x: Tensor, most: int, seed: int) -> float:
    """What swapping a random pair does, on average."""
    pairs = list(itertools.combinations(range(x.shape[1]), 2))
    if len(pairs) > most:
        drawn = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))[:most]
        pairs = [pairs[i] for i in drawn.tolist()]
    return sum(_change(network, x, i, j, 1) for i, j in pairs) / max(len(pairs), 1)


def _change(network: Network, x: Tensor, i: int, j: int, sign: int) -> float:
    """The mean change of the outputs when inputs i and j change places, and signs where `sign` is -1."""
    other = x.clone()
    other[:, i], other[:, j] = sign * x[:, j], sign * x[:, i]
    return float((chain(network, x) - chain(network, other)).abs().mean())


def map_symmetry(kept: Tensor) -> dict[str, float]:
    """How much a map of kept pixels `[height, width]` is its own mirror image: intersection over union, in [0, 1]."""
    if kept.dim() != 2:
        raise InputError(f"The 'kept' parameter of map_symmetry must be [height, width]. Got {tuple(kept.shape)}.")
    kept = kept != 0
    turned = {"left-right": kept.flip(1), "top-bottom": kept.flip(0), "half turn": kept.flip(0, 1)}
    if kept.shape[0] == kept.shape[1]:
        turned["transposed"] = kept.t()
    return {name: float((kept & other).sum() / (kept | other).sum().clamp(min=1)) for name, other in turned.items()}
