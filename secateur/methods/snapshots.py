"""A whole curve out of one training: the network as it was when its open gates first met each of several budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from secateur.errors import InputError
from secateur.graph.units import Groups
from secateur.masks import Masks
from secateur.methods.gates import gated
from secateur.planning import Budget
from secateur.planning.fitting import Target


@dataclass(frozen=True)
class Snapshot:
    """A network at some step of a training: `state` is that of the model without gates, zero where they were closed.

    `masks` are false there: parameter -> bool that broadcasts over it, of those that lose something. `spent` is what
    the network has of what `budget` counts.

    >>> model.load_state_dict(snapshot.state)
    """

    budget: str
    step: int
    spent: float
    state: dict[str, Tensor] = field(repr=False)
    masks: dict[str, Tensor] = field(repr=False)


class Snapshots:
    """Takes a snapshot of `groups.model` whenever one of the budgets is met for the first time, the largest first."""

    def __init__(self, groups: Groups, budgets: Sequence[str]) -> None:
        self.groups = groups
        targets = [Target(groups, Budget.parse(budget)) for budget in budgets]
        units = {target.budget.unit for target in targets}
        if len(units) > 1:
            raise InputError(
                f"The 'snapshots' of Gumbel must count the same. They count {' and '.join(sorted(units))}."
            )
        self.waiting = sorted(targets, key=lambda target: -target.asked)
        self.taken: list[Snapshot] = []

    def look(self, step: int, opened: Mapping[str, Tensor], names: Sequence[str]) -> None:
        """See whether waiting budgets are met with these gates open, bool of shape `[units]`; `names` are gated."""
        counts = self.groups.balance({name: int(units.sum()) for name, units in opened.items()})
        spent = self.waiting[0].spent(counts)
        met = [target for target in self.waiting if spent <= target.asked]
        if met:
            kept = {name: units.nonzero().flatten().cpu() for name, units in opened.items()}
            masks = Masks(self.groups, kept).tensor_masks()
            state = self._state(masks, names)
            held = {name: mask for name, mask in masks.items() if isinstance(self.groups.tensor(name), nn.Parameter)}
            self.taken += [Snapshot(str(target.budget), step, spent, state, held) for target in met]
            self.waiting = self.waiting[len(met) :]

    def state_dict(self) -> list[dict[str, Any]]:
        """The snapshots taken."""
        return [dict(vars(snapshot)) for snapshot in self.taken]

    def load_state_dict(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """Go on from `state_dict`."""
        self.taken = [Snapshot(**snapshot) for snapshot in saved]
        self.waiting = self.waiting[len(saved) :]

    def _state(self, masks: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
        plain = {gated(name): name for name in names}
        found = {}
        for key, tensor in self.groups.model.state_dict().items():
            name, value = plain.get(key, key), tensor.detach().cpu().clone()
            found[name] = value.masked_fill_(~masks[name], 0) if name in masks else value
        return found
