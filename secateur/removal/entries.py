"""The entries of many units in one line, so that a training step looks at all of them in a few flat operations.

A decaying channel owns rows of a convolution, entries of its norm and of its bias, each in another tensor and in
another layer than the next channel. Here all entries are sorted by unit: a unit is a range of one line, its norm a
segment of one reduction, and no Python loop runs over units. Entries are found through `Member.expand` alone, so this
holds for channels, heads, blocks and single weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from secateur.errors import InputError
from secateur.graph.units import Group, Groups, Member

Side = Literal["producers", "both"]

MOMENTA = ("momentum_buffer", "exp_avg")
"""States of torch's optimizers that move a weight even where its gradient is zero."""


class Entries:
    """The trained entries of some units of `groups`, in the order of groups and units.

    `units`: group name -> unit indices. `side="producers"` takes what makes a unit's activation (rows, biases, norm
    weights and biases), `"both"` also the columns that read it; a group that trains no producers is taken with what it
    has. An entry that a unit owns twice, in a tied weight, counts once. `owner` is the number of the unit of each
    entry, in that order, int64 of shape `[entries]`. Raises `InputError` for a parameter whose memory has gaps.
    """

    def __init__(self, groups: Groups, units: Mapping[str, Tensor], side: Side = "producers") -> None:
        self.count = sum(indices.numel() for indices in units.values())
        self.sizes = [indices.numel() for indices in units.values()]
        self._tensors: list[Tensor] = []
        starts, total = dict[str, int](), 0
        owners, places = [], []
        for number, (name, indices) in zip(itertools.accumulate(self.sizes, initial=0), units.items(), strict=False):
            for member in owned(groups[name], groups, side):
                tensor = groups.tensor(member.name)
                if member.name not in starts:
                    starts[member.name] = total
                    total += tensor.numel()
                    self._tensors.append(tensor)
                owner, place = _entries(member, tensor, indices, number)
                owners.append(owner)
                places.append(place + starts[member.name])
        device = self._tensors[0].device if self._tensors else torch.device("cpu")
        line = torch.cat(owners) * max(total, 1) + torch.cat(places) if owners else torch.empty(0, dtype=torch.long)
        line = line.unique().to(device)
        self.owner, self._place = line // max(total, 1), line % max(total, 1)
        self._lengths = torch.bincount(self.owner, minlength=self.count)
        self._total, self._shared = total, self._place.unique().numel() < self._place.numel()

    def weights(self) -> Tensor:
        """The weights of all entries, float64 of shape `[entries]`."""
        return self._read(self._tensors)

    def gradients(self) -> Tensor:
        """Their gradients, zero where there are none."""
        return self._read([torch.zeros_like(t) if t.grad is None else _aligned(t.grad, t) for t in self._tensors])

    def sums(self, values: Tensor) -> Tensor:
        """The sum over each unit of a value an entry, shape `[units]`; the same bits on every run."""
        return torch.segment_reduce(values, "sum", lengths=self._lengths, unsafe=True)

    def norms(self, values: Tensor) -> Tensor:
        """The joint L2 norm of each unit, over all tensors that it lives in."""
        return self.sums(values.square()).sqrt()

    @torch.no_grad()
    def scale(self, factors: Tensor, optimizer: Optimizer | None = None) -> None:
        """Multiply the weights of every unit by its factor, and with `optimizer` its momentum too."""
        line = torch.ones(self._total, dtype=torch.float32, device=self._place.device)
        line = line.double() if any(t.dtype == torch.float64 for t in self._tensors) else line
        each = factors.to(line)[self.owner]
        if self._shared:  # an entry of two leaving units shrinks with both
            line.scatter_reduce_(0, self._place, each, "prod")
        else:
            line.index_copy_(0, self._place, each)
        targets, pieces = list[Tensor](), list[Tensor]()
        for tensor, piece in zip(self._tensors, line.split([t.numel() for t in self._tensors]), strict=True):
            laid = piece.as_strided(tensor.shape, tensor.stride(), piece.storage_offset()).to(tensor.dtype)
            state = optimizer.state.get(tensor, {}) if optimizer is not None else {}
            moving = [state[key] for key in MOMENTA if isinstance(state.get(key), Tensor)]
            targets += [tensor, *moving]
            pieces += [laid] * (1 + len(moving))
        if targets:
            torch._foreach_mul_(targets, pieces)

    @torch.no_grad()
    def add(self, values: Tensor) -> None:
        """Add a value to every entry; entries of two units get both."""
        line = torch.zeros(self._total, dtype=torch.float64, device=self._place.device)
        line.index_add_(0, self._place, values.double())
        for tensor, piece in zip(self._tensors, line.split([t.numel() for t in self._tensors]), strict=True):
            tensor.add_(piece.as_strided(tensor.shape, tensor.stride(), piece.storage_offset()).to(tensor.dtype))

    def _read(self, tensors: Sequence[Tensor]) -> Tensor:
        if not tensors:
            return torch.zeros(0, dtype=torch.float64)
        return torch.cat([_line(t) for t in tensors]).index_select(0, self._place).double()


def owned(group: Group, groups: Groups, side: Side = "producers") -> tuple[Member, ...]:
    """The trained members of a group on a side; all trained ones where that side has none."""
    trained = tuple(m for m in group.members if not m.buffer and groups.tensor(m.name).is_floating_point())
    return tuple(m for m in trained if side == "both" or m.role == "producer") or trained


def _entries(member: Member, tensor: Tensor, indices: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """The owner (numbered from `first`) and the place in memory of every entry that one of the units has."""
    numbers = torch.full((member.units,), -1, dtype=torch.long)
    numbers[indices.cpu()] = torch.arange(first, first + indices.numel())
    expanded = member.expand(numbers, fill=-1).expand(tensor.shape)
    laid = _line(torch.empty_strided(tensor.shape, tensor.stride(), dtype=torch.long).copy_(expanded), member.name)
    place = (laid >= 0).nonzero().flatten()
    return laid[place], place


def _line(tensor: Tensor, name: str = "") -> Tensor:
    """The tensor's entries in the order of memory, a view."""
    reach = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    if tensor.numel() and reach != tensor.numel():
        raise InputError(f"The memory of the parameter '{name}' must have no gaps. Make it contiguous.")
    return tensor.detach().as_strided((tensor.numel(),), (1,))


def _aligned(gradient: Tensor, tensor: Tensor) -> Tensor:
    """The gradient laid out as its parameter is."""
    if gradient.is_sparse:
        gradient = gradient.to_dense()
    return gradient if gradient.stride() == tensor.stride() else torch.empty_like(tensor).copy_(gradient)
