"""Decay at each group's own pace: fewer steps where the gradient agrees that units leave, more where it resists.

With x the joint weights of a unit that starts to leave, g their gradient at that moment and G its group,

    r_G = - mean over the leaving units of G of <x, g> / (||x|| ||g||)     a plain step shrinks a unit where <x, g> > 0
    N_G = clip(c + (N - M) / 2 z_G, M, N),    z_G = (r_G - r) / max |r_G - r|

in which r is the mean of r_G over units, N the most and M the fewest steps that a unit takes, and c the number with
which all units that start together take the steps of the budget. Within a group the norm falls on a straight line, as
that of `Decay` does. Where there are no gradients, or a single group, all take the same number.

No paper: Yang et al. (arXiv 2406.03879) name a number of steps that adapts as further work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.graph.units import Groups
from secateur.removal.decay import Decay
from secateur.removal.entries import Entries, Side

ROUNDING = 1e-6
"""By how much the steps of a group may miss a whole number from below."""


@dataclass(eq=False)
class Adaptive(Decay):
    """`Decay` whose N is chosen a group, under a budget of steps.

    steps    N, the most steps that a unit takes
    mean     the step budget: units that start together take this share of `steps` on average, rounded down
    least    the fewest, as a share of `steps`

    >>> removal = Adaptive(steps=1000, rectify=Rectify())  # as many steps as Decay(500) takes
    """

    mean: float = 0.5
    least: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("mean", "a share of the steps in (0, 1]", 0 < self.mean <= 1)
        self._require("least", f"a share of the steps in [0, {self.mean:g}], the mean", 0 <= self.least <= self.mean)

    def paces(self, groups: Groups, starting: Mapping[str, Tensor]) -> Mapping[str, int]:
        """Group name -> its number of steps, by the gradients that the model holds."""
        if not starting:
            return {}
        sizes = torch.tensor([len(units) for units in starting.values()], dtype=torch.float64)
        resisting = resistance(groups, starting, self.side)
        many = spent(resisting, sizes, mean=self.mean * self.steps, low=self.least * self.steps, high=self.steps)
        whole = (max(1, math.floor(steps + ROUNDING)) for steps in many.tolist())
        return dict(zip(starting, whole, strict=True))


def resistance(groups: Groups, starting: Mapping[str, Tensor], side: Side = "producers") -> Tensor:
    """How much the gradient of each group wants its units to grow, in [-1, 1], float64 of shape `[groups]`.

    The mean over a group's `starting` units (indices by group name) of `-cos(x, g)`; 0 for units without gradient.
    """
    entries = Entries(groups, starting, side)
    x, g = entries.weights(), entries.gradients()
    lengths = entries.norms(x) * entries.norms(g)
    cosines = torch.where(lengths > 0, entries.sums(x * g) / lengths, 0.0)
    return torch.stack([-part.mean() for part in cosines.split(entries.sizes)]).cpu()


def spent(resisting: Tensor, units: Tensor, mean: float, low: float, high: float) -> Tensor:
    """The steps of every group, in `[low, high]`: more for what resists more, and `mean` a unit over all.

    `resisting` is what `resistance` gives, `units` how many units of each group start; all of shape `[groups]`.

    >>> spent(torch.tensor([-0.2, 0.2]), torch.tensor([5.0, 5.0]), mean=50, low=20, high=100)
    tensor([20., 80.])
    """
    apart = resisting - (resisting * units).sum() / units.sum()
    furthest = apart.abs().max()
    spread = apart / furthest * (high - low) / 2 if furthest > 0 else torch.zeros_like(apart)
    under, over = low - high, high + high  # all at the fewest, all at the most
    for _ in range(60):
        middle = (under + over) / 2
        found = (spread + middle).clamp(low, high)
        if (found * units).sum() > mean * units.sum():
            over = middle
        else:
            under = middle
    return (spread + under).clamp(low, high)
