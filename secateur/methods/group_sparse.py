"""Group-sparse learning: small units are pushed towards zero by a decay of their own, and the smallest leave.

G. Fang, X. Ma, M. Song, M. B. Mi & X. Wang, DepGraph: Towards Any Structural Pruning (arXiv 2301.12900), section 3.3.
With I_k the joint magnitude of unit k over all tensors of its group, rows and columns,

    R = sum over k of gamma_k ||w[k]||^2,    gamma_k = 2^(alpha (I_max - I_k) / (I_max - I_min))

whose gradient, `reg gamma_k w[k]` for rows, columns and norm weights, joins that of the loss (biases are left alone).
Then units are removed over the whole network by I_k.

Differences from the paper's code (Torch-Pruning): sparse learning goes on while units leave, and rounds are spread over
training steps, since a unit that decays needs them; the code prunes in up to 400 rounds without training in between.
Ordinary weight decay is to be 0 meanwhile, as there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from secateur.criteria import magnitude
from secateur.graph.units import Group
from secateur.methods.pruner import Pruner
from secateur.removal.entries import owned

if TYPE_CHECKING:
    from secateur.training.state import State


def strengths(importance: Tensor, alpha: float = 4.0) -> Tensor:
    """The gamma of every unit, from its importance I, both of shape `[units]`: in [1, 2^alpha], most for the least.

    Where all units are alike, all get 1.

    >>> strengths(torch.tensor([0.0, 1.0, 2.0]))
    tensor([16.,  4.,  1.])
    """
    low, high = importance.min(), importance.max()
    reach = torch.where(high > low, (high - importance) / (high - low), 0.0)
    return torch.exp2(alpha * reach)


@dataclass(eq=False, kw_only=True)
class GroupSparse(Pruner):
    """DepGraph's sparse learning and iterative global pruning; the other fields are those of `Pruner`.

    reg      weight of the regulariser (5e-4, Torch-Pruning's for CIFAR)
    alpha    4: the smallest unit decays 16 times as fast as the largest
    start    0.5: sparse learning alone before that, as the 100 of 200 epochs of the published recipe
    stop     0.6
    rounds   5

    >>> fit(model, data, epochs=200, methods=[GroupSparse(groups=groups, budget="2.11x macs")], optimizer=...)
    """

    start: float = 0.5
    stop: float = 0.6
    rounds: int = 5
    reg: float = 5e-4
    alpha: float = 4.0

    def check(self) -> None:
        """See that the fields are in range."""
        super().check()
        self._require("reg", "a float of at least 0", self.reg >= 0)
        self._require("alpha", "a float of at least 0", self.alpha >= 0)

    @torch.no_grad()
    def look(self, state: State) -> None:
        """Add the regulariser's gradient, until the budget is met."""
        if state.step >= self.last or self.reg == 0:
            return
        importance = magnitude(self.groups, normalise="none")
        for group in self.groups:
            self._push(group, strengths(importance[group.name].sqrt(), self.alpha))

    def _push(self, group: Group, gamma: Tensor) -> None:
        for member in owned(group, self.groups, "both"):
            tensor = self.groups.tensor(member.name)
            if tensor.grad is not None and not member.name.endswith("bias"):
                tensor.grad.addcmul_(member.expand(gamma.to(tensor), fill=0.0), tensor, value=self.reg)

    def scores(self, state: State) -> Mapping[str, Tensor]:  # noqa: ARG002 - the groups hold the model
        """The group magnitude."""
        return magnitude(self.groups)
