"""Iterative pruning: in rounds, units are chosen by what their weights are worth, and the network trains between them.

Han, Pool, Tran & Dally, Learning both Weights and Connections for Efficient Neural Networks (arXiv 1506.02626), and,
with gradients, Molchanov, Mallya, Tyree, Frosio & Kautz, Importance Estimation for Neural Network Pruning (arXiv
1906.10771):

    magnitude    I_k = sum of w^2 over the entries of unit k                        (`secateur.magnitude`)
    taylor       I_k = mean over steps of (sum of g w over the entries of unit k)^2   (equation 8, of whole units)

Differences from the papers: the Taylor terms are those of the training's own steps since the round before, so they cost
no further passes; every round keeps the same share of what the one before left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from secateur.criteria import Scores, magnitude
from secateur.errors import InputError
from secateur.graph.units import Groups
from secateur.methods.pruner import Pruner
from secateur.removal import Entries

if TYPE_CHECKING:
    from secateur.training.state import State


@dataclass(eq=False, kw_only=True)
class Iterative(Pruner):
    """Pruning in rounds by a criterion; the other fields are those of `Pruner`.

    criterion   a function from groups to scores, or "taylor": the mean squared first-order terms of the steps so far
    rounds      5

    >>> fit(model, data, epochs=60, methods=[Iterative(groups=groups, budget="2x macs", removal=Decay(steps=300))])
    """

    rounds: int = 5
    criterion: Callable[[Groups], Mapping[str, Tensor]] | Literal["taylor"] = magnitude

    def check(self) -> None:
        """See that the fields are in range."""
        super().check()
        self._require(
            "criterion", 'a function of groups or "taylor"', self.criterion == "taylor" or callable(self.criterion)
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._terms: Tensor | None = None
        self._entries: Entries | None = None

    def look(self, state: State) -> None:  # noqa: ARG002 - the gradients lie in the model
        """Take in the Taylor terms of the step."""
        if self.criterion != "taylor":
            return
        if self._entries is None:
            self._entries = Entries(self.groups, {g.name: torch.arange(g.units) for g in self.groups}, side="both")
        entries = self._entries
        terms = entries.sums(entries.weights() * entries.gradients()).square()
        self._terms = terms if self._terms is None else self._terms + terms

    def scores(self, state: State) -> Mapping[str, Tensor]:  # noqa: ARG002 - the groups hold the model
        """What the criterion says of the model as it is; the Taylor terms then start anew."""
        if callable(self.criterion):
            return self.criterion(self.groups)
        if self._terms is None:
            raise InputError("The Taylor criterion needs a step's gradients before it can score. None was seen yet.")
        parts = self._terms.split([g.units for g in self.groups])
        self._terms = None
        return Scores(dict(zip((g.name for g in self.groups), parts, strict=True)), "taylor over steps")

    def state_dict(self) -> dict[str, Any]:
        """Where the pruning stands, with the terms taken in."""
        return {**super().state_dict(), "terms": self._terms}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        super().load_state_dict(saved)
        self._terms = saved["terms"]
