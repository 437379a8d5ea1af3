"""Masks: a model keeps its shapes while removed units are held at exactly zero.

Removed means that every entry a unit owns is zero: in its producers, in its consumers, and in running means. Running
variances stay, so that dividing by them stays safe. All units of all groups that share a tensor are joined into one
mask for it, once, so a training step costs a few multiplications and no loop over units.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.errors import CheckpointError
from secateur.graph.units import Groups
from secateur.planning.plans import Plan
from secateur.removal import Departure, Removal, unit_marks


class Masks:
    """The removed units of `groups.model`; nothing is removed until a plan or `remove` says so.

    `plan` is a plan, or a mapping from groups to kept unit indices; a group it does not name stays whole. Raises
    `InputError` for a plan made for other groups.

    >>> masks = Masks(groups, plan)
    >>> masks.apply()
    >>> with masks.hold(optimizer):  # zero after every step, whatever the optimizer does
    ...     train(model, optimizer)
    """

    def __init__(self, groups: Groups, plan: Plan | Mapping[str, Tensor] | None = None) -> None:
        self.groups = groups
        self.kept = {g.name: torch.ones(g.units, dtype=torch.bool) for g in groups}
        if isinstance(plan, Plan):
            plan.check(groups)
        for name, indices in (plan.keep if isinstance(plan, Plan) else plan or {}).items():
            self.kept[name] = unit_marks(groups, name, indices)
        self._build()

    @property
    def counts(self) -> dict[str, int]:
        """Group name -> how many units are not removed."""
        return {name: int(kept.sum()) for name, kept in self.kept.items()}

    def tensor_masks(self) -> dict[str, Tensor]:
        """Tensor name -> bool that broadcasts over it, false where removed; only tensors that lose something."""
        return dict(self._masks)

    def apply(self) -> None:
        """Set to zero what is removed, in parameters and buffers, in place."""
        with torch.no_grad():
            for name, mask in self._masks.items():
                tensor = self.groups.tensor(name)
                tensor.masked_fill_(~mask.to(tensor.device), 0)

    def remove(self, units: Mapping[str, Tensor]) -> None:
        """Remove more units, now: group name -> unit indices. What is removed already stays removed."""
        for name, indices in units.items():
            self.kept[name] = self.kept[name] & ~unit_marks(self.groups, name, indices)
        self._build()
        self.apply()

    def before_step(self) -> None:
        """Set the gradients of removed entries to zero, so that clipping and second moments do not see them."""
        pairs = [(p.grad, mask) for p, mask in self._trained() if p.grad is not None and not p.grad.is_sparse]
        _multiply([grad for grad, _ in pairs], [mask for _, mask in pairs])

    def after_step(self, optimizer: Optimizer | None = None) -> None:
        """Set removed weights to zero again, and with `optimizer` also their momentum and its other states."""
        if not self._factors:
            return
        pairs = self._trained()
        states = [
            (value, mask)
            for p, mask in pairs
            for value in (optimizer.state.get(p, {}).values() if optimizer is not None else ())
            if isinstance(value, Tensor) and value.shape == p.shape and value.is_floating_point()
        ]
        with torch.no_grad():
            _multiply([t for t, _ in (*pairs, *states)], [mask for _, mask in (*pairs, *states)])

    def hold(self, optimizer: Optimizer) -> Hold:
        """Keep what is removed at zero through every step of `optimizer`, until the handle is removed.

        Momentum, weight decay and gradient scaling for mixed precision do not get around it: a scaler that skips a
        step moves nothing, and one that does not calls the optimizer, to which this is attached.
        """
        return Hold(self, optimizer)

    def advance(self, removal: Removal, optimizer: Optimizer | None = None) -> dict[str, Departure]:
        """Let a removal policy act after an optimizer step, and return what ended; units gone for good are removed.

        With `optimizer`, the states of what is removed are zero too, and the momentum of leaving units shrinks with
        them.
        """
        self.after_step(optimizer)
        departures = removal.after_step(self.groups, optimizer)
        gone = {name: departure.gone.nonzero().flatten() for name, departure in departures.items()}
        if any(len(units) for units in gone.values()):
            self.remove(gone)
            self.after_step(optimizer)
        return departures

    def state_dict(self) -> dict[str, Any]:
        """Which units are kept, bool of shape `[units]` for every group."""
        return {"kept": {name: kept.clone() for name, kept in self.kept.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`. Raises `CheckpointError` for the state of another model."""
        found = {name: tuple(kept.shape) for name, kept in state["kept"].items()}
        if found != {name: tuple(kept.shape) for name, kept in self.kept.items()}:
            raise CheckpointError(
                "The masks to load were made for another model: their groups or numbers of units differ."
            )
        self.kept = {name: state["kept"][name].to("cpu", torch.bool) for name in self.kept}
        self._build()

    def _build(self) -> None:
        """Join the masks of all groups into one for every tensor that loses something."""
        joined: dict[str, Tensor] = {}
        for group in self.groups:
            if self.kept[group.name].all():
                continue
            for member in group.members:
                if _is_masked(member.name, self.groups):
                    mask = member.expand(self.kept[group.name])
                    joined[member.name] = joined[member.name] & mask if member.name in joined else mask
        self._masks = joined
        self._factors = {n: mask for n, mask in joined.items() if isinstance(self.groups.tensor(n), nn.Parameter)}

    def _trained(self) -> list[tuple[Tensor, Tensor]]:
        """Every parameter that loses something with its mask as numbers, on the parameter's device."""
        pairs = []
        for name, mask in self._factors.items():
            tensor = self.groups.tensor(name)
            self._factors[name] = mask.to(tensor)  # no work unless the model has moved since
            pairs.append((tensor, self._factors[name]))
        return pairs


