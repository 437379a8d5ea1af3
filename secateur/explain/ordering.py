"""An order of every column's units in which the edges between columns cross little.

Sweeps of barycentres and medians (Sugiyama, Tagawa & Toda 1981; Gansner et al. 1993), then swaps of neighbours as long
as one helps.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from secateur.sparse import Network

Orders = tuple[NDArray[np.int64], ...]
"""For each column its units, as positions in the network, from first to last."""

ROUNDS = 12
"""Sweeps there and back; few networks change after half of them."""

SWAPS = 30
"""Rounds of swaps at most; each one that goes on has removed a crossing."""


def as_they_are(network: Network) -> Orders:
    """Every column in the network's own order."""
    return tuple(np.arange(len(column)) for column in network.units)


def crossings(network: Network, orders: Orders) -> int:
    """How many pairs of edges cross when columns are drawn in these orders; edges with a common end do not."""
    return sum(_between(layer.weight, orders[i], orders[i + 1]) for i, layer in enumerate(network.layers))


def _between(weight: Tensor, left: NDArray[np.int64], right: NDArray[np.int64]) -> int:
    """Of two edges, that which starts higher ends lower: counted by sums over the adjacency in drawn order."""
    there = (weight != 0).numpy()[right][:, left].T.astype(np.int64)
    below = there[::-1].cumsum(0)[::-1]
    later = np.zeros_like(there)
    later[:-1] = below[1:]
    above = later.cumsum(1)
    before = np.zeros_like(above)
    before[:, 1:] = above[:, :-1]
    return int((there * before).sum())


def untangled(network: Network) -> Orders:
    """The best orders found; never more crossings than in the network's own order."""
    best = orders = as_they_are(network)
    least = crossings(network, best)
    for turn in range(ROUNDS):
        orders = _sweep(network, orders, down=turn % 2 == 0, median=turn % 4 > 1)
        count = crossings(network, orders)
        if count < least:
            best, least = orders, count
    swapped = _swapped(network, best)
    return swapped if crossings(network, swapped) < least else best


def _sweep(network: Network, orders: Orders, *, down: bool, median: bool) -> Orders:
    """Each column in turn put into the order of the middle of what its units are joined to in the one before."""
    new = list(orders)
    columns = range(1, len(orders)) if down else range(len(orders) - 2, -1, -1)
    for column in columns:
        beside = column - 1 if down else column + 1
        there = _joined(network, column, beside)
        place = np.empty(len(new[beside]))
        place[new[beside]] = (np.arange(len(place)) + 0.5) / max(len(place), 1)
        own = np.empty(len(new[column]))
        own[new[column]] = (np.arange(len(own)) + 0.5) / max(len(own), 1)  # of a unit that nothing joins
        for unit in range(len(own)):
            ends = place[there[unit]]
            if len(ends):
                own[unit] = np.median(ends) if median else ends.mean()
        new[column] = new[column][np.argsort(own[new[column]], kind="stable")]
    return tuple(new)


def _joined(network: Network, column: int, beside: int) -> NDArray[np.bool_]:
    """Which units of a column are joined to which of the one beside it: `[units, units beside]`."""
    weight = network.layers[min(column, beside)].weight != 0
    found: NDArray[np.bool_] = (weight if column > beside else weight.t()).numpy()
    return found


def _swapped(network: Network, orders: Orders) -> Orders:
    """The orders after neighbours changed places wherever that removed crossings."""
    new = [list(order) for order in orders]
    for _ in range(SWAPS):
        moved = [_pass(network, new, column) for column in range(len(new))]
        if not any(moved):
            break
    return tuple(np.array(order, dtype=np.int64) for order in new)


def _pass(network: Network, orders: list[list[int]], column: int) -> bool:
    """One pass of swaps down a column; whether there was any."""
    ends: list[list[NDArray[np.int64]]] = [[] for _ in orders[column]]
    for beside in (column - 1, column + 1):
        if 0 <= beside < len(orders):
            place = np.empty(len(orders[beside]), dtype=np.int64)
            place[orders[beside]] = np.arange(len(place))
            there = _joined(network, column, beside)
            for unit, own in enumerate(ends):
                own.append(np.sort(place[there[unit]]))
    order, moved = orders[column], False
    for i, j in itertools.pairwise(range(len(order))):
        upper, lower = ends[order[i]], ends[order[j]]
        now = sum(_crossed(a, b) for a, b in zip(upper, lower, strict=True))
        then = sum(_crossed(b, a) for a, b in zip(upper, lower, strict=True))
        if then < now:
            order[i], order[j], moved = order[j], order[i], True
    return moved


def _crossed(upper: NDArray[np.int64], lower: NDArray[np.int64]) -> int:
    """Crossings of the edges of two neighbours, whose sorted ends are given, the upper one's first."""
    return int(np.searchsorted(lower, upper, side="left").sum())
