"""Units, members and groups: what can be removed, whatever its granularity.

A *unit* is the smallest thing removed together: a channel, a head, a neuron, one weight, one block. A *group* is a set
of interchangeable units. A group lists its *members*: the parameters its units live in. Every member maps between
entries of its parameter and units by two functions, `reduce` and `expand`; scoring, masking, decaying and gating are
written over those two alone, never per layer type and never per granularity.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

if TYPE_CHECKING:
    from secateur.graph.cost import Cost, CostModel
    from secateur.graph.solution import Solution

Role = Literal["producer", "consumer"]
Proof = Literal["exact", "kept statistics"]
Kind = Literal["slices", "elements", "blocks"]
Follow = Literal["code", "program"]


@dataclass(frozen=True, eq=False)
class Member(ABC):
    """One tensor's share in a group of `units` units.

    `name` is the tensor's dotted path in the model; a tensor tied under several names appears once, under its first
    name. `role` says whether its entries produce the unit's activation (output rows, biases, norm weights and
    statistics) or consume it (input columns). `buffer` marks tensors that are not trained (running statistics): cut and
    masked, never scored.
    """

    name: str
    shape: tuple[int, ...]
    units: int
    role: Role
    buffer: bool = False

    @abstractmethod
    def reduce(self, values: Tensor, how: Literal["sum", "max"] = "sum") -> Tensor:
        """One value a unit, shape `[units]`, from one value an entry (`values` has the tensor's shape).

        `max` is meant for values that are not negative: a unit without entries gets 0.
        """

    @abstractmethod
    def expand(self, values: Tensor, fill: float = 1.0) -> Tensor:
        """A tensor that broadcasts over the parameter, from one value a unit (shape `[units]`).

        Entries that belong to no unit of the group get `fill`.
        """

    @property
    @abstractmethod
    def entries(self) -> Tensor:
        """How many entries of the tensor each unit owns, int64 of shape `[units]`."""


@dataclass(frozen=True, eq=False)
class Slices(Member):
    """Units are slices of the tensor along `dim`: entry `i` belongs to unit `labels[i]` (or to none: -1)."""

    dim: int = 0
    labels: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    def reduce(self, values: Tensor, how: Literal["sum", "max"] = "sum") -> Tensor:
        labels = self.labels.to(values.device)
        owned = labels >= 0
        before, after = math.prod(values.shape[: self.dim]), math.prod(values.shape[self.dim + 1 :])
        cube = values.reshape(before, values.shape[self.dim], after)  # one axis after the other takes half the time
        if how == "sum":
            line = (cube.sum(0) if len(cube) > 1 else cube[0]).sum(1)
            return line.new_zeros(self.units).index_add_(0, labels[owned], line[owned])
        line = (cube.amax(0) if len(cube) > 1 else cube[0]).amax(1)
        return line.new_zeros(self.units).scatter_reduce_(0, labels[owned], line[owned], "amax")

    def expand(self, values: Tensor, fill: float = 1.0) -> Tensor:
        padded = torch.cat([values, values.new_full((1,), fill)])  # label -1 reads the last entry
        shape = [1] * len(self.shape)
        shape[self.dim] = -1
        return padded[self.labels.to(values.device)].view(shape)

    @property
    def entries(self) -> Tensor:
        owned = self.labels[self.labels >= 0]
        others = 1
        for d, size in enumerate(self.shape):
            others *= size if d != self.dim else 1
        return torch.bincount(owned, minlength=self.units) * others


@dataclass(frozen=True, eq=False)
class Blocks(Member):
    """Units are `r x c` blocks of the tensor seen as a matrix of `shape[0]` rows; `1 x 1` blocks are single weights.

    Blocks are numbered row by row. Sizes that `r` or `c` do not divide leave smaller blocks at the border.
    """

    block: tuple[int, int] = (1, 1)

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of the tensor seen as a matrix; a vector is one column."""
        rows = self.shape[0] if self.shape else 1
        columns = 1
        for size in self.shape[1:]:
            columns *= size
        return rows, columns

    @property
    def grid(self) -> tuple[int, int]:
        """How many blocks there are down and across."""
        (rows, columns), (r, c) = self.matrix, self.block
        return -(-rows // r), -(-columns // c)

    def reduce(self, values: Tensor, how: Literal["sum", "max"] = "sum") -> Tensor:
        if self.block == (1, 1):
            return values.reshape(-1)
        (rows, columns), (r, c), (down, across) = self.matrix, self.block, self.grid
        padded = nn.functional.pad(values.reshape(rows, columns), (0, across * c - columns, 0, down * r - rows))
        tiles = padded.view(down, r, across, c)
        return (tiles.sum(dim=(1, 3)) if how == "sum" else tiles.amax(dim=(1, 3))).reshape(-1)

    def expand(self, values: Tensor, fill: float = 1.0) -> Tensor:  # noqa: ARG002 - every entry has a unit
        if self.block == (1, 1):
            return values.view(self.shape)
        (rows, columns), (r, c), (down, across) = self.matrix, self.block, self.grid
        tiles = values.view(down, 1, across, 1).expand(down, r, across, c).reshape(down * r, across * c)
        return tiles[:rows, :columns].reshape(self.shape)

    @property
    def entries(self) -> Tensor:
        return self.reduce(torch.ones(self.shape, dtype=torch.long))


@dataclass(frozen=True, eq=False)
class Group:
    """A set of `units` interchangeable units and the tensors they live in.

    `multiple`: how many entries of the narrowest tensor dimension one unit stands for (a head of 64 channels: 64);
    rounding uses it. `minimum`: the fewest units that may remain. `modules`: the modules whose shapes change with the
    group.
    """

    name: str
    units: int
    members: tuple[Member, ...]
    proof: Proof = "exact"
    minimum: int = 1
    multiple: int = 1
    modules: tuple[str, ...] = ()
    note: str = ""

    @property
    def producers(self) -> tuple[Member, ...]:
        """Members whose entries make the unit's activation."""
        return tuple(m for m in self.members if m.role == "producer")

    @property
    def consumers(self) -> tuple[Member, ...]:
        """Members whose entries read the unit's activation."""
        return tuple(m for m in self.members if m.role == "consumer")

    def __repr__(self) -> str:
        return f"Group({self.name!r}, units={self.units}, members={len(self.members)}, proof={self.proof!r})"


@dataclass(frozen=True)
class Frozen:
    """Something that cannot be pruned, and why.

    `name`: the parameter dimension, e.g. `"conv1.weight[1]"`; `units`: its width; `reason`: one sentence; `operator`:
    the ATen operator that stops it; `module`: the module that ran it.
    """

    name: str
    units: int
    reason: str
    operator: str = ""
    module: str = ""


@dataclass(eq=False)
class Groups(Sequence[Group]):
    """Every group of one model: what each later stage works on, so that the model is traced once.

    Behaves as a sequence of `Group`; `groups["layer1.0.conv1"]` finds one by name. `model` is the user's model,
    untouched; `inputs` is the example it was traced with, as `(args, kwargs)`. `follow` says what must follow a cut:
    the model's own code, or a program made of its recording.
    """

    kind: Kind
    model: nn.Module
    items: tuple[Group, ...]
    cost_model: CostModel
    frozen: tuple[Frozen, ...] = ()
    unreached: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    inputs: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    solution: Solution | None = None
    follow: Follow = "code"

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Group]:
        return iter(self.items)

    def __getitem__(self, key: int | str) -> Group:  # type: ignore[override]
        if isinstance(key, int):
            return self.items[key]
        for group in self.items:
            if group.name == key:
                return group
        known = ", ".join(g.name for g in self.items[:5])
        raise KeyError(
            f"There is no group named {key!r}. The model has {len(self)} groups: "
            f"{known}{', ...' if len(self) > 5 else ''}"
        )

    def tensor(self, name: str) -> Tensor:
        """The model's own parameter or buffer (or plain tensor attribute) behind a member's name.

        Of a parametrised one it is the parameter that is trained, not what is computed from it.
        """
        path, _, attribute = name.rpartition(".")
        module = self.model
        for part in path.split(".") if path else ():
            module = cast(nn.Module, module._modules[part])  # get_submodule takes ten times as long
        if "parametrizations" in module._modules and is_parametrized(module, attribute):
            module, attribute = cast(nn.ModuleDict, module.parametrizations)[attribute], "original"
        value = getattr(module, attribute)
        assert isinstance(value, Tensor)
        return value

    def freeze(self, name: str, why: Frozen) -> None:
        """Take a group out, with the reason why it cannot be pruned."""
        self.items = tuple(g for g in self.items if g.name != name)
        self.frozen = (*self.frozen, why)
        if self.solution is not None:
            self.solution.atom_of.pop(name, None)

    def cost(self, counts: Mapping[str, int] | None = None) -> Cost:
        """What the model costs when group `name` keeps `counts[name]` units; the others keep all. Nothing is traced."""
        return self.cost_model.cost(counts or {})

    def balance(self, counts: Mapping[str, int]) -> dict[str, int]:
        """The smallest feasible counts at or above `counts`, one for every group.

        The model's own code may ask for equal widths (`chunk`, shapes read from another tensor) and every group keeps
        its minimum. Units are only restored, never removed, so this ends and is monotone.
        """
        full = {g.name: min(g.units, max(g.minimum, counts.get(g.name, g.units))) for g in self.items}
        return self.solution.balance(full) if self.solution is not None else full
