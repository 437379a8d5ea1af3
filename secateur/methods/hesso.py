"""HESSO: in every period the units that five saliencies agree on least are chosen and fade to zero.

T. Chen, X. Qu, D. Aponte, C. Banbury, J. Ko, T. Ding, Y. Ma, V. Lyapunov, I. Zharkov & L. Liang, HESSO: Towards
Automatic Efficient and User Friendly Any Neural Network Training and Pruning (arXiv 2409.09085). With x the joint
weights of a unit on the producer side (its zero-invariant group), |x| their number and g the direction of the
optimizer, the score at the start of a period is the sum over the criteria

    ||x||,   ||x|| / |x|,   cos(x, g) + 1,   |<x, g>|,   <x, g>^2 / 2

each divided by its L2 norm over all units and weighted 0.2. The lowest are redundant; in step t = 0 .. T-1 of the
period they are multiplied by (T - t - 1) / (T - t), which is `Multiplicative`, and any other removal policy can take
its place.

Differences from the public code (tianyic/only_train_once): the budget is one of MACs, parameters or units instead of a
group sparsity, spent in equal parts; g is the step that the optimizer made, whichever optimizer it is; a cut in one
layer scales its own rows and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from secateur.criteria import Scores
from secateur.graph.units import Groups
from secateur.methods.pruner import Pruner
from secateur.removal import Entries, Multiplicative, Removal

if TYPE_CHECKING:
    from secateur.training.state import State


def saliency(sizes: Tensor, counts: Tensor, pushes: Tensor, lengths: Tensor, weights: Sequence[float]) -> Tensor:
    """HESSO's score of every unit, float64 of shape `[units]`, higher = keep.

    `sizes` are the units' norms ||x||, `counts` their numbers of entries, `pushes` the inner products <x, g>, `lengths`
    the norms ||g||, and `weights` those of the five criteria.

    >>> saliency(torch.tensor([3.0, 4.0]), torch.tensor([1, 1]), torch.zeros(2), torch.ones(2), [0.5, 0, 0, 0, 0])
    tensor([0.3000, 0.4000])
    """
    cosine = torch.where(sizes * lengths > 0, pushes / (sizes * lengths), 0.0)
    criteria = (sizes, sizes / counts.clamp(min=1), cosine + 1, pushes.abs(), pushes.square() / 2)
    total = torch.zeros_like(sizes)
    for weight, values in zip(weights, criteria, strict=True):
        norm = values.norm()
        total += weight * torch.where(norm > 0, values / norm, 0.0)
    return total


class Direction:
    """The step that the optimizer makes of the weights of all units of `groups`, and the saliencies that it tells."""

    def __init__(self, groups: Groups) -> None:
        self._names = [g.name for g in groups]
        self._entries = Entries(groups, {g.name: torch.arange(g.units) for g in groups})
        self._before: Tensor | None = None

    def remember(self) -> None:
        """Take note of the weights before a step."""
        self._before = self._entries.weights()

    def saliency(self, weights: Sequence[float]) -> Tensor:
        """The score of every unit, by the weights before the step and what it did; `weights` are the criteria's."""
        assert self._before is not None
        x, entries = self._before, self._entries
        g, self._before = x - entries.weights(), None
        counts = entries.sums(torch.ones_like(x))
        return saliency(entries.norms(x), counts, entries.sums(x * g), entries.norms(g), weights)

    def by_group(self, values: Tensor) -> dict[str, Tensor]:
        """Group name -> its part of one value a unit."""
        return dict(zip(self._names, values.split(self._entries.sizes), strict=True))


@dataclass(eq=False, kw_only=True)
class HESSO(Pruner):
    """HESSO's periods; the other fields are those of `Pruner`.

    removal    left out: `Multiplicative` over one period, the paper's
    start      0.1, stop 0.2: the tutorial's 10 of 100 epochs of warm-up and 10 of pruning
    rounds     10 periods
    weights    of the five criteria, in the order above

    >>> fit(model, data, epochs=100, methods=[HESSO(groups=groups, budget="30% macs")])
    """

    start: float = 0.1
    stop: float = 0.2
    rounds: int = 10
    weights: Sequence[float] = (0.2, 0.2, 0.2, 0.2, 0.2)

    def check(self) -> None:
        """See that the fields are in range."""
        super().check()
        self._require("weights", "five numbers of at least 0", len(self.weights) == 5 and min(self.weights) >= 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._seen: Tensor | None = None

    def prepare(self, state: State) -> None:  # noqa: ARG002 - the groups hold the model
        """Find the entries of all units."""
        self._direction = Direction(self.groups)

    def usual_removal(self) -> Removal:
        """The paper's, over one period."""
        return Multiplicative(steps=max(1, (self.last - self.first) // self.rounds))

    def share(self, number: int) -> float:
        """Every period takes an equal part of what is to go."""
        return 1 - (1 - self._final_share) * number / self.rounds

    def look(self, state: State) -> None:
        """Remember the weights where the next step ends in a choice, to see its direction."""
        if self.scoring(state.step + 1):
            self._direction.remember()

    def moved(self, state: State) -> None:
        """Score every unit by the weights before the step and the step's direction."""
        if self.scoring(state.step):
            self._seen = self._direction.saliency(self.weights)

    def scoring(self, step: int) -> bool:
        """Whether scores are asked for after the step."""
        return step in self.round_at or step == self.solve_at

    def scores(self, state: State) -> Mapping[str, Tensor]:  # noqa: ARG002 - seen when the weights moved
        """The saliencies seen at this step."""
        assert self._seen is not None
        return Scores(self._direction.by_group(self._seen), "hesso")
