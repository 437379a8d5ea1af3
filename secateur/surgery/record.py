"""What was done to a slim module: everything that a checkpoint needs to do it again on the original constructor."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from secateur.graph.cutting import Kept, cut_tensor

ATTRIBUTE = "secateur_record"


@dataclass(frozen=True)
class Proof:
    """How a cut was proven: the largest relative difference of each comparison, over all outputs on the example.

    `replayed`: the slim module against the recording run on cut tensors. That recording against the model whose removed
    entries are zero: `masked` where all groups cut are of exact proof; else `statistics`, with norms, softmax and means
    over kept entries only. `dtype` is the arithmetic used.
    """

    masked: float | None
    replayed: float
    statistics: float | None
    tolerance: float
    dtype: str

    @property
    def holds(self) -> bool:
        """Whether every comparison made is within the tolerance; a NaN never is."""
        made = [e for e in (self.masked, self.replayed, self.statistics) if e is not None]
        return all(error <= self.tolerance for error in made)


@dataclass(frozen=True)
class GroupCut:
    """One group of the last cut: its units before and after, and the level of its proof."""

    name: str
    before: int
    after: int
    proof: str


@dataclass(frozen=True)
class Record:
    """The record of a slim module.

    `kept`: tensor name -> dimension -> the original indices that remain, whatever number of cuts it took. `shapes`: the
    original shapes of those tensors. `attributes`: (module, attribute, value) in the order they were set. `scales`:
    module -> the attention scale it keeps from the original. `masks`: for plans of single weights or blocks, tensor
    name -> bool mask of the kept entries. The rest tells what was asked and what came out.
    """

    kept: Kept = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    attributes: tuple[tuple[str, str, Any], ...] = ()
    scales: dict[str, float] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)
    kind: str = "slices"
    groups: tuple[GroupCut, ...] = ()
    budget: str = ""
    criterion: str = ""
    before: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    proof: Proof | None = None
    notes: tuple[str, ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Record:
        return self  # it never changes

    def then(self, later: Record) -> Record:
        """One record of this cut and a later one of the same module, all indices in terms of the original."""
        kept: Kept = {name: dict(lines) for name, lines in self.kept.items()}
        shapes = dict(self.shapes)
        for name, lines in later.kept.items():
            shapes.setdefault(name, later.shapes[name])
            mine = kept.setdefault(name, {})
            for dim, line in lines.items():
                mine[dim] = mine[dim][line] if dim in mine else line
        set_ = {(m, a): v for m, a, v in (*self.attributes, *later.attributes)}
        masks = {name: cut_tensor(mask, later.kept.get(name, {})) for name, mask in self.masks.items()}
        for name, mask in later.masks.items():
            masks[name] = masks[name] & mask if name in masks else mask
        return dataclasses.replace(
            later,
            kept=kept,
            shapes=shapes,
            attributes=tuple((m, a, v) for (m, a), v in set_.items()),
            scales=later.scales | self.scales,
            masks=masks,
            before=self.before or later.before,
        )


def record(module: nn.Module) -> Record | None:
    """The record that a slim module carries; None for a module that was never cut."""
    return getattr(module, ATTRIBUTE, None)


def attach(module: nn.Module, entry: Record) -> None:
    """Let a module carry its record."""
    object.__setattr__(module, ATTRIBUTE, entry)


def apply_masks(module: nn.Module, masks: dict[str, Tensor]) -> None:
    """Set the masked entries of a module's parameters to zero."""
    with torch.no_grad():
        for name, mask in masks.items():
            parameter = module.get_parameter(name)
            parameter.mul_(mask.to(parameter.device))
