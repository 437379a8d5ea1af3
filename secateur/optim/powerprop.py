"""Powerpropagation: weights are powers of what is trained, so the large grow and the small stay.

J. Schwarz et al., "Powerpropagation: A sparsity inducing weight reparameterisation" (NeurIPS 2021, arXiv 2110.00296),
section 2.

    w = theta |theta|^(alpha - 1)

The gradient of theta is that of w times alpha |theta|^(alpha - 1): rich get richer. The weights the model starts from
are kept: theta = sign(w) |w|^(1/alpha).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.optim.weights import check_number, layers

if TYPE_CHECKING:
    from secateur.training.state import State


class Power(nn.Module):
    """theta -> w, with its inverse: a parametrization of `torch.nn.utils.parametrize`."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, theta: Tensor) -> Tensor:
        """The weight of `theta`."""
        return theta * theta.abs().pow(self.alpha - 1)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The theta of `weight`."""
        return weight.sign() * weight.abs().pow(1 / self.alpha)


@dataclass(frozen=True)
class Powerprop:
    """A method for `fit`: weight matrices are parametrised while it trains, and plain parameters again at its end.

    `alpha` is 1 (nothing changes) to about 5; the paper takes 2 to 4. Weight decay and the learning rate act on theta.

    >>> fit(model, data, epochs=10, methods=[Powerprop(alpha=2.0)])
    """

    alpha: float = 2.0

    def __post_init__(self) -> None:
        check_number(self.alpha, "alpha", "Powerprop", 1)

    def setup(self, state: State) -> None:
        """Write the weights as powers, before the optimizer is built."""
        for module in layers(state.model, "Powerprop").values():
            parametrize.register_parametrization(module, "weight", Power(self.alpha))

    def finish(self, state: State) -> None:
        """Make the weights plain parameters."""
        unwrap(state.model, Power)


def parametrised(model: nn.Module, kind: type[nn.Module]) -> dict[str, nn.Module]:
    """Name -> module whose weight is parametrised by a `kind`."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            listed: Any = module.parametrizations
            if isinstance(listed["weight"][0], kind):
                found[name] = module
    return found


def unwrap(model: nn.Module, kind: type[nn.Module]) -> list[Tensor]:
    """Replace weights that are parametrised by `kind` by their values, and return these parameters."""
    weights: list[Tensor] = []
    for module in parametrised(model, kind).values():
        with torch.enable_grad():  # without, torch would leave a tensor instead of a parameter
            parametrize.remove_parametrizations(module, "weight")
        weights.append(module.get_parameter("weight"))
    return weights
