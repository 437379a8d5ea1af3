"""DST: thresholds for every neuron, learned through a step whose gradient has a long tail.

J. Liu et al., Dynamic Sparse Training: Find Efficient Sparse Network From Scratch With Trainable Masked Layers (arXiv
2005.06870). With a threshold t learned for every row of a weight and x = |w| - t,

    weights are used as w [x > 0]
    d[x > 0]/dx := 2 - 4|x| for |x| <= 0.4,   0.4 for 0.4 < |x| <= 1,   else 0
    penalty = strength * sum of exp(-t)                          open: x > 0

Difference from the paper: no threshold is set back when little is left of its layer, which would forbid budgets below
1 %; the budget keeps at least one weight of every layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from secateur.methods.relaxed import Beside, Relaxed

if TYPE_CHECKING:
    from secateur.training.state import State


class LongTailStep(torch.autograd.Function):
    """1 where x > 0, else 0, with the paper's long-tailed gradient.

    >>> LongTailStep.apply(weight.abs() - threshold)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """The step."""
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """The gradient of the long-tailed estimator."""
        (x,) = ctx.saved_tensors
        far = x.abs()
        return gradients[0] * torch.where(far <= 0.4, 2 - 4 * far, torch.where(far <= 1, 0.4, 0.0))


@dataclass(eq=False, kw_only=True)
class DynamicSparse(Relaxed):
    """DST; the other fields are those of `Relaxed`.

    strength   of the penalty on low thresholds, 5e-4, the paper's for MNIST

    >>> fit(model, data, epochs=60, methods=[DynamicSparse(groups=elements(model), budget="5% weights")])
    """

    strength: float = 5e-4

    def check(self) -> None:
        """See that the fields are in range."""
        super().check()
        self._require("strength", "a float of at least 0", self.strength >= 0)

    def beside(self, name: str, weight: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """A threshold a row."""
        return {"threshold": weight.new_zeros(len(weight), *(1,) * (weight.dim() - 1))}

    def effective(self, weight: Tensor, beside: Beside, *, training: bool) -> Tensor:  # noqa: ARG002
        """The weight where it is above its threshold."""
        mask: Tensor = LongTailStep.apply(self.score(weight, beside))
        return weight * mask

    def score(self, weight: Tensor, beside: Beside) -> Tensor:
        """How far a weight is above its threshold."""
        return weight.abs() - beside["threshold"]

    def penalty(self, state: State) -> Tensor | None:
        """What draws thresholds up, until weights are decided."""
        if state.step >= self.solve_at:
            return None
        return self.strength * torch.stack([b["threshold"].neg().exp().sum() for b in self.besides.values()]).sum()
