"""Lines of allocations: how many units each group would keep, from nothing to everything, and which units they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.graph.units import Group


@dataclass(frozen=True)
class Limits:
    """The numbers of units that a group may keep: multiples of `step` from `floor` on, and all `units` it can."""

    units: int
    floor: int
    step: int = 1

    @staticmethod
    def of(group: Group, *, round_to: int, minimum: float, kept: bool, pinned: int, barred: int = 0) -> Limits:
        """The limits of one group.

        The entries that units stand for are rounded to multiples of `round_to` in groups at least twice that wide.
        `minimum` is a share of the units or, from 1 on, a number; `pinned` units and, with `kept`, all units must stay;
        `barred` units must not, as long as the fewest are there without them; a group that has such is rounded.
        """
        wide = group.units * group.multiple >= 2 * round_to
        step = round_to // math.gcd(round_to, group.multiple) if wide else 1
        least = math.ceil(minimum * group.units - 1e-9) if minimum < 1 else int(minimum)
        least = group.units if kept else max(group.minimum, least, pinned)
        floor = min(group.units, math.ceil(least / step) * step)
        most = (group.units - barred) // step * step if barred else group.units
        return Limits(max(floor, most), floor, step)

    def nearest(self, count: float) -> int:
        """The allowed number nearest to `count`; the larger of two equally near."""
        below = int(count // self.step) * self.step
        above = min(below + self.step, self.units)
        return min(self.units, max(self.floor, above if above - count <= count - below else below))

    def next(self, count: int) -> int:
        """One step more, or all units."""
        return min(self.units, (count // self.step + 1) * self.step)


class Ranking:
    """The units of every group in the order of their scores.

    Of equal scores the unit of the earlier group is worth more, then the one with the lower index.
    """

    def __init__(self, scores: Mapping[str, Tensor]) -> None:
        floats = {name: s.detach().cpu() for name, s in scores.items()}
        self.values: dict[str, NDArray[np.floating]] = {
            name: (s if s.dtype == torch.float64 else s.float()).numpy() for name, s in floats.items()
        }
        self.ascending = {name: np.sort(values) for name, values in self.values.items()}

    def pinned(self, name: str) -> int:
        """How many units score infinity: they always stay."""
        return int(np.isposinf(self.values[name]).sum())

    def barred(self, name: str) -> int:
        """How many units score minus infinity: they never stay."""
        return int(np.isneginf(self.values[name]).sum())

    def score(self, name: str, rank: int) -> float:
        """The score of the unit at `rank` in its group, 0 being the best."""
        return float(self.ascending[name][-1 - rank])

    def best(self, name: str, count: int) -> Tensor:
        """The indices of the `count` best units of a group, sorted."""
        values = self.values[name]
        if count == 0:
            return torch.empty(0, dtype=torch.long)
        threshold = self.ascending[name][-count]
        above = values > threshold
        above[np.flatnonzero(values == threshold)[: count - int(above.sum())]] = True
        return torch.from_numpy(np.flatnonzero(above))


class Allocation(Protocol):
    """A line of ever larger allocations, from nothing kept at position 0 to everything at `positions`."""

    positions: int

    def wanted(self, position: int) -> Mapping[str, float]:
        """How many units each group would keep if any number were allowed."""

    def priority(self, name: str, count: int, position: int) -> float:
        """How urgent it is, at `position`, that a group keeping `count` units gets more."""


@runtime_checkable
class Choice(Allocation, Protocol):
    """A line of allocations that also says which units stay: what a method brings that allocates for itself.

    Groups that `wanted` does not name stay whole. `str` of it is what a plan tells.
    """

    @property
    def rescales(self) -> bool:
        """Whether units that stay are multiplied by factors."""

    def units(self, name: str, count: int) -> tuple[Tensor, Tensor | None]:
        """The sorted indices of the `count` units of a group that stay, and a factor for each, or None for all 1."""


class Global:
    """The best units of the whole network stay: one threshold over all groups. Positions are how many units stay."""

    def __init__(self, ranking: Ranking) -> None:
        self.ranking = ranking
        self.ascending = np.sort(np.concatenate(list(ranking.values.values())))
        self.positions = len(self.ascending)

    def wanted(self, position: int) -> Mapping[str, float]:
        """How many of the `position` best units each group holds."""
        if position == 0:
            return dict.fromkeys(self.ranking.ascending, 0.0)
        threshold = self.ascending[-position]
        above, equal = {}, {}
        for name, ascending in self.ranking.ascending.items():
            above[name] = len(ascending) - int(np.searchsorted(ascending, threshold, side="right"))
            equal[name] = len(ascending) - int(np.searchsorted(ascending, threshold, side="left")) - above[name]
        left, counts = position - sum(above.values()), {}
        for name, count in above.items():
            counts[name] = float(count + min(left, equal[name]))
            left -= min(left, equal[name])
        return counts

    def priority(self, name: str, count: int, position: int) -> float:  # noqa: ARG002 - one order at every position
        """The score of the best unit that would return."""
        return self.ranking.score(name, count)


class Even:
    """Every group keeps the same share of its units. Positions are fine enough to add one unit at a time."""

    def __init__(self, units: Mapping[str, int]) -> None:
        self.units = units
        self.positions = 2 * max(units.values())

    def wanted(self, position: int) -> Mapping[str, float]:
        """The same share of every group."""
        return {name: units * position / self.positions for name, units in self.units.items()}

    def priority(self, name: str, count: int, position: int) -> float:
        """By how much of its units the group is short of the common share."""
        return position / self.positions - count / self.units[name]
