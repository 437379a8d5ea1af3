"""CrAM: the gradient is taken at a compressed copy of the weights a step further on.

A. Peste et al., "CrAM: A Compression-Aware Minimizer" (ICLR 2023, arXiv 2207.14200), algorithm 1.

    w~ = C_k(w + rho g),   C_k keeps the largest share 1 - k of all weights, k drawn in every step
    CrAM:  step with grad L(w~) where C_k keeps,   CrAM+:  the same plus g

As in the paper's code, g is not normalised, and batch-norm statistics are those of the dense pass. After pruning,
batch norm is to be estimated anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.optim.weights import check_number, matrices

if TYPE_CHECKING:
    from secateur.training.state import State


@dataclass(frozen=True)
class CrAM:
    """A method for `fit` around any optimizer; every step costs two gradients.

    `sparsities` are the shares removed that are drawn from (0.5, 0.7, 0.9: the paper's for ImageNet), by magnitude over
    all weight matrices together; `rho` is the step ahead (0.05; CIFAR-10: 0.2); `plus` adds the dense gradient, which
    keeps the dense model accurate.

    >>> fit(model, data, epochs=180, methods=[CrAM(rho=0.2)])
    """

    sparsities: Sequence[float] = (0.5, 0.7, 0.9)
    rho: float = 0.05
    plus: bool = True

    def __post_init__(self) -> None:
        check_number(self.rho, "rho", "CrAM", 0)
        if not self.sparsities:
            raise InputError("The 'sparsities' parameter of CrAM must hold at least one share. Got none.")
        for share in self.sparsities:
            check_number(share, "sparsities", "CrAM", 0, 1)

    def before_step(self, state: State) -> None:
        """Put CrAM's gradients in the place of the plain ones."""
        drawn = int(torch.randint(len(self.sparsities), (), generator=state.generator))
        moved: list[Tensor] = [p for p in state.model.parameters() if p.grad is not None]
        dense = [p.grad.clone() for p in moved if p.grad is not None]
        before = [p.detach().clone() for p in moved]
        with torch.no_grad():
            torch._foreach_add_(moved, dense, alpha=self.rho)
            kept = compress(list(matrices(state.model).values()), self.sparsities[drawn])
        try:
            state.closure()
        finally:
            with torch.no_grad():
                torch._foreach_copy_(moved, before)
        with torch.no_grad():
            for parameter, gradient in zip(moved, dense, strict=True):
                if parameter.grad is not None and parameter in kept:
                    parameter.grad.mul_(kept[parameter])
                if parameter.grad is not None and self.plus:
                    parameter.grad.add_(gradient)


def compress(weights: Sequence[Tensor], sparsity: float) -> dict[Tensor, Tensor]:
    """Set the smallest `round(sparsity * n)` of all `n` entries to zero, in place; weight -> bool of what is kept."""
    sizes = torch.cat([w.detach().abs().flatten() for w in weights])
    kept = torch.ones_like(sizes, dtype=torch.bool)
    kept[sizes.topk(round(sparsity * len(sizes)), largest=False).indices] = False
    masks = kept.split([w.numel() for w in weights])
    found = {w: mask.view(w.shape) for w, mask in zip(weights, masks, strict=True)}
    for weight, mask in found.items():
        weight.mul_(mask)
    return found
