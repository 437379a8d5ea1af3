"""STR: a threshold for every layer, learned, above which weights are used less the threshold.

A. Kusupati et al., Soft Threshold Weight Reparameterization for Learnable Sparsity (arXiv 2002.03231), equation 4. With
one s learned for every layer,

    weights are used as sign(w) relu(|w| - sigmoid(s))              open: |w| > sigmoid(s)

What raises s is its weight decay (the optimizer's own): s starts far below 0 and is drawn towards it. Difference from
the paper: the budget is met in the end, by the largest |w| - sigmoid(s).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from secateur.methods.relaxed import Beside, Relaxed


@dataclass(eq=False, kw_only=True)
class SoftThreshold(Relaxed):
    """STR; the other fields are those of `Relaxed`. Give the optimizer a weight decay.

    initial   -10, the s at first; the paper has -3200 for ResNet-50 at 100 epochs

    >>> fit(model, data, epochs=60, methods=[SoftThreshold(groups=elements(model), budget="5% weights")])
    """

    decayed: ClassVar[bool] = True

    initial: float = -10.0

    def beside(self, name: str, weight: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """The layer's s."""
        return {"s": weight.new_full((1,) * weight.dim(), self.initial)}

    def effective(self, weight: Tensor, beside: Beside, *, training: bool) -> Tensor:  # noqa: ARG002
        """The weight less its threshold."""
        return weight.sign() * self.score(weight, beside).relu()

    def score(self, weight: Tensor, beside: Beside) -> Tensor:
        """How far a weight is above its threshold."""
        return weight.abs() - torch.sigmoid(beside["s"])
