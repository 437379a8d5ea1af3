"""DeepHoyer: a penalty on how many weights count, whatever their scale.

H. Yang, W. Wen, H. Li, "DeepHoyer: Learning Sparser Neural Network with Differentiable Scale-Invariant Sparsity
Measures" (ICLR 2020, arXiv 1908.09979), equations 3 and 4.

    H(w) = (sum |w|)^2 / sum w^2

It is n for n weights of one size and 1 for a single one: a differentiable number of non-zero weights. Under it the
gradient shrinks the small weights and lets the large ones grow. With rows, |w| is the norm of a row (Group-HS).
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
class Hoyer:
    """A method for `fit`: `strength` times the sum of H over all weight matrices; `rows` counts filters, not weights.

    The default strength is small: H of a layer is about 0.6 of its number of weights at the start. Once trained, small
    weights are cut off and the rest is fine-tuned.

    >>> fit(model, data, epochs=10, methods=[Hoyer(1e-6)])
    """

    strength: float = 1e-6
    rows: bool = False

    def __post_init__(self) -> None:
        check_number(self.strength, "strength", "Hoyer", 0)

    def penalty(self, state: State) -> Tensor | None:
        """The sum of H, times lambda."""
        found = [effective_number(w, rows=self.rows) for w in matrices(state.model).values()]
        return self.strength * torch.stack(found).sum() if found else None


def effective_number(weight: Tensor, *, rows: bool = False) -> Tensor:
    """H of a weight: how many of its entries (or rows) count, a scalar; 0 for a weight that is zero.

    >>> effective_number(torch.tensor([3.0, 0.0, 3.0]))
    tensor(2.)
    """
    sizes = torch.linalg.vector_norm(weight.flatten(1), dim=1) if rows else weight.abs()
    return sizes.sum().square() / sizes.square().sum().clamp_min(torch.finfo(weight.dtype).tiny)
