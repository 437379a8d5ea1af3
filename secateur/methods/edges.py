"""How many edges a set of gates leaves, in the unit of a budget, and what they cost, with a gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from secateur.graph.units import Groups
from secateur.methods.prices import Price, Standing
from secateur.planning.fitting import Target


class Edges:
    """Edges as a function of units: what the budget of `target` counts, less what remains when every gate is closed.

    For single weights they are the weights that are kept, a sum. Costs of groups are products of widths, so they are
    extended around the nearest whole widths by their slopes, which is exact to first order.
    """

    def __init__(self, groups: Groups, target: Target, gated: list[str]) -> None:
        self.target = target
        self.units = {name: groups[name].units for name in gated}
        self.fixed = target.spent(dict.fromkeys(gated, 0))
        self.dense = target.spent() - self.fixed
        self.asked = max(1.0, target.asked - self.fixed)
        self._slopes: tuple[dict[str, int], dict[str, float]] = ({}, {})
        self._sum = target.groups.kind == "elements"

    def expected(self, units: Mapping[str, float]) -> float:
        """The edges for an expected number of units of each gated group."""
        return self._line(units)[0]

    def standing(self, units: Mapping[str, float], progress: float) -> Standing:
        """Where a training stands that has so many units of each gated group."""
        return Standing(self.expected(units), self.asked, self.dense, progress)

    def penalty(self, price: Price, units: Tensor, progress: float) -> Tensor | None:
        """What the edges cost, a scalar with its graph, for so many units of the gated groups, shape `[groups]`."""
        edges, slopes = self._line(dict(zip(self.units, units.tolist(), strict=True)))
        charge = price.charge(Standing(edges, self.asked, self.dense, progress))
        if charge is None:
            return None
        penalty: Tensor = _Charged.apply(charge.nats, [charge.rate * slope for slope in slopes.values()], units)
        return penalty

    def slopes(self, at: Mapping[str, int]) -> dict[str, float]:
        """Group name -> edges that one more of its units brings, where groups keep `at` units."""
        known = bool(self._slopes[1]) and self.target.groups.kind != "slices"  # weights cost the same wherever they are
        if self._slopes[0] != at and not known:
            found = {}
            for name, count in at.items():
                low, high = max(0, count - 1), min(self.units[name], count + 1)
                difference = self.target.spent({**at, name: high}) - self.target.spent({**at, name: low})
                found[name] = difference / (high - low)
            self._slopes = dict(at), found
        return self._slopes[1]

    def _line(self, units: Mapping[str, float]) -> tuple[float, dict[str, float]]:
        """The edges, and those that one more unit of each group brings."""
        if self._sum:
            slopes = self.slopes(self.units)
            return sum(slopes[name] * n for name, n in units.items()), slopes
        at = {name: min(self.units[name], max(0, round(n))) for name, n in units.items()}
        slopes = self.slopes(at)
        return self.target.spent(at) - self.fixed + sum(
            slopes[name] * (n - at[name]) for name, n in units.items()
        ), slopes


class _Charged(torch.autograd.Function):
    """A number of nats, that changes by a rate with each of several counts."""

    @staticmethod
    def forward(ctx: Any, nats: float, rates: list[float], counts: Tensor) -> Tensor:
        """The nats."""
        ctx.rates = rates
        return torch.scalar_tensor(nats, device=counts.device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
        """The rates."""
        return None, None, torch.tensor(ctx.rates, device=gradient.device) * gradient
