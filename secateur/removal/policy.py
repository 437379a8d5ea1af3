"""The contract of removal policies, and the simplest of them.

A method says which units leave and when; a removal policy says how. Whatever the policy, the caller does the same
three things: `start` with the units that shall leave, `before_step` when gradients are there, and `after_step` when
the optimizer has moved the weights, in which the policy moves the weights of leaving units further and tells which of
them are gone for good, or may stay after all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from secateur.errors import InputError
from secateur.graph.naming import nearest
from secateur.graph.units import Groups


@dataclass(frozen=True, eq=False)
class Departure:
    """What became of the units of one group whose way has ended; every tensor has shape `[units]` and is on the CPU.

    `gone` marks units that have left for good; `released` marks units that were leaving and may stay after all. For
    these `steps` tells after how many steps they were released and `kept` which share of their norm they had then.
    """

    gone: Tensor
    released: Tensor
    steps: Tensor
    kept: Tensor


class Removal(Protocol):
    """A way for units to leave. It holds the state of the units that are on their way out, and can be resumed."""

    @property
    def steps(self) -> int:
        """How many steps of the optimizer a unit takes."""

    def start(self, groups: Groups, leaving: Mapping[str, Tensor], *, certain: bool = False) -> None:
        """Let units leave from now on: group name -> unit indices, int64. Units already leaving stay on their way.

        With `certain`, neither these nor the units already leaving are released any more.
        """

    def before_step(self, groups: Groups) -> None:
        """Look at the leaving units before the optimizer moves them; `groups.model` holds gradients."""

    def after_step(self, groups: Groups, optimizer: Optimizer | None = None) -> dict[str, Departure]:
        """Move the leaving units, and with `optimizer` their momentum; what ended, for groups where something did."""

    def leaving(self) -> dict[str, Tensor]:
        """Group name -> bool of shape `[units]`: the units on their way, on the CPU."""

    def resting(self) -> dict[str, Tensor]:
        """Group name -> bool of shape `[units]`: units released too recently to be chosen again, on the CPU."""

    def round_over(self) -> None:
        """Units of a round were chosen, and those that rest were left out; called before these start to leave."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""

    def load_state_dict(self, groups: Groups, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""


class Immediate:
    """Units leave in one step: the next `after_step` removes all that were started.

    >>> removal = Immediate()
    >>> removal.start(groups, {"conv1": torch.tensor([0, 5])})
    >>> removal.after_step(groups)["conv1"].gone.nonzero().flatten()
    tensor([0, 5])
    """

    steps = 1

    def __init__(self) -> None:
        self._leaving: dict[str, Tensor] = {}

    def start(self, groups: Groups, leaving: Mapping[str, Tensor], *, certain: bool = False) -> None:  # noqa: ARG002 - it always is
        """Let units leave at the next step. Raises `InputError` for indices that are not units of their group."""
        for name, indices in leaving.items():
            marks = unit_marks(groups, name, indices)
            self._leaving[name] = self._leaving[name] | marks if name in self._leaving else marks

    def before_step(self, groups: Groups) -> None:
        """Nothing: whatever the gradients say, the units leave."""

    def after_step(self, groups: Groups, optimizer: Optimizer | None = None) -> dict[str, Departure]:  # noqa: ARG002 - zeros are the masks' work
        """Gone is every unit that was started since the last step."""
        left, self._leaving = self._leaving, {}
        return {
            name: Departure(marks, torch.zeros_like(marks), torch.ones(len(marks)).long(), torch.zeros(len(marks)))
            for name, marks in left.items()
        }

    def leaving(self) -> dict[str, Tensor]:
        """The units that leave at the next step."""
        return dict(self._leaving)

    def resting(self) -> dict[str, Tensor]:
        """None: nothing is ever released."""
        return {}

    def round_over(self) -> None:
        """Nothing rests."""

    def state_dict(self) -> dict[str, Any]:
        """The units that leave at the next step."""
        return {"leaving": {name: marks.clone() for name, marks in self._leaving.items()}}

    def load_state_dict(self, groups: Groups, state: Mapping[str, Any]) -> None:  # noqa: ARG002 - units are enough
        """Go on from `state_dict`."""
        self._leaving = {name: marks.clone() for name, marks in state["leaving"].items()}


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
