"""How units leave a network: at once, or over many steps.

A method says which units leave and when; a removal policy says how. Whatever the policy, the caller does the same
three things: `start` with the units that shall leave, `before_step` when gradients are there, and `after_step` when
the optimizer has moved the weights, which tells by what factor each unit is to be multiplied and which units are gone
for good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.graph.naming import nearest
from secateur.graph.units import Groups


@dataclass(frozen=True, eq=False)
class Departure:
    """What one training step does to the units of one group; every tensor has shape `[units]`.

    `factors` multiplies all entries of a unit: 1 leaves it alone, 0 removes it. `gone` marks units that have now left
    for good; `released` marks units that were leaving and may stay after all.
    """

    factors: Tensor
    gone: Tensor
    released: Tensor


class Removal(Protocol):
    """A way for units to leave. It holds the state of the units that are on their way out, and can be resumed."""

    def start(self, groups: Groups, leaving: Mapping[str, Tensor]) -> None:
        """Let units leave from now on: group name -> unit indices, int64. Units already leaving stay on their way."""

    def before_step(self, groups: Groups) -> None:
        """Look at the leaving units before the optimizer moves them; `groups.model` holds gradients."""

    def after_step(self, groups: Groups) -> dict[str, Departure]:
        """What happens to the groups that have units on their way out, now that the optimizer has moved the weights."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""


class Immediate:
    """Units leave in one step: the next `after_step` removes all that were started.

    >>> removal = Immediate()
    >>> removal.start(groups, {"conv1": torch.tensor([0, 5])})
    >>> removal.after_step(groups)["conv1"].gone.nonzero().flatten()
    tensor([0, 5])
    """

    def __init__(self) -> None:
        self.leaving: dict[str, Tensor] = {}

    def start(self, groups: Groups, leaving: Mapping[str, Tensor]) -> None:
        """Let units leave at the next step. Raises `InputError` for indices that are not units of their group."""
        for name, indices in leaving.items():
            marks = unit_marks(groups, name, indices)
            self.leaving[name] = self.leaving[name] | marks if name in self.leaving else marks

    def before_step(self, groups: Groups) -> None:
        """Nothing: whatever the gradients say, the units leave."""

    def after_step(self, groups: Groups) -> dict[str, Departure]:  # noqa: ARG002 - decided when they were started
        """Factor 0 for every unit that was started since the last step."""
        leaving, self.leaving = self.leaving, {}
        return {
            name: Departure((~marks).float(), gone=marks, released=torch.zeros_like(marks))
            for name, marks in leaving.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """The units that leave at the next step."""
        return {"leaving": {name: marks.clone() for name, marks in self.leaving.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.leaving = {name: marks.clone() for name, marks in state["leaving"].items()}


def unit_marks(groups: Groups, name: str, indices: Tensor) -> Tensor:
    """Bool of shape `[units]`, true at `indices`. Raises `InputError` for a group or units that do not exist."""
    if not any(g.name == name for g in groups):
        raise InputError(f"There is no group named {name!r}.{nearest(name, [g.name for g in groups])}")
    units = groups[name].units
    if indices.numel() and (int(indices.min()) < 0 or int(indices.max()) >= units):
        found = f"{int(indices.min())} to {int(indices.max())}"
        raise InputError(f"The units of group '{name}' are numbered 0 to {units - 1}. Got indices {found} instead.")
    marks = torch.zeros(units, dtype=torch.bool)
    marks[indices.cpu().long()] = True
    return marks
