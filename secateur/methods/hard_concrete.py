"""Hard-concrete gates: the expected number of weights that are not zero, made differentiable.

C. Louizos, M. Welling & D. P. Kingma, Learning Sparse Neural Networks through L0 Regularization (arXiv 1712.01312),
equations 10 to 13. With alpha = log a learned beside every weight and u uniform in (0, 1),

    s = sigmoid((log u - log(1 - u) + alpha) / beta)
    z = min(1, max(0, s (zeta - gamma) + gamma))                   weights are used as w z
    P(z > 0) = sigmoid(alpha - beta log(-gamma / zeta))             the price is on the sum of these
    in evaluation s = sigmoid(alpha); open: z > 0

Differences from the paper: gates on single weights instead of inputs and feature maps; the price may follow the budget,
which a constant one, the paper's, meets only by luck; alpha starts without jitter; the optimizer is the user's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from secateur.methods.priced import Priced
from secateur.methods.relaxed import Beside

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(eq=False, kw_only=True)
class HardConcrete(Priced):
    """L0 regularisation; the other fields are those of `Priced`.

    keep         0.5: the probability with which log a starts, as in the paper
    temperature  beta, 2/3
    stretch      gamma and zeta, -0.1 and 1.1
    bound        log a stays within -bound and bound; the paper's code has log 100, with which no fewer than 5 % of the
                 weights are expected to be open. 10 here

    >>> fit(model, data, epochs=60, methods=[HardConcrete(groups=elements(model), budget="5% weights")])
    """

    draws: ClassVar[bool] = True

    keep: float = 0.5
    temperature: float = 2 / 3
    stretch: tuple[float, float] = (-0.1, 1.1)
    bound: float = 10.0

    def check(self) -> None:
        """See that the fields are in range."""
        super().check()
        self._require("keep", "a probability in (0, 1)", 0 < self.keep < 1)
        self._require("temperature", "a float above 0", self.temperature > 0)
        low, high = self.stretch
        self._require("stretch", "two floats, below 0 and above 1", low < 0 and high > 1)
        self._require("bound", "a float above 0", self.bound > 0)

    def beside(self, name: str, weight: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """The log a of every weight."""
        return {"alpha": torch.full_like(weight, math.log(self.keep / (1 - self.keep)))}

    def effective(self, weight: Tensor, beside: Beside, *, training: bool) -> Tensor:
        """`w z`."""
        alpha = beside["alpha"]
        soft = torch.sigmoid((alpha + beside.noise) / self.temperature) if training else alpha.sigmoid()
        return weight * self._stretched(soft).clamp(0, 1)

    def score(self, weight: Tensor, beside: Beside) -> Tensor:  # noqa: ARG002
        """The z of evaluation before it is clipped."""
        return self._stretched(beside["alpha"].sigmoid())

    def chances(self) -> Iterator[Tensor]:
        """P(z > 0) of every weight."""
        low, high = self.stretch
        for beside in self.besides.values():
            yield torch.sigmoid(beside["alpha"] - self.temperature * math.log(-low / high))

    def settle(self, progress: float) -> None:
        """Hold log a within its bound."""
        super().settle(progress)
        for beside in self.besides.values():
            beside["alpha"].clamp_(-self.bound, self.bound)

    def _stretched(self, soft: Tensor) -> Tensor:
        low, high = self.stretch
        return soft * (high - low) + low