class Hold:
    """Masks attached to an optimizer; `remove` (or the end of a `with` block) detaches them."""

    def __init__(self, masks: Masks, optimizer: Optimizer) -> None:
        self._handles = [
            optimizer.register_step_pre_hook(lambda *_: masks.before_step()),
            optimizer.register_step_post_hook(lambda moved, *_: masks.after_step(moved)),
        ]

    def remove(self) -> None:
        """Leave the optimizer as it was before."""
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def masked(groups: Groups, plan: Plan | Mapping[str, Tensor]) -> nn.Module:
    """A copy of the model in which everything that the plan removes is zero: same shapes, same device, same mode.

    Where the plan has factors, the survivors are rescaled. The model itself is not touched.

    >>> masked(groups, plan)(example)
    """
    copied = dataclasses.replace(groups, model=copy.deepcopy(groups.model))
    Masks(copied, plan).apply()
    if isinstance(plan, Plan):
        rescale(copied, plan)
    return copied.model


def rescale(groups: Groups, plan: Plan) -> None:
    """Multiply the kept units of `groups.model` by the plan's factors, once and in place.

    A factor scales what reads the unit, its consumers, or the producers of a unit that nothing in the group reads.
    """
    with torch.no_grad():
        for name, factor in tensor_factors(groups, plan).items():
            tensor = groups.tensor(name)
            tensor.mul_(factor.to(tensor))


def tensor_factors(groups: Groups, plan: Plan) -> dict[str, Tensor]:
    """Tensor name -> what the plan's factors multiply its entries by: float64 of the tensor's shape.

    Groups that the plan names and the model no longer has were found not to be provable, and stay as they are.
    """
    joined: dict[str, Tensor] = {}
    for group in (g for g in groups if g.name in plan.factors):
        values = torch.ones(group.units, dtype=torch.float64)
        values[plan.keep[group.name]] = plan.factors[group.name].double()
        for member in group.consumers or group.producers:
            if not member.buffer:
                factor = member.expand(values).expand(member.shape)
                joined[member.name] = joined[member.name] * factor if member.name in joined else factor
    return joined


def _is_masked(name: str, groups: Groups) -> bool:
    """Whether zeros may stand in the tensor: not in integers and flags, nor in running variances."""
    tensor = groups.tensor(name)
    return (tensor.is_floating_point() or tensor.is_complex()) and not name.endswith("running_var")


def _multiply(tensors: Sequence[Tensor], factors: Sequence[Tensor]) -> None:
    if tensors:
        torch._foreach_mul_(list(tensors), list(factors))
