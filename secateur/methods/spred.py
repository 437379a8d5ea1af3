"""spred: L1 regularisation by gradient descent, through a product of two weights under plain weight decay.

L. Ziyin & Z. Wang, spred: Solving L1 Penalty with SGD (arXiv 2210.01212). Every weight is w = u v, and

    penalty = strength * (|u|^2 + |v|^2) / 2                        its least for a given w is strength |w|
    open: |u v| above the threshold

Both factors start with the same size, so that the network at first is the one that was given. Difference from the
paper: the budget is met in the end, by the largest |u v|.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from secateur.methods.relaxed import Beside, Relaxed

if TYPE_CHECKING:
    from secateur.training.state import State


@dataclass(eq=False, kw_only=True)
class Spred(Relaxed):
    """L1 through products; the other fields are those of `Relaxed`.

    strength    of the L1 norm, 1e-4
    threshold   1e-4, the size below which a weight counts as zero

    >>> fit(model, data, epochs=60, methods=[Spred(groups=elements(model), budget="5% weights")])
    """

    strength: float = 1e-4
    threshold: float = 1e-4

    def check(self) -> None:
        """See that the fields are in range."""
        super().check()
        self._require("strength", "a float of at least 0", self.strength >= 0)
        self._require("threshold", "a float of at least 0", self.threshold >= 0)

    def beside(self, name: str, weight: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """The second factor; the weight becomes the first."""
        size = weight.abs().sqrt()
        weight.copy_(weight.sign() * size)
        return {"v": size}

    def effective(self, weight: Tensor, beside: Beside, *, training: bool) -> Tensor:  # noqa: ARG002
        """`u v`."""
        return weight * beside["v"]

    def score(self, weight: Tensor, beside: Beside) -> Tensor:
        """The size of the product, less the threshold."""
        return (weight * beside["v"]).abs() - self.threshold

    def penalty(self, state: State) -> Tensor | None:
        """The decay of both factors, until weights are decided."""
        if state.step >= self.solve_at:
            return None
        factors = [x for name, b in self.besides.items() for x in (self.groups.tensor(name), b["v"])]
        return self.strength / 2 * torch.stack([factor.square().sum() for factor in factors]).sum()
