"""Weights as products under weight decay, which is a sparse penalty on the weights.

L. Ziyin, Z. Wang, "spred: Solving L1 Penalty with SGD" (ICML 2023, arXiv 2210.01212): two factors; C. Kolb et al.,
"Deep Weight Factorization: Sparse Learning Through the Lens of Artificial Symmetries" (ICLR 2025, arXiv 2502.02496):
more of them.

    w = u_1 * ... * u_D,    (lambda / D) sum_d |u_d|^2  is at best  lambda sum |w|^(2/D)

With D = 2 that is L1, with more factors it is not convex and sparser. It is smooth in the factors, so any optimizer
minimises it. Ours start from any weights, which they keep: u_1 = w / s^(D-1) and all others s = rms(w)^(1/D); the
papers draw them. Balanced factors, |u_d| = |w|^(1/D), would stay balanced, and no weight could ever change its sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.optim.powerprop import parametrised, unwrap
from secateur.optim.weights import check_number, layers

if TYPE_CHECKING:
    from secateur.training.state import State


class Product(nn.Module):
    """Factors -> their product, with factors to start from as its inverse."""

    def __init__(self, factors: int) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, *factors: Tensor) -> Tensor:
        """The weight."""
        weight = factors[0]
        for factor in factors[1:]:
            weight = weight * factor
        return weight

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Factors of `weight`: all but the first are one constant."""
        size = weight.square().mean().sqrt().clamp_min(1e-6).pow(1 / self.factors)
        others = (size.expand_as(weight).clone() for _ in range(self.factors - 1))
        return (weight / size.pow(self.factors - 1), *others)


@dataclass(frozen=True)
class Factorised:
    """A method for `fit`: weight matrices are products while it trains, and plain parameters again at its end.

    `factors` is D (2: spred); `strength` is lambda; weights below `snap` are zero at the end. Leave the weight decay of
    the optimizer at 0, and take a larger learning rate than for plain weights.

    >>> fit(model, data, epochs=10, methods=[Factorised(factors=2, strength=1e-4)])
    """

    factors: int = 2
    strength: float = 1e-4
    snap: float = 1e-6

    def __post_init__(self) -> None:
        check_number(self.factors, "factors", "Factorised", 2)
        check_number(self.strength, "strength", "Factorised", 0)
        check_number(self.snap, "snap", "Factorised", 0)

    def setup(self, state: State) -> None:
        """Write the weights as products, before the optimizer is built."""
        for module in layers(state.model, "Factorised").values():
            parametrize.register_parametrization(module, "weight", Product(int(self.factors)))

    def penalty(self, state: State) -> Tensor | None:
        """(lambda / D) times the sum of the squares of all factors."""
        lists: list[Any] = [module.parametrizations for module in parametrised(state.model, Product).values()]
        sums = [factor.square().sum() for listed in lists for factor in listed["weight"].parameters()]
        return self.strength / self.factors * torch.stack(sums).sum() if sums else None

    def finish(self, state: State) -> None:
        """Make the weights plain parameters, those that have become small zero."""
        with torch.no_grad():
            for weight in unwrap(state.model, Product):
                weight.masked_fill_(weight.abs() <= self.snap, 0)
