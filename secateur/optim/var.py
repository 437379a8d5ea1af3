"""VAR: a penalty that lets the sizes of weights spread, so that few are large and many small.

V.-D. Yun et al., "Weight Variance Amplifier Improves Accuracy in High-Sparsity One-Shot Pruning" (arXiv 2511.14282,
version 1).

    L + lambda sum_l 1 / (Var(|w_l|) + eps),   |w| = sqrt(w^2 + eps)

The variance is the mean of squares less the square of the mean, of every weight matrix by itself. The paper's lambda is
not known to us; the default is small against a cross-entropy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from secateur.optim.weights import check_number, matrices

if TYPE_CHECKING:
    from secateur.training.state import State


@dataclass(frozen=True)
class VAR:
    """A method for `fit`: `strength` is lambda, `eps` smooths size and inverse.

    >>> fit(model, data, epochs=10, methods=[VAR(1e-6)])
    """

    strength: float = 1e-6
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_number(self.strength, "strength", "VAR", 0)
        check_number(self.eps, "eps", "VAR", 1e-30)

    def penalty(self, state: State) -> Tensor | None:
        """The sum of inverse variances over the layers of more than one weight, times lambda."""
        found = [inverse_variance(w, self.eps) for w in matrices(state.model).values() if w.numel() > 1]
        return self.strength * torch.stack(found).sum() if found else None


def inverse_variance(weight: Tensor, eps: float) -> Tensor:
    """1 / (Var(|w|) + eps), a scalar."""
    return 1 / ((weight.square() + eps).sqrt().var(correction=0) + eps)
