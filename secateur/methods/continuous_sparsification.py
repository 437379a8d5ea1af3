"""Continuous sparsification: soft masks that harden as a temperature rises.

P. Savarese, H. Silva & M. Maire, Winning the Lottery with Continuous Sparsification (arXiv 1912.04427). With s learned
beside every weight and b rising from 1 to b_T in equal factors,

    weights are used as w sigmoid(b s) / sigmoid(s_0),  in the end as w [s > 0] / sigmoid(s_0)
    price on the sum of sigmoid(b s)                      open: s > 0

Differences from the paper: one round without rewinding; the price may follow the budget; the optimizer is the user's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.methods.priced import Priced
from secateur.methods.relaxed import Beside
from secateur.schedule import exponential


@dataclass(eq=False, kw_only=True)
class ContinuousSparsification(Priced):
    """Soft masks that harden; the other fields are those of `Priced`.

    initial   s_0, 0; the paper goes down to -0.1 and up to 0.3
    sharpness the b of the end, 200

    >>> fit(model, data, epochs=60, methods=[ContinuousSparsification(groups=elements(model), budget="5% weights")])
    """

    initial: float = 0.0
    sharpness: float = 200.0

    def check(self) -> None:
        """See that the fields are in range."""
        super().check()
        self._require("sharpness", "a float of at least 1", self.sharpness >= 1)

    def beside(self, name: str, weight: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """The s of every weight."""
        return {"s": torch.full_like(weight, self.initial)}

    def effective(self, weight: Tensor, beside: Beside, *, training: bool) -> Tensor:
        """`w m / sigmoid(s_0)`, with m soft in training and hard in evaluation."""
        mask = self._soft(beside) if training else (beside["s"] > 0).to(weight.dtype)
        return weight * mask * (1 + math.exp(-self.initial))

    def score(self, weight: Tensor, beside: Beside) -> Tensor:  # noqa: ARG002
        """The s of every weight."""
        return beside["s"]

    def chances(self) -> Iterator[Tensor]:
        """The soft masks."""
        return map(self._soft, self.besides.values())

    def _soft(self, beside: Beside) -> Tensor:
        return torch.sigmoid(beside["s"] * exponential(beside.progress, start=1.0, end=self.sharpness))
