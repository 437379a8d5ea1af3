"""How many weights each neuron keeps when a budget is shared out by what sampling costs it.

Of a neuron with the sensitivities `s_j`, separately for its positive and its negative weights, let

    alpha = 2 C ln(8 (P + 1) kappa / delta) * sum_j s_j,      u = alpha / (K m),   K = 3

When `m` of its weights are drawn, its relative error is at most `e(u) = (sqrt(u^2 + 6 u) + u) / 2`. The budget goes
where it does most (SiPP, arXiv 1910.05422):

    minimise   sum_i e(alpha_i / (K m_i)) / (neurons of its layer)     with   0 <= m_i <= n_i,   sum_i m_i = budget

Every term is convex in `m_i` and one sum ties them, so at the optimum all have one slope `-lambda`, but for those that
keep everything. With `h(u) = u^2 e'(u)` that is `h(u_i) = lambda alpha_i / (K w_i)`, `w_i` being the weight of the
term: two monotone equations, and no solver for cones.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from secateur.sensitivity.samples import CONSTANT

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FEWEST = 1e-3
"""The share of one weight that counts as none, where a line of allocations begins."""


def random_error(alpha: Floats, kept: Floats) -> Floats:
    """The bound on a neuron's relative error when `kept` of its weights are drawn at random; infinite for none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        u = np.where(alpha > 0, alpha / (CONSTANT * kept), 0.0)
        return np.where(np.isinf(u), np.inf, (np.sqrt(u * u + 6 * u) + u) / 2)


@dataclass
class Neurons:
    """The terms of the program: `alpha`, the weight of the term and how many weights there are, one a neuron and sign.

    `group` is the index of the parameter that each belongs to.
    """

    alpha: Floats
    share: Floats
    sizes: Ints
    group: Ints
    ends: tuple[float, float] = field(init=False)

    def __post_init__(self) -> None:
        live = (self.alpha > 0) & (self.sizes > 0)
        if not live.any():
            self.ends = (0.0, 0.0)
            return
        alpha, share = self.alpha[live], self.share[live]
        self.ends = tuple(
            float(pick(np.log(share * CONSTANT / alpha) + np.log(_slope(alpha / (CONSTANT * many)))))
            for pick, many in ((np.max, FEWEST), (np.min, self.sizes[live]))
        )  # type: ignore[assignment]

    def kept(self, log_slope: float) -> Floats:
        """How many weights each neuron keeps where the slope of its term is `-exp(log_slope)`."""
        live = self.alpha > 0
        many = np.zeros(len(self.alpha))
        target = log_slope + np.log(self.alpha[live] / (CONSTANT * self.share[live]))
        many[live] = self.alpha[live] / (CONSTANT * _inverse(target))
        return np.minimum(many, self.sizes)

    def spend(self, budget: int) -> Ints:
        """The optimum for a whole number of weights in all, in whole numbers: largest remainders get what is left."""
        if budget >= self.sizes.sum():
            return self.sizes.copy()
        if budget == 0:
            return np.zeros_like(self.sizes)
        top, bottom = self.ends
        while self.kept(top).sum() > budget:
            top += 5.0
        exact = self.kept(brentq(lambda log: self.kept(log).sum() - budget, bottom - 1, top))
        whole = np.floor(exact).astype(np.int64)
        short = budget - int(whole.sum())
        room = np.flatnonzero(whole < self.sizes)
        order = room[np.argsort(whole[room] - exact[room], kind="stable")]
        whole[order[:short]] += 1
        return whole

    def of(self, group: int) -> Neurons:
        """Those of one parameter."""
        mine = self.group == group
        return Neurons(self.alpha[mine], self.share[mine], self.sizes[mine], self.group[mine])


def _slope(u: Floats) -> Floats:
    """`h(u) = u^2 e'(u)`."""
    return u * u * ((u + 3) / np.sqrt(u * u + 6 * u) + 1) / 2


def _inverse(log_slope: Floats) -> Floats:
    """The `u` at which `log h(u)` is as given, for many at once; between `u^2` and `u^1.5` it lies close by."""
    low = np.minimum(log_slope / 2, log_slope / 1.5) - 1.0
    high = np.maximum(log_slope / 2, log_slope / 1.5) + 1.0
    for _ in range(60):
        middle = (low + high) / 2
        below = np.log(_slope(np.exp(middle))) < log_slope
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.exp((low + high) / 2)
