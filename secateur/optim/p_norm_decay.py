"""p-norm weight decay: decoupled decay towards small p-norms, for any p up to 2.

"Decoupled Weight Decay for Any p Norm" (arXiv 2404.10824).

    after the optimizer's step:   w <- w / (1 + lr lambda |w|^(p - 2))

For p = 2 this is weight decay; for p < 2 small weights shrink faster, for p <= 1 to zero. The division is the proximal
form: it has no divergence at 0, where the gradient of |w|^p has one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from secateur.optim.weights import check_number, matrices

if TYPE_CHECKING:
    from secateur.training.state import State


@dataclass(frozen=True)
class PNormDecay:
    """A method for `fit`, to be used in place of the optimizer's own weight decay.

    `strength` is lambda, `p` in (0, 2]. Weights below `snap` are set to zero: decay alone comes ever closer. The
    learning rate is that of each weight's parameter group.

    >>> fit(model, data, epochs=10, methods=[PNormDecay(1e-4, p=0.8)])
    """

    strength: float = 1e-4
    p: float = 1.0
    snap: float = 1e-8

    def __post_init__(self) -> None:
        check_number(self.strength, "strength", "PNormDecay", 0)
        check_number(self.p, "p", "PNormDecay", 1e-3, 2)
        check_number(self.snap, "snap", "PNormDecay", 0)

    @torch.no_grad()
    def after_step(self, state: State) -> None:
        """Shrink every weight matrix."""
        wanted = set(matrices(state.model).values())
        for group in state.optimizer.param_groups:
            for weight in wanted.intersection(group["params"]):
                size = weight.abs()
                factor = 1 + float(group["lr"]) * self.strength * size.pow(self.p - 2)
                weight.div_(factor).masked_fill_(size / factor <= self.snap, 0)
