"""Units drawn at random, a stated number of them, and what each is multiplied by so that sums stay as they were.

The papers draw a number N of times with replacement, unit j with probability `p_j`, and multiply unit j by `c_j / (N
p_j)` when it was drawn `c_j` times; how many distinct units that leaves is left to chance. Here it is drawn until one
unit more than asked has shown up, and that last draw does not count. So a budget is met exactly, and the factors are
unbiased as before: of the draws that count, any order is equally likely, so each of them is worth what the first is
(inverse sampling, Pathak 1964).

No draw is simulated by itself. In a race of Poisson processes with the rates `p_j`, the order of first arrivals is the
order in which units show up, and between its first arrival and the end of the race a unit is drawn
`Poisson(p_j (end - first))` times more.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MANY = 1e15
"""Draws beyond which chance no longer shows in a count."""


class Drawn(NamedTuple):
    """Which entries were drawn, bool of shape `[entries]`, and what each of those is multiplied by, else 0."""

    kept: NDArray[np.bool_]
    factors: Floats


def draw(weights: Floats, rows: Ints, counts: Ints, rng: np.random.Generator) -> Drawn:
    """`counts[r]` distinct entries of every row `r`, drawn with probabilities in proportion to `weights`.

    `rows` is the row of every entry. A row of which as many entries are wanted as have a weight keeps these as they
    are; entries without a weight are never drawn.
    """
    number = len(counts)
    total = np.bincount(rows, weights, minlength=number)[rows]
    rate = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    first = np.full(len(rate), np.inf)
    np.divide(rng.exponential(size=len(rate)), rate, out=first, where=rate > 0)
    order = np.lexsort((first, rows))
    many = np.bincount(rows, minlength=number)
    rank = np.empty(len(rows), dtype=np.int64)
    rank[order] = np.arange(len(rows)) - (np.cumsum(many) - many)[rows[order]]
    kept = (rank < counts[rows]) & (rate > 0)
    end = np.full(number, np.inf)
    last = rank == counts[rows]
    end[rows[last]] = first[last]
    stays = np.isinf(end)[rows]  # all that have a weight
    span = np.where(kept & ~stays, rate * (np.where(stays, 0.0, end[rows]) - np.where(kept, first, 0.0)), 0.0)
    drawn = np.where(kept, 1 + np.where(span < MANY, rng.poisson(np.minimum(span, MANY)), span), 0.0)
    draws = np.bincount(rows, drawn, minlength=number)[rows]
    factors = np.divide(drawn, draws * rate, out=np.zeros_like(rate), where=kept)
    return Drawn(kept, np.where(kept & stays, 1.0, factors))


def distinct(shares: Floats, draws: float) -> float:
    """How many distinct units to expect of so many draws with replacement: the sum of `1 - (1 - p_j)^draws`."""
    with np.errstate(divide="ignore"):
        return float(-np.expm1(draws * np.log1p(-np.minimum(shares, 1.0))).sum())


def draws_for(shares: Floats, count: float) -> float:
    """The number of draws of which `count` distinct units are to be expected; infinite where that is all there are."""
    if count >= np.count_nonzero(shares):
        return float("inf")
    low, high = 0.0, 1.0
    while distinct(shares, np.exp(high)) < count:
        low, high = high, 2 * high
        if high > 700:
            return float("inf")
    if distinct(shares, 1.0) >= count:
        return 1.0
    return float(np.exp(brentq(lambda log: distinct(shares, float(np.exp(log))) - count, low, high)))
