"""How many edges a set of gates is expected to leave, with a gradient, in the unit of a budget."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from secateur.graph.units import Groups
from secateur.planning.fitting import Target


class Edges:
    """Edges as a function of units: what the budget of `target` counts, less what remains when every gate is closed.

    For single weights they are the weights that are kept, a sum. Costs of groups are products of widths, so they are
    extended around the nearest whole widths by their slopes, which is exact to first order (and the gradient with it).
    """

    def __init__(self, groups: Groups, target: Target, gated: list[str]) -> None:
        self.target = target
        self.units = {name: groups[name].units for name in gated}
        self.fixed = target.spent(dict.fromkeys(gated, 0))
        self.dense = target.spent() - self.fixed
        self.asked = max(1.0, target.asked - self.fixed)
        self._slopes: tuple[dict[str, int], dict[str, float]] = ({}, {})
        self._line: Tensor | None = None
        if target.groups.kind == "elements":
            self._line = torch.tensor(list(self.slopes(self.units).values()))

    def expected(self, units: Mapping[str, Tensor]) -> Tensor:
        """The edges for an expected number of units of each gated group (scalars with a graph)."""
        if self._line is not None:
            numbers = torch.stack(list(units.values()))
            return numbers @ self._line.to(numbers)
        at = {name: min(self.units[name], max(0, round(float(n.detach())))) for name, n in units.items()}
        slopes = self.slopes(at)
        moved = torch.stack([slopes[name] * (n - at[name]) for name, n in units.items()]).sum()
        return self.target.spent(at) - self.fixed + moved

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
