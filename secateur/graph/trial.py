"""One model cut to trial widths, on tensors without data, and what running it has taught."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import TypeAlias

from torch import nn

from secateur.graph.cutting import rebuild
from secateur.graph.lockstep import Deviation, Drift, compare, stand_ins, visible
from secateur.graph.repair import Number, Repair, dims_of, get_attribute, set_attribute, standard, sub_products
from secateur.graph.solution import Solution
from secateur.graph.terms import Dim, Reason, atoms, size
from secateur.graph.trace import Inputs, named_tensors

RUNS = 250
WINDOW = 12  # calls before and after a deviation that may tell why
SHARES = ((0.4, 0.8), (0.3, 0.6), (0.1, 0.4))  # of the units that a round's trial widths keep
OPPOSED = 4  # rounds more in which groups are whole beside others at their least: few heads meet equalities by chance

Place: TypeAlias = (
    "tuple[int, int, int]"  # call within a module, dimension within the call, run of factors within the dimension
)


class Trial:
    """The model's cut copy, the recording it is run beside, and the repairs and refusals that are known by now.

    `calls` are those that both must make, `inside` those of every module by path, `counts` the units left of each atom,
    `stopped` the groups that stay whole and why.
    """

    def __init__(
        self,
        model: nn.Module,
        solution: Solution,
        inputs: Inputs,
        minimum: Mapping[str, int],
        stopped: Mapping[str, Reason] | None = None,
    ) -> None:
        self.model, self.solution, self.inputs, self.minimum = model, solution, inputs, dict(minimum)
        self.calls = visible(solution.recording)
        self.modules = dict(model.named_modules())
        self.names = {module: path for path, module in self.modules.items()}
        self.tensors = {name: tensor for name, (_, tensor) in named_tensors(model).items()}
        self.repairs: dict[tuple[str, str], Repair] = {(r.module, r.attribute): r for r in solution.repairs}
        self.refused: set[tuple[type[nn.Module], str]] = set()
        self.stopped: dict[str, Reason] = dict(stopped or {})
        self.runs = 0
        self.round = 0
        self.inside: dict[str, list[int]] = {}
        for i, call in enumerate(self.calls):
            for path in call.stack:
                self.inside.setdefault(path, []).append(i)

    def widths(self, least: bool) -> dict[str, int]:
        """Widths that differ from group to group, so that a size that changed tells where it came from.

        With `least`, as few units as can be, so that equalities have room to hold.
        """
        draw = random.Random(self.round)
        trial = {}
        taken: dict[int, set[int]] = {}
        for i, (name, found) in enumerate(self.solution.atom_of.items()):
            share = 0.0 if least else self._share(i, name, draw)
            least_width = max(self.minimum[name], min(2, found.size - 1))  # a width of one broadcasts
            wanted = min(found.size, max(least_width, round(found.size * share)))
            if self.round < len(SHARES) and not least:
                wanted = _fresh(wanted, range(least_width, found.size), taken.setdefault(found.size, set()))
            trial[name] = found.size if name in self.stopped else wanted
        return self.solution.balance(trial)

    def _share(self, index: int, name: str, draw: random.Random) -> float:
        """The share of its units that a group keeps: drawn, or, in later rounds, nothing or all.

        Then heads and other factors of products stand against all else, and groups against their neighbours.
        """
        opposed = self.round - len(SHARES)
        if opposed < 0:
            return draw.uniform(*SHARES[self.round])
        return 0.0 if (self.minimum[name] > 1 if opposed == 0 else index >> (opposed - 1) & 1) else 1.0

    def cut(self, least: bool = False) -> None:
        """A copy of the model with tensors of the trial's shapes and no data, repaired as far as is known."""
        self.counts = self.solution.counts(self.widths(least))
        shapes = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        shapes |= {name: tuple(size(d, self.counts) for d in dims) for name, dims in self.solution.dims.items()}
        replaced = stand_ins(self.tensors, shapes, self.solution.recording.medium)
        self.copy = rebuild(self.model, replaced)
        standard(self.copy, self.calls, self.counts)
        for repair in self.repairs.values():
            set_attribute(self.copy.get_submodule(repair.module), repair.attribute, repair.value(self.counts))

    def compare(self) -> tuple[Deviation | None, list[Drift]]:
        """Where the copy leaves the recording, and the numbers that changed on the way."""
        self.runs += 1
        return compare(self.copy, self.calls, self.counts, self.inputs, self.solution.recording)

    def reaches(self, position: int) -> bool:
        """Whether the copy now gets past a position."""
        deviation, _ = self.compare()
        return deviation is None or deviation.position > position

    def set(self, repairs: Iterable[Repair]) -> list[tuple[Repair, Number]]:
        """Carry repairs out on the copy; returns what was there before, for `undo`."""
        undo = []
        for repair in repairs:
            module = self.copy.get_submodule(repair.module)
            undo.append((repair, get_attribute(module, repair.attribute)))
            set_attribute(module, repair.attribute, repair.value(self.counts))
        return undo

    def undo(self, before: list[tuple[Repair, Number]]) -> None:
        """Put attributes of the copy back."""
        for repair, value in reversed(before):
            set_attribute(self.copy.get_submodule(repair.module), repair.attribute, value)

    def kind(self, path: str, attribute: str) -> tuple[type[nn.Module], str]:
        """An attribute by the class of its module."""
        return type(self.modules[path]), attribute

    def own_dims(self, path: str) -> list[Dim]:
        """The dimensions of the tensors that a module itself holds."""
        prefix = f"{path}." if path else ""
        return [d for name, dims in self.solution.dims.items() if name.rpartition(".")[0] + "." == prefix for d in dims]

    def open(self, dims: Iterable[Dim]) -> list[str]:
        """The groups still open that some dimensions speak of."""
        spoken = {a for d in dims for a in atoms(d)}
        return [n for n, found in self.solution.atom_of.items() if found in spoken and n not in self.stopped]

    def places(self, home: str, calls: Iterable[int]) -> Iterator[tuple[Place, Dim]]:
        """Every size that some calls of a module speak of, with its place."""
        own = self.inside.get(home, [])
        for i in calls:
            for j, dim in enumerate(dims_of(self.calls[own[i]])):
                for k, run in enumerate(sub_products(dim)):
                    yield (i, j, k), run

    def at(self, home: str, place: Place) -> Dim | None:
        """The size at a place in a module, if it has one there."""
        own = self.inside.get(home, [])
        i, j, k = place
        dim = next(islice(dims_of(self.calls[own[i]]), j, None), None) if i < len(own) else None
        return None if dim is None else next(islice(sub_products(dim), k, None), None)


def _fresh(wanted: int, widths: range, taken: set[int]) -> int:
    """The width nearest to the one that is wanted which no other group has; that one itself where all are taken."""
    nearest = chain.from_iterable((wanted - away, wanted + away) for away in range(len(widths) + 1))
    chosen = next((width for width in nearest if width in widths and width not in taken), wanted)
    taken.add(chosen)
    return chosen


def several(dims: Dim | list[Dim]) -> list[Dim]:
    """The dimensions of an argument that holds one size or more."""
    return dims if isinstance(dims, list) else [dims]
