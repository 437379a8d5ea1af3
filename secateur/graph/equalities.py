"""Finding the sizes that a module's own code ties together: equal, if the cut model's run then gets further."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice, product
from typing import Any, TypeAlias

from secateur.graph.lockstep import Deviation
from secateur.graph.terms import Dim, atoms, size
from secateur.graph.trial import RUNS, WINDOW, Place, Trial, several

Mend: TypeAlias = "Callable[[Deviation], bool]"

SINGULAR = {"split_sizes": "split_size"}  # what torch calls an argument in another overload


class Equalities:
    """The search for the sizes of one model that must be equal."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial

    def mend_asked(self, deviation: Deviation) -> bool:
        """Sizes that code reads from attributes which follow other sizes must equal those.

        So one attribute can serve several layers, such as the heads of a cascade.
        """
        if deviation.position >= len(self.trial.calls) or self.trial.runs >= RUNS:
            return False
        known = [
            (d, repair.dims)
            for name, dims in self.trial.calls[deviation.position].resize.items()
            for d, n in self._strange(dims, deviation.asked.get(name, deviation.asked.get(SINGULAR.get(name, ""))))
            for repair in self.trial.repairs.values()
            if repair.kind is int and repair.module in deviation.stack
            if size(repair.dims) == size(d) and repair.value(self.trial.counts) == n  # type: ignore[arg-type]
        ]
        if not known:
            return False
        before = len(self.trial.solution.equal)
        self.trial.solution.equal += known  # type: ignore[arg-type]
        self.trial.cut()
        if self.trial.reaches(deviation.position):
            return True
        del self.trial.solution.equal[before:]
        self.trial.cut()
        return False

    def _strange(self, dims: Any, asked: Any) -> list[tuple[Dim, int]]:
        """The dimensions of a recorded argument for which the cut module asks another size, with that size."""
        if not isinstance(dims, list) or not isinstance(asked, list | tuple) or len(dims) != len(asked):
            return []
        return [(d, n) for d, n in zip(dims, asked, strict=True) if n != size(d, self.trial.counts) and n != -1]

    def are_computed(self, deviation: Deviation) -> bool:
        """Whether the code asks for a size that is neither the old one nor the new: it follows some other width."""
        if deviation.position >= len(self.trial.calls):
            return False
        for name, dims in self.trial.calls[deviation.position].resize.items():
            given = deviation.asked.get(name)
            asked = list(given) if isinstance(given, list | tuple) else [given]
            pairs = zip(asked, several(dims), strict=False) if len(asked) == len(several(dims)) else ()
            if any(type(n) is int and n not in (-1, size(d), size(d, self.trial.counts)) for n, d in pairs):
                return True
        return False

    def mend(self, deviation: Deviation, otherwise: Mend | None = None) -> bool:
        """Make sizes equal that were so near the deviation; whether the copy, or `otherwise`, then gets past it."""
        if deviation.position >= len(self.trial.calls):
            return False
        trial, home = self.trial, self._home(deviation)
        for pairs in islice(self._bundles(deviation, home), 40 if otherwise is None else 6):
            if trial.runs >= RUNS:
                break
            known = len(trial.solution.equal)
            for one, other in pairs:
                trial.solution.equal += self._everywhere(home, one, other)
            trial.cut()
            one = pairs[0][0]
            if self._is_whole(home, one):  # that holds for any two sizes, and would tie what only looks alike
                trial.cut(least=True)
            if self._is_whole(home, one):
                del trial.solution.equal[known:]
            elif trial.reaches(deviation.position) if otherwise is None else otherwise(deviation):
                return True
            del trial.solution.equal[known:]
        trial.cut()
        return False

    def _home(self, deviation: Deviation) -> str:
        return self.trial.calls[deviation.position].module

    def _bundles(self, deviation: Deviation, home: str) -> Iterator[list[tuple[Place, Place]]]:
        """Equalities to try: one pair of sizes; then all sizes at the deviation with one and the same elsewhere."""
        together: dict[Place, list[tuple[Place, Place]]] = {}
        for i, (one, other) in enumerate(self._pairs(deviation, home)):
            together.setdefault(other, []).append((one, other))
            if i < 2 * WINDOW:
                yield [(one, other)]
        yield from (pairs for pairs in together.values() if len(pairs) > 1)

    def _pairs(self, deviation: Deviation, home: str) -> Iterator[tuple[Place, Place]]:
        """Sizes at the deviation and sizes elsewhere in its module that were equal and no longer are.

        Those of two groups come first: a sum of several meets another size by chance more often.
        """
        own = self.trial.inside.get(home, [])
        here = own.index(deviation.position) if deviation.position in own else 0
        asked = {n for v in deviation.asked.values() if isinstance(v, list | tuple) for n in v if isinstance(n, int)}
        sites = list(self.trial.places(home, [here]))
        near = sorted(range(len(own)), key=lambda i: abs(i - here))[: 2 * WINDOW]  # and what comes in
        others = list(self.trial.places(home, dict.fromkeys([*near, *range(min(WINDOW, len(own)))])))
        seen = set()
        ranked: list[tuple[bool, bool, int, Place, Place]] = []
        for (p, a), (q, b) in product(sites, others):
            now = size(b, self.trial.counts)
            if size(a) == size(b) > 1 and (a, b) not in seen and now != size(a, self.trial.counts):
                seen |= {(a, b), (b, a)}
                several_groups = len({*atoms(a), *atoms(b)}) > 2
                ranked.append((several_groups, now not in asked, len(ranked), p, q))
        for *_, p, q in sorted(ranked):
            yield p, q

    def _is_whole(self, home: str, place: Place) -> bool:
        """Whether equalities have restored all units of a dimension."""
        dim = self.trial.at(home, place)
        return dim is not None and size(dim, self.trial.counts) == size(dim)

    def _everywhere(self, home: str, one: Place, other: Place) -> list[tuple[Dim, Dim]]:
        """The equality of two sizes, in this module and in all others of its class with as many calls."""
        kind, length = type(self.trial.modules[home]), len(self.trial.inside[home])
        pairs = []
        for path, module in self.trial.modules.items():
            if type(module) is kind and len(self.trial.inside.get(path, [])) == length:
                a, b = self.trial.at(path, one), self.trial.at(path, other)
                if a is not None and b is not None and size(a) == size(b) > 1:
                    pairs.append((a, b))
        return pairs
