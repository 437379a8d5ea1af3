"""Self-rectifying: which decaying units resist so much that they may stay.

Yang, Gao, Li, Li, Dong & Cui, Decay Pruning Method: Smooth Pruning With a Self-Rectifying Procedure (arXiv 2406.03879).
With x the joint weights of a unit before an optimizer step, d what the step added to them, and S its siblings, the
units of the same group that are not gone,

    C_rate = (||x + d|| - ||x||) / ||d||            direction: how much of the step pushes outward, in [-1, 1]
    C_len  = ||d|| / mean of ||d_j|| over j in S    length: how strong the step is beside those of its siblings

and a unit is released while moving averages of both are above their thresholds. Both are free of the scale of the
weights as long as the unit is taken whole: of a convolution under batch norm alone, C_rate is zero and C_len grows as 1
/ ||x|| whatever the loss says, but with the norm's weight and bias among the entries neither does.

Differences from the paper, which leaves normalisation, defaults and averaging open: both criteria as above; d is the
step that the optimizer really made, so that Adam is judged by Adam's steps; bias-corrected averages; a number of steps
before the first release, a rest after it, and bounds on releases, so that every run ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from secateur.errors import InputError

Variant = Literal["both", "cosine", "by step", "product"]


@dataclass(frozen=True)
class Rectify:
    """When a decaying unit is released; every default is this project's, the paper names none.

    rate       C_rate must be above it. With `variant="cosine"` it is cos(d, x), which C_rate is for small steps; a step
               that is long beside x makes C_rate grow by ||d|| / (2 ||x||) whatever its direction. With `variant="by
               step"`, C_rate is taken over the length that the decay takes off in a step, (||x + d|| - ||x||) / L_s: 1
               undoes the decay. With `"product"` it is C_rate C_len, the outward push beside the siblings' steps, and
               the only criterion
    length     C_len must be above it; not looked at with `"product"`
    variant    "both", "cosine", "by step" or "product"
    memory     of the moving averages, in [0, 1); 0 looks at the last step alone
    after      steps of decay before a unit can be released
    until      share of its decay after which it no longer can: the network has then learned to do without it
    most       of the units that ever started to leave, the share that can be released, rounded up, those that resist
               most first: by C_rate C_len. Others pay for every release, and most useful units resist somewhat
    releases   how often one unit can be released
    cooldown   rounds of choosing that a released unit sits out
    """

    rate: float = 0.1
    length: float = 1.0
    variant: Variant = "both"
    memory: float = 0.9
    after: int = 5
    until: float = 1.0
    most: float = 1.0
    releases: int = 1
    cooldown: int = 1

    def __post_init__(self) -> None:
        low, top = (-1.0, 1.0) if self.variant in ("both", "cosine") else (-math.inf, math.inf)
        self._require("variant", f"one of {', '.join(get_args(Variant))}", self.variant in get_args(Variant))
        self._require("rate", f"a float in [{low:g}, {top:g})", low <= self.rate < top)
        self._require("length", "a float of at least 0", 0 <= self.length < math.inf)
        self._require("memory", "a float in [0, 1)", 0 <= self.memory < 1)
        for name in ("until", "most"):
            self._require(name, "a float in (0, 1]", 0 < getattr(self, name) <= 1)
        for name, least in (("after", 1), ("releases", 0), ("cooldown", 0)):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            self._require(name, f"an integer of at least {least}", whole and value >= least)

    def _require(self, name: str, what: str, holds: bool) -> None:
        if not holds:
            raise InputError(f"The '{name}' parameter of Rectify must be {what}. Got {getattr(self, name)!r} instead.")

    def score(self, rate: Tensor, length: Tensor) -> Tensor:
        """How much units resist: C_rate C_len, the outward push beside the siblings' steps."""
        return rate if self.variant == "product" else rate * length

    def resists(self, rate: Tensor, length: Tensor) -> Tensor:
        """Which units are above the thresholds, from the averages of what `measure` gives."""
        return rate > self.rate if self.variant == "product" else (rate > self.rate) & (length > self.length)


def measure(
    before: Tensor, after: Tensor, moved: Tensor, shrink: Tensor, siblings: Sequence[int], variant: Variant = "both"
) -> tuple[Tensor, Tensor]:
    """C_rate and C_len of every unit, each of shape `[units]`.

    `before` and `after` are the units' norms around a step, `moved` the norms of what it added, `shrink` the length
    that the decay takes off in a step (read by `"by step"` alone), `siblings` how many units each group has, in order.
    A unit that did not move has both 0; units of zero norm are gone and no siblings.
    """
    outward = after - before
    sizes = torch.tensor(siblings, device=before.device)
    alive = (before > 0).to(before.dtype)
    total = torch.segment_reduce(moved * alive, "sum", lengths=sizes, unsafe=True)
    mean = total / torch.segment_reduce(alive, "sum", lengths=sizes, unsafe=True).clamp(min=1)
    length = _ratio(moved, mean.repeat_interleave(sizes, output_size=len(moved)))
    if variant == "by step":
        return _ratio(outward, shrink), length
    if variant == "cosine":
        return _ratio(after.square() - before.square() - moved.square(), 2 * before * moved).clamp(-1, 1), length
    rate = _ratio(outward, moved).clamp(-1, 1)  # beyond by rounding alone
    return (rate * length if variant == "product" else rate), length


def _ratio(value: Tensor, by: Tensor) -> Tensor:
    return torch.where(by > 0, value / by, 0.0)
