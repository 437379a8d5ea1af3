"""ProbMask: a probability for every weight, under one constraint on their sum for the whole network.

X. Zhou, W. Zhang, H. Xu & T. Zhang, Effective Sparsification of Neural Networks with Global Sparsity Constraint (arXiv
2105.01571). With p in [0, 1] learned beside every weight, L logistic, and k(t) falling from all to the budget,

    weights are used as w sigmoid((log p - log(1 - p) + L) / tau),   tau falls from 1 to 0.03
    after every step   p := min(1, max(0, p - v)) with the least v >= 0 for which sum p <= k(t)
    k(t) = k_T + (k_0 - k_T) (1 - t / until)^3                        in the end: the largest p

Differences from the paper: single weights of the common budget; the optimizer is the user's. Written after the paper's
abstract and its update rule, not its code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from secateur.methods.edges import Edges
from secateur.methods.relaxed import Beside, Relaxed
from secateur.schedule import exponential

if TYPE_CHECKING:
    from secateur.planning import Budget
    from secateur.training.state import State


@dataclass(eq=False, kw_only=True)
class ProbMask(Relaxed):
    """Probabilities under a global constraint; the other fields are those of `Relaxed`.

    until   0.8: share of the time in which the constraint falls to the budget
    sharp   0.03: the temperature of the end, from 1 at first

    >>> fit(model, data, epochs=60, methods=[ProbMask(groups=elements(model), budget="5% weights")])
    """

    draws: ClassVar[bool] = True

    until: float = 0.8
    sharp: float = 0.03

    def check(self) -> None:
        """See that the fields are in range."""
        super().check()
        self._require("until", "a share in (0, 1]", 0 < self.until <= 1)
        self._require("sharp", "a float in (0, 1]", 0 < self.sharp <= 1)

    def beside(self, name: str, weight: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """The probability of every weight, 1 at first."""
        return {"p": torch.ones_like(weight)}

    def effective(self, weight: Tensor, beside: Beside, *, training: bool) -> Tensor:
        """The weight times its soft mask; in evaluation times what is more likely."""
        if not training:
            return weight * (beside["p"] > 0.5).to(weight.dtype)
        tau = exponential(beside.progress, start=1.0, end=self.sharp)
        return weight * torch.sigmoid((beside["p"].logit(eps=1e-6) + beside.noise) / tau)

    def score(self, weight: Tensor, beside: Beside) -> Tensor:  # noqa: ARG002
        """The probability."""
        return beside["p"]

    def last_budget(self, state: State) -> Budget:  # noqa: ARG002
        """All of the budget: that is what the constraint ends with."""
        return self.target.budget

    def settle(self, progress: float) -> None:
        """Bring probabilities back into their range, and their sum under the constraint of now."""
        edges = Edges(self.groups, self.target, list(self.besides))
        left = max(0.0, 1 - progress / self.until) ** 3
        project([beside["p"] for beside in self.besides.values()], edges.asked + (edges.dense - edges.asked) * left)


@torch.no_grad()
def project(probabilities: list[torch.nn.Parameter], limit: float) -> None:
    """Move all down by the least one number with which, clipped to [0, 1], they sum up to `limit` at most; in place."""
    flat = torch.cat([p.flatten() for p in probabilities])
    if float(flat.clamp(0, 1).sum()) <= limit:
        low = high = 0.0
    else:
        low, high = 0.0, float(flat.max())
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if float((flat - middle).clamp(0, 1).sum()) > limit else (low, middle)
    for p in probabilities:
        p.sub_(high).clamp_(0, 1)
