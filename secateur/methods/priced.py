"""Relaxed methods that know how many weights are open, with a price on that number."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from secateur.methods.edges import Edges
from secateur.methods.prices import Price, Projection, parse_price
from secateur.methods.relaxed import Relaxed

if TYPE_CHECKING:
    from secateur.training.state import State


@dataclass(eq=False, kw_only=True)
class Priced(Relaxed):
    """A method with a price on the weights that are open; the other fields are those of `Relaxed`.

    price   a `Price` or its name and numbers; "constant 1e-6" is what the papers have, the default follows the budget
    """

    price: Price | str = "log_schedule"

    def check(self) -> None:
        """See that the fields are in range."""
        super().check()
        price = parse_price(self.price, type(self).__name__)
        self._require("price", "a price that is paid; Projection is none", not isinstance(price, Projection))

    @abstractmethod
    def chances(self) -> Iterator[Tensor]:
        """How far every weight is open, in [0, 1], a tensor a weight."""

    def prepare(self, state: State) -> list[dict[str, Any]]:
        """Put on what is learned, and count what is open."""
        added = super().prepare(state)
        self._price = parse_price(self.price, type(self).__name__)
        self._edges = Edges(self.groups, self.target, list(self.besides))
        return added

    def penalty(self, state: State) -> Tensor | None:
        """The price of the weights that are open, until they are decided."""
        if state.step >= self.solve_at:
            return None
        return self._edges.penalty(self._price, self._units(), state.step / self.solve_at)

    def settle(self, progress: float) -> None:
        """Let the price see the step."""
        if self._price.sees != "nothing":
            units = dict(zip(self.besides, self._units().tolist(), strict=True))
            self._price.moved(self._edges.standing(units, progress))

    def state_dict(self) -> dict[str, Any]:
        """Where the pruning stands, with the price."""
        return {**super().state_dict(), "price": self._price.state_dict()}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        super().load_state_dict(saved)
        self._price.load_state_dict(saved["price"])

    def _units(self) -> Tensor:
        return torch.stack([chance.sum() for chance in self.chances()])
