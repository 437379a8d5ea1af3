"""What keeps a network whole while its gates close: no output may lose its last path, no group its last unit.

Where the network is a chain (`secateur.methods.paths`) and its gates are on single weights or blocks, every output
keeps a path from an input: when one is lost, the gates of the path that is likeliest to be open are lifted. Elsewhere
every row of the last group keeps its most open gate, and every other group its most open unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import BudgetError, InputError
from secateur.graph.units import Blocks, Groups
from secateur.methods.gates import Gates, gated
from secateur.methods.paths import Paths, find_paths

ALIVE = 2.0
"""The d to which a gate that must not close is lifted: it is open with a probability of 0.88."""


class Guard:
    """Holds gates of `groups` open. `outputs` names groups of which every row is an output and keeps a gate open.

    Left out, paths are looked for, and the last group is that of the outputs where there are none.
    """

    def __init__(self, groups: Groups, gates: Gates, outputs: Iterable[str] | None) -> None:
        names = [group.name for group in groups]
        self.gates = gates
        self.members = {g.name: m for g in groups for m in g.members if isinstance(m, Blocks)}
        self.rows = dict.fromkeys(gates.logits, 1)
        for name in names[-1:] if outputs is None else outputs:
            if name not in names:
                raise InputError(
                    f"The 'outputs' of Gumbel must name groups. There is no group {name!r}; the last are {names[-3:]}."
                )
            if name in self.members:
                self.rows[name] = self.members[name].grid[0]
        self.paths: Paths | None = None
        self.whole: dict[str, Tensor] = {}
        self.pending = outputs is None and bool(self.members)

    def look_for_paths(self, model: nn.Module, inputs: Any, edges: float) -> None:
        """See, once, whether the model that has the gates is a chain, and whether so many `edges` can be its paths."""
        if not self.pending:
            return
        self.pending, mode, self.gates.mode = False, self.gates.mode, "whole"
        try:
            found = find_paths(model, inputs)
        finally:
            self.gates.mode = mode
        if found is not None:
            plain = {gated(name): name for name in self.gates.names}
            layers = {plain.get(name, name): units for name, units in found.layers.items()}
            self.paths = Paths(layers, found.outputs)
            ungated = [name for name in self.paths.layers if name not in self.gates.logits]
            self._require_room(edges)
            self.whole = {name: torch.zeros_like(model.get_parameter(name).detach()) for name in ungated}

    def hold(self) -> None:
        """Lift the gates that keep an output, or a group, from being lost."""
        if self.paths is None:
            needed = self._most_open()
        else:
            lost = self.lost(dict(self.gates.differences()))
            needed = self._best_paths(lost) if lost else {}
        for name, units in needed.items():
            difference = self.gates.difference(name).detach()
            if bool((difference[units] < ALIVE).any()):
                lifted = difference.clone()
                lifted[units] = lifted[units].clamp_min(ALIVE)
                self.gates.set(name, lifted)

    def needed(self) -> dict[str, Tensor]:
        """The gates that no budget may take: group -> indices of its units."""
        if self.paths is None:
            return self._most_open()
        return self._best_paths(range(self.paths.outputs))

    def lost(self, opened: Mapping[str, Tensor]) -> list[int]:
        """The outputs, by position, that no input reaches; none where there are no paths to ask.

        Units are open that are above 0, or true.
        """
        if self.paths is None:
            return []
        whole = {name: chance.exp() for name, chance in self.whole.items()}
        return self.paths.lost(whole | {name: self._entries(name, units) for name, units in opened.items()})

    def _require_room(self, edges: float) -> None:
        """Raise `BudgetError` if the outputs cannot have a path each, none of them shared."""
        assert self.paths is not None
        path = sum(int(self.members[name].entries.max()) for name in self.paths.layers if name in self.members)
        if edges < path * self.paths.outputs:
            raise BudgetError(
                f"The budget leaves {edges:.0f} weights between units, and paths to {self.paths.outputs} outputs take "
                f"{path} each: some would be lost, and constant. Ask for more, or name 'outputs' to do without paths."
            )

    def _best_paths(self, outputs: Iterable[int]) -> dict[str, Tensor]:
        assert self.paths is not None
        chances = {n: self._entries(n, nn.functional.logsigmoid(d)) for n, d in self.gates.differences()}
        entries = self.paths.best({**self.whole, **chances}, outputs)
        return {name: self._units(name)[found].unique() for name, found in entries.items() if name in self.members}

    def _most_open(self) -> dict[str, Tensor]:
        """The most open gate of every row of the outputs, and of every other group."""
        found = {}
        for name, difference in self.gates.differences():
            rows = self.rows[name]
            across = len(difference) // rows
            first = across * torch.arange(rows, device=difference.device)
            found[name] = difference.view(rows, across).argmax(1) + first
        return found

    def _entries(self, name: str, units: Tensor) -> Tensor:
        return self.members[name].expand(units)

    def _units(self, name: str) -> Tensor:
        """The unit of every entry of a parameter, flat."""
        logits = self.gates.logits[name]
        return self._entries(name, torch.arange(len(logits), device=logits.device)).flatten()
