"""SAM: the gradient is taken where the loss is highest nearby, which leads to flat minima; they lose less when pruned.

P. Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization" (ICLR 2021, arXiv 2010.01412),
equation 2; before pruning: C. Na et al., "Train Flat, Then Compress" (EMNLP 2022, arXiv 2205.12694).

    w~ = w + rho g / |g|,   step with grad L(w~) from w
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from secateur.optim.weights import check_number

if TYPE_CHECKING:
    from secateur.training.state import State


@dataclass(frozen=True)
class SAM:
    """A method for `fit` around any optimizer; every step costs two gradients.

    `rho` is the distance to look around (0.05: the paper's for CIFAR and ImageNet); `adaptive` scales it by every
    weight's size (J. Kwon et al., "ASAM", arXiv 2102.11600), for which `rho` is about ten times as large. Batch-norm
    statistics are those of the first pass.

    >>> fit(model, data, epochs=10, methods=[SAM(rho=0.05)])
    """

    rho: float = 0.05
    adaptive: bool = False

    def __post_init__(self) -> None:
        check_number(self.rho, "rho", "SAM", 0)

    def before_step(self, state: State) -> None:
        """Put the gradients of the perturbed weights in the place of those of the weights."""
        moved: list[Tensor] = [p for p in state.model.parameters() if p.grad is not None]
        with torch.no_grad():
            scales = [p.abs() if self.adaptive else torch.ones_like(p) for p in moved]
            pairs = list(zip(moved, scales, strict=True))
            norm = torch.stack([(_gradient(p) * scale).norm() for p, scale in pairs]).norm()
            steps = [_gradient(p) * scale.square() * (self.rho / (norm + 1e-12)) for p, scale in pairs]
            before = [p.detach().clone() for p in moved]
            torch._foreach_add_(moved, steps)
        try:
            state.closure()
        finally:
            with torch.no_grad():
                torch._foreach_copy_(moved, before)


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None, "only parameters with gradients are perturbed"
    return parameter.grad
