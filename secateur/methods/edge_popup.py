"""edge-popup: a subnetwork of random weights that are never trained, found by training scores.

V. Ramanujan et al., What's Hidden in a Randomly Weighted Neural Network? (arXiv 1911.13299). With a score s beside
every weight and k the share of the budget,

    weights are used as w [|s| among the k largest of its layer],  gradients pass to s as if the mask were |s|

Weights are signed constants of Kaiming's size at first and stay. Differences from the paper: biases and norms train; in
the end weights train as well, if `stop` leaves time for it (the paper's has none: 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from secateur.methods.relaxed import Beside, Relaxed

if TYPE_CHECKING:
    from secateur.training.state import State


class Largest(torch.autograd.Function):
    """1 for the `count` largest entries, else 0; gradients pass as they are.

    >>> Largest.apply(scores.abs(), 100)
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, count: int) -> Tensor:  # noqa: ARG004
        """The mask."""
        mask = torch.zeros_like(scores).flatten()
        mask[scores.flatten().topk(count).indices] = 1
        return mask.view_as(scores)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        """The gradient as it came."""
        return gradients[0], None


@dataclass(eq=False, kw_only=True)
class EdgePopup(Relaxed):
    """A subnetwork of random weights; the other fields are those of `Relaxed`.

    stop     1: weights are never trained
    signed   whether weights are set to signed constants at first, as is best in the paper

    >>> fit(model, data, epochs=60, methods=[EdgePopup(groups=elements(model), budget="50% weights")])
    """

    stop: float = 1.0
    signed: bool = True

    def beside(self, name: str, weight: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """The scores, uniform as Kaiming's with a = sqrt(5); the weight becomes what it stays."""
        fan_in = weight[0].numel()
        if self.signed:
            weight.copy_(weight.sign() * math.sqrt(2 / fan_in))
        bound = 1 / math.sqrt(fan_in)
        return {"scores": torch.empty_like(weight).uniform_(-bound, bound)}

    def effective(self, weight: Tensor, beside: Beside, *, training: bool) -> Tensor:  # noqa: ARG002
        """The weight where its score is among the largest of the layer."""
        mask: Tensor = Largest.apply(beside["scores"].abs(), self._count(weight))
        return weight * mask

    def score(self, weight: Tensor, beside: Beside) -> Tensor:
        """The rank of a weight's score in its layer, from 1 down, less that of the first that is not used."""
        size = beside["scores"].abs().flatten()
        ranks = torch.empty_like(size)
        ranks[size.argsort()] = torch.arange(1.0, len(size) + 1, device=size.device) / len(size)
        return ranks.view_as(weight) - (1 - self._count(weight) / len(size))

    def look(self, state: State) -> None:
        """Let weights stay what they are."""
        if state.step < self.solve_at or self.stop == 1:
            for name in self.besides:
                self.groups.tensor(name).grad = None

    def _count(self, weight: Tensor) -> int:
        fixed = self.target.spent({group.name: 0 for group in self.groups})
        share = (self.target.asked - fixed) / (self.target.spent() - fixed)
        return max(1, math.floor(share * weight.numel()))
