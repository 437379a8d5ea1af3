"""What was found out about one model: the recording, the solved terms, and what each group stands for in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.graph.repair import Repair
from secateur.graph.rules import Terms
from secateur.graph.terms import Atom, Dim, atoms, mask, norm, size
from secateur.graph.trace import Call, Recording

if TYPE_CHECKING:
    from secateur.graph.configuration import Stated


@dataclass(eq=False)
class Solution:
    """The recording of one model and the terms that explain it.

    `dims` gives the terms of every tensor that the model owns; `equal` pairs of dimensions that must keep equal sizes;
    `repairs` the attributes that follow sizes; `stated` the numbers of the model's configuration, once they are asked
    for. `second` is the recording of a run in training mode, over the same units, of a model that does more then.
    """

    recording: Recording
    terms: Terms
    dims: dict[str, list[Dim]]
    atom_of: dict[str, Atom] = field(default_factory=dict)
    equal: list[tuple[Dim, Dim]] = field(default_factory=list)
    repairs: list[Repair] = field(default_factory=list)
    stated: list[Stated] | None = None
    second: Recording | None = None

    @property
    def recordings(self) -> list[Recording]:
        """All recorded runs."""
        return [self.recording] if self.second is None else [self.recording, self.second]

    @property
    def calls(self) -> list[Call]:
        """The calls of all of them."""
        return [call for recording in self.recordings for call in recording.calls]

    def counts(self, by_name: Mapping[str, int]) -> dict[Atom, int]:
        """Units left for each atom, from units left for each group."""
        return {self.atom_of[name]: count for name, count in by_name.items() if name in self.atom_of}

    def keep(self, by_name: Mapping[str, Tensor]) -> dict[Atom, NDArray[np.bool_]]:
        """A mask of kept units for each atom, from kept unit indices for each group."""
        result = {}
        for name, kept in by_name.items():
            found = self.atom_of[name]
            result[found] = np.zeros(found.size, dtype=bool)
            result[found][kept.cpu().numpy()] = True
        return result

    def balance(self, by_name: Mapping[str, int]) -> dict[str, int]:
        """The counts with units restored until equal dimensions have equal sizes and multiples are met."""
        counts = {self.atom_of[name]: count for name, count in by_name.items()}
        pairs = [(norm(a), norm(b)) for a, b in self.equal]
        multiples = [(norm(d), step) for d, step in self.terms.multiples]
        for _ in range(1000):
            if not self._restore(pairs, counts) | self._complete(multiples, counts):
                break
        return {name: counts.get(found, found.size) for name, found in self.atom_of.items()}

    def _restore(self, pairs: Iterable[tuple[Dim, Dim]], counts: dict[Atom, int]) -> bool:
        changed = False
        for a, b in pairs:
            low, high = sorted((a, b), key=lambda d: size(d, counts))
            need = size(high, counts)
            while size(low, counts) < need and self._grow(low, counts, need):
                changed = True
            if size(low, counts) > need:  # overshot: the other side grows in the next round
                changed = True
        return changed

    def _complete(self, multiples: Iterable[tuple[Dim, int]], counts: dict[Atom, int]) -> bool:
        changed = False
        for dim, step in multiples:
            while (now := size(dim, counts)) % step and self._grow(dim, counts, now + -now % step):
                changed = True
        return changed

    def _grow(self, dim: Dim, counts: dict[Atom, int], need: int) -> bool:
        """Give one unit back to the atom that brings the dimension closest to `need` without passing it, if one can.

        Of equally good ones the atom that has lost most, so that parts of equal size grow evenly.
        """
        best: tuple[int, float, Atom] | None = None
        for free in dict.fromkeys(atoms(dim)):
            left = counts.get(free, free.size)
            if left < free.size:
                reached = size(dim, {**counts, free: left + 1})
                distance = need - reached if reached <= need else 10**9 + reached
                if best is None or (distance, left / free.size) < best[:2]:
                    best = (distance, left / free.size, free)
        if best is None:
            return False
        counts[best[2]] = counts[best[2]] + 1
        return True

    def kept(self, by_name: Mapping[str, Tensor]) -> dict[str, dict[int, Tensor]]:
        """For every tensor that changes, the indices that remain of each dimension that changes."""
        by_atom = self.keep(by_name)
        result: dict[str, dict[int, Tensor]] = {}
        lines: dict[Dim, Tensor | None] = {}  # a layer's tensors share their dimensions: each is spelled out once
        for name, dims in self.dims.items():
            for axis, dim in enumerate(dims):
                d = norm(dim)
                if d not in lines:
                    line = mask(d, by_atom) if any(a in by_atom for a in atoms(d)) else None
                    lines[d] = None if line is None or line.all() else torch.from_numpy(np.flatnonzero(line))
                remaining = lines[d]
                if remaining is not None:
                    result.setdefault(name, {})[axis] = remaining
        return result
