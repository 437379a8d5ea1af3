"""Differentiable sparsification: weights are exactly zero below a share of their row's norm that is learned.

Y. Lee, Differentiable Sparsification for Deep Neural Networks (arXiv 1910.03201). With b learned for every row,

    weights are used as v = sign(w) relu(|w| - sigmoid(b) |row|_1)      open: v is not 0
    penalty = strength * sum of |v|^p,  p < 1
    the gradient of relu below 0 is that of the exponential linear unit, exp, so that weights can come back

Written after the abstract and what is known of the method; the paper's text was not at hand. That rows are the scope of
the norm, the start of b, and epsilon in the penalty (whose gradient is infinite at 0) are this project's.
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


class ReluThatLearns(torch.autograd.Function):
    """relu(x) with the gradient of the exponential linear unit: 1 above 0, exp(x) below.

    >>> ReluThatLearns.apply(x)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """relu(x)."""
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """The gradient of the exponential linear unit."""
        (x,) = ctx.saved_tensors
        slope: Tensor = x.clamp(max=0).exp()
        return gradients[0] * slope


@dataclass(eq=False, kw_only=True)
class DifferentiableSparsification(Relaxed):
    """Thresholds at a learned share of a row's norm; the other fields are those of `Relaxed`.

    strength   of the p-norm, 1e-4
    power      p, 0.5
    initial    0.1: where thresholds start, as a share of a row's mean weight

    >>> fit(model, data, epochs=60, methods=[DifferentiableSparsification(groups=elements(model), budget="5% weights")])
    """

    strength: float = 1e-4
    power: float = 0.5
    initial: float = 0.1

    def check(self) -> None:
        """See that the fields are in range."""
        super().check()
        self._require("strength", "a float of at least 0", self.strength >= 0)
        self._require("power", "a float in (0, 1)", 0 < self.power < 1)
        self._require("initial", "a float in (0, 1)", 0 < self.initial < 1)

    def beside(self, name: str, weight: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """The b of every row."""
        share = self.initial / weight[0].numel()
        shape = (len(weight), *(1,) * (weight.dim() - 1))
        return {"b": weight.new_full(shape, math.log(share / (1 - share)))}

    def effective(self, weight: Tensor, beside: Beside, *, training: bool) -> Tensor:  # noqa: ARG002
        """The weight less its threshold."""
        size: Tensor = ReluThatLearns.apply(self.score(weight, beside))
        return weight.sign() * size

    def score(self, weight: Tensor, beside: Beside) -> Tensor:
        """How far a weight is above its threshold."""
        size = weight.abs()
        norm = size.sum(dim=tuple(range(1, weight.dim())), keepdim=True)
        return size - torch.sigmoid(beside["b"]) * norm

    def penalty(self, state: State) -> Tensor | None:
        """The p-norm of what is used, until weights are decided."""
        if state.step >= self.solve_at:
            return None
        used = [self.effective(self.groups.tensor(n), b, training=True).abs() for n, b in self.besides.items()]
        return self.strength * torch.stack([(v + 1e-6).pow(self.power).sum() for v in used]).sum()
