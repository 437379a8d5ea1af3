"""Finding, once for a model, what must change beside its tensors when it is cut.

The model is cut to trial widths on tensors without data and run beside its recording. Every deviation is mended by the
first of these that gets the run further: an attribute follows a size, two sizes must be equal, or the groups at the
place are frozen with that reason. So whatever `groups` returns has been shown to run when cut.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, product
from typing import Any, TypeAlias

from torch import nn

from secateur.graph.cutting import rebuild
from secateur.graph.lockstep import Deviation, Drift, compare, stand_ins, visible
from secateur.graph.repair import (
    Number,
    Repair,
    dims_of,
    get_attribute,
    integers,
    renamings,
    set_attribute,
    standard,
    sub_products,
)
from secateur.graph.solution import Solution
from secateur.graph.terms import Atom, Dim, Reason, atoms, is_const, norm, size
from secateur.graph.trace import Call, Inputs, named_tensors

RUNS = 250
WINDOW = 12
POWERS = (-0.5, 0.5, -1.0, 1.0, -0.25, 0.25)  # by which numbers are computed from widths
SHARES = ((0.4, 0.8), (0.3, 0.6), (0.1, 0.4))  # of the units that a round's trial widths keep
OPPOSED = 4  # rounds more in which groups are whole beside others at their least: few heads meet equalities by chance

SINGULAR = {"split_sizes": "split_size"}  # what torch calls an argument in another overload

Place: TypeAlias = (
    "tuple[int, int, int]"  # call within a module, dimension within the call, run of factors within the dimension
)


def probe(model: nn.Module, solution: Solution, inputs: Inputs, minimum: Mapping[str, int]) -> dict[str, Reason]:
    """Learn the repairs and equalities of `model` into `solution`; returns the groups that cannot be cut, and why."""
    stopped = Prober(model, solution, inputs, minimum).run()
    if solution.second is not None:
        other = replace(solution, recording=solution.second)
        stopped = Prober(model, other, inputs, minimum, stopped).run()
        solution.repairs, solution.equal = other.repairs, other.equal
    return stopped


class Prober:
    """One model cut to trial widths, and what running it has taught."""

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

    def run(self) -> dict[str, Reason]:
        """Mend deviation after deviation until the cut model runs to its end, with every group cut at least once."""
        shown: set[str] = set()
        for self.round, _ in enumerate(SHARES):  # a second draw, since the first may meet an equality by chance
            if self.round < 2 or len(shown | set(self.stopped)) < len(self.minimum):
                shown |= self._round()
        if self.repairs or self.solution.equal or (max(self.minimum.values(), default=1) > 1 and self._composes()):
            for self.round in range(len(SHARES), len(SHARES) + OPPOSED):
                self._round()
        self.solution.repairs = list(self.repairs.values())
        return self.stopped

    def _composes(self) -> bool:
        """Whether code states a size that is a product; the groups of a convolution are known without trying."""
        stated = (dims for call in self.calls for name, dims in call.resize.items() if name not in ("groups", "group"))
        return any(len(norm(d)) > 1 for dims in stated for d in _several(dims))

    def _round(self) -> set[str]:
        """One draw of widths, mended until it runs; returns the groups that it cut."""
        while len(self.stopped) < len(self.minimum):
            self._cut()
            deviation, drifts = self._compare()
            if deviation is None:
                if not drifts:
                    break
                self._stop_drifting(drifts)
            elif not (self._mend(deviation) or self._take_back(deviation)):
                self._stop(deviation)
        return {n for n, found in self.solution.atom_of.items() if self.counts[found] < found.size}

    def _mend(self, deviation: Deviation) -> bool:
        """Sizes that are asked for; attributes alone, equal sizes alone, or both: code that checks itself wants all."""
        return (
            self._mend_asked(deviation)
            or (self._is_computed(deviation) and self._mend_sizes(deviation, attributes=False))
            or self._mend_attributes(deviation)
            or self._mend_sizes(deviation, attributes=False)
            or self._mend_sizes(deviation, attributes=True)
        )

    def _is_computed(self, deviation: Deviation) -> bool:
        """Whether the code asks for a size that is neither the old one nor the new: it follows some other width."""
        if deviation.position >= len(self.calls):
            return False
        for name, dims in self.calls[deviation.position].resize.items():
            given = deviation.asked.get(name)
            asked = list(given) if isinstance(given, list | tuple) else [given]
            pairs = zip(asked, _several(dims), strict=False) if len(asked) == len(_several(dims)) else ()
            if any(type(n) is int and n not in (-1, size(d), size(d, self.counts)) for n, d in pairs):
                return True
        return False

    def _take_back(self, deviation: Deviation) -> bool:
        """Undo a repair of the modules at work if the run gets further without: a number may equal a size by chance."""
        for kind in dict.fromkeys(self._kind(*key) for key in self.repairs if key[0] in deviation.stack):
            repairs, equal = dict(self.repairs), list(self.solution.equal)
            self.refused.add(kind)
            self.repairs = {key: r for key, r in repairs.items() if self._kind(*key) != kind}
            reached = self._advance()
            if reached is None or reached.position > deviation.position:
                return True
            self.refused.remove(kind)
            self.repairs, self.solution.equal = repairs, equal
        self._cut()
        return False

    def _advance(self) -> Deviation | None:
        """Mend as long as that helps; the deviation that is left, if any."""
        while True:
            self._cut()
            deviation, _ = self._compare()
            if deviation is None or not self._mend(deviation):
                return deviation

    def _kind(self, path: str, attribute: str) -> tuple[type[nn.Module], str]:
        return type(self.modules[path]), attribute

    # The trial cut

    def _trial(self, least: bool) -> dict[str, int]:
        """Widths that differ from group to group, so that a size that changed tells where it came from.

        With `least`, as few units as can be, so that equalities have room to hold.
        """
        draw = random.Random(self.round)
        trial = {}
        for i, (name, found) in enumerate(self.solution.atom_of.items()):
            share = 0.0 if least else self._share(i, name, draw)
            wanted = max(min(2, found.size - 1), round(found.size * share))  # a width of one broadcasts
            trial[name] = found.size if name in self.stopped else min(found.size, max(self.minimum[name], wanted))
        return self.solution.balance(trial)

    def _share(self, index: int, name: str, draw: random.Random) -> float:
        """The share of its units that a group keeps: drawn, or, in later rounds, nothing or all.

        Then heads and other factors of products stand against all else, and groups against their neighbours.
        """
        opposed = self.round - len(SHARES)
        if opposed < 0:
            return draw.uniform(*SHARES[self.round])
        return 0.0 if (self.minimum[name] > 1 if opposed == 0 else index >> (opposed - 1) & 1) else 1.0

    def _cut(self, least: bool = False) -> None:
        """A copy of the model with tensors of the trial's shapes and no data, repaired as far as is known."""
        self.counts = self.solution.counts(self._trial(least))
        shapes = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        shapes |= {name: tuple(size(d, self.counts) for d in dims) for name, dims in self.solution.dims.items()}
        replaced = stand_ins(self.tensors, shapes, self.solution.recording.medium)
        self.copy = rebuild(self.model, replaced)
        standard(self.copy, self.calls, self.counts)
        for repair in self.repairs.values():
            set_attribute(self.copy.get_submodule(repair.module), repair.attribute, repair.value(self.counts))

    def _compare(self) -> tuple[Deviation | None, list[Drift]]:
        self.runs += 1
        return compare(self.copy, self.calls, self.counts, self.inputs, self.solution.recording)

    def _reaches(self, position: int) -> bool:
        """Whether the copy now gets past a position."""
        deviation, _ = self._compare()
        return deviation is None or deviation.position > position

    # An attribute follows a size

    def _mend_attributes(self, deviation: Deviation) -> bool:
        for path in self._suspects(deviation):
            options = list(self._options(path, deviation))
            for repair in options:
                if self._try([repair], deviation.position):
                    return True
            first = list({r.attribute: r for r in reversed(options)}.values())
            for joint in (*self._joint(options, deviation), first):
                if len(joint) > 1 and self._try(joint, deviation.position):
                    return True
            if self.runs >= RUNS:
                break
        return False

    def _suspects(self, deviation: Deviation) -> Iterator[str]:
        """The modules whose attributes may be to blame: those at work, innermost first, and its children."""
        stack = list(dict.fromkeys(reversed(deviation.stack)))
        yield from stack[:1]
        if stack:
            yield from (self.names[child] for child in self.modules[stack[0]].children())  # shared ones: first name
        yield from stack[1:]

    def _options(self, path: str, deviation: Deviation) -> Iterator[Repair]:
        """Every attribute of a module that equals a size around the deviation that changes."""
        near = sorted(
            {*range(deviation.position - WINDOW, deviation.position + WINDOW), *self.inside.get(path, [])[:200]},
            key=lambda i: abs(i - deviation.position),
        )
        calls = [self.calls[i] for i in near if 0 <= i < len(self.calls)]
        table = renamings(calls, self.counts, self._own_dims(path))
        for attribute, value in integers(self.modules[path]):
            if self._kind(path, attribute) in self.refused:
                continue
            known = self.repairs.get((path, attribute))
            now = None if known is None else known.value(self.counts)
            yield from (r for r in repairs_for(path, attribute, value, table, calls) if r.value(self.counts) != now)

    def _joint(self, options: list[Repair], deviation: Deviation) -> Iterator[list[Repair]]:
        """One attribute for each size that the call at the deviation names: sizes that must add up change together."""
        if deviation.position >= len(self.calls):
            return
        named = {d: None for dims in self.calls[deviation.position].resize.values() for d in _several(dims)}
        choices = [[r for r in options if r.kind is int and r.dims == d] for d in map(norm, named)]
        several = [found for found in choices if found]
        if len(several) > 1:
            yield from map(list, islice(product(*several), 8))

    def _own_dims(self, path: str) -> list[Dim]:
        prefix = f"{path}." if path else ""
        return [d for name, dims in self.solution.dims.items() if name.rpartition(".")[0] + "." == prefix for d in dims]

    def _try(self, repairs: Iterable[Repair], position: int) -> bool:
        """Keep repairs if the run gets past the position with them."""
        if self.runs >= RUNS:
            return False
        undo = self._set(repairs)
        if not self._reaches(position):
            self._undo(undo)
            return False
        needed = self._needed(list(repairs), position)
        self.repairs.update({(r.module, r.attribute): r for r in needed})
        self._generalise(needed, position)
        return True

    def _needed(self, repairs: list[Repair], position: int) -> list[Repair]:
        """Those of several repairs that the run needs to get past the position: others equal a size by chance."""
        for repair in repairs if len(repairs) > 1 else ():
            others = [r for r in repairs if r is not repair]
            original = get_attribute(self.modules[repair.module], repair.attribute)
            undo = self._set([Repair(repair.module, repair.attribute, _same(original), repair.kind)])
            if others and self._reaches(position):
                repairs = others
            else:
                self._undo(undo)
        return repairs

    def _set(self, repairs: Iterable[Repair]) -> list[tuple[Repair, Number]]:
        undo = []
        for repair in repairs:
            module = self.copy.get_submodule(repair.module)
            undo.append((repair, get_attribute(module, repair.attribute)))
            set_attribute(module, repair.attribute, repair.value(self.counts))
        return undo

    def _undo(self, undo: list[tuple[Repair, Number]]) -> None:
        for repair, value in reversed(undo):
            set_attribute(self.copy.get_submodule(repair.module), repair.attribute, value)

    def _generalise(self, repairs: list[Repair], position: int) -> None:
        """Apply what was learned of one module to all others of its class, if they can tell their own sizes."""
        found = []
        for repair in repairs:
            kind = type(self.modules[repair.module])
            for path, module in self.modules.items():
                if type(module) is not kind or path == repair.module or (path, repair.attribute) in self.repairs:
                    continue
                for attribute, value in integers(module):
                    if attribute == repair.attribute:
                        found += list(islice(self._likewise(repair, path, value), 1))
        if found:
            undo = self._set(found)
            if self._reaches(position):
                self.repairs.update({(r.module, r.attribute): r for r in found})
            else:
                self._undo(undo)

    def _likewise(self, repair: Repair, path: str, value: Number) -> Iterator[Repair]:
        """The same repair of another module that makes as many calls, told by the place of its dimensions."""
        own, other = self.inside.get(repair.module, []), self.inside.get(path, [])
        if not own or len(own) != len(other):
            yield from self._likewise_by_size(repair, path, value)
            return
        wanted: list[Any] = [repair.dims] if repair.kind is int else list(repair.dims)
        values = [value] if isinstance(value, int) else list(value)
        found: list[Dim] = []
        for dim, n in zip(wanted, values, strict=False):
            places = (place for place, run in self._places(repair.module, range(len(own))) if run == dim)
            runs = (self._at(path, place) for place in islice(places, WINDOW))
            same = next((run for run in runs if run is not None and size(run) == n), None)
            if same is not None or size(dim) == n:  # what no call speaks of is a number of its own
                found.append(same if same is not None else (n,))
        if len(found) == len(values):
            yield Repair(path, repair.attribute, found[0] if repair.kind is int else tuple(found), repair.kind)

    def _likewise_by_size(self, repair: Repair, path: str, value: Number) -> Iterator[Repair]:
        """The same repair of another module that makes other calls, or none: told by the sizes that change."""
        calls = [self.calls[i] for i in self._around(path)[:200]]
        own = [self.calls[i] for i in self.inside.get(path, [])[:200]]
        found = repairs_for(path, repair.attribute, value, renamings(own, self.counts, self._own_dims(path)), calls)
        yield from (r for r in found if _fixed(r) == _fixed(repair))

    def _around(self, path: str) -> list[int]:
        """The calls of a module; of the one around it where others call a part of it that is not its forward."""
        while path and path not in self.inside:
            path = path.rpartition(".")[0]
        return self.inside.get(path, [])

    # Two sizes must be equal

    def _mend_asked(self, deviation: Deviation) -> bool:
        """Sizes that code reads from attributes which follow other sizes must equal those.

        So one attribute can serve several layers, such as the heads of a cascade.
        """
        if deviation.position >= len(self.calls) or self.runs >= RUNS:
            return False
        known = [
            (d, repair.dims)
            for name, dims in self.calls[deviation.position].resize.items()
            for d, n in self._strange(dims, deviation.asked.get(name, deviation.asked.get(SINGULAR.get(name, ""))))
            for repair in self.repairs.values()
            if repair.kind is int and repair.module in deviation.stack
            if size(repair.dims) == size(d) and repair.value(self.counts) == n  # type: ignore[arg-type]
        ]
        if not known:
            return False
        before = len(self.solution.equal)
        self.solution.equal += known  # type: ignore[arg-type]
        self._cut()
        if self._reaches(deviation.position):
            return True
        del self.solution.equal[before:]
        self._cut()
        return False

    def _strange(self, dims: Any, asked: Any) -> list[tuple[Dim, int]]:
        """The dimensions of a recorded argument for which the cut module asks another size, with that size."""
        if not isinstance(dims, list) or not isinstance(asked, list | tuple) or len(dims) != len(asked):
            return []
        return [(d, n) for d, n in zip(dims, asked, strict=True) if n != size(d, self.counts) and n != -1]

    def _mend_sizes(self, deviation: Deviation, attributes: bool) -> bool:
        if deviation.position >= len(self.calls):
            return False
        home = self._home(deviation)
        for pairs in islice(self._bundles(deviation, home), 6 if attributes else 40):
            if self.runs >= RUNS:
                break
            known = len(self.solution.equal)
            for one, other in pairs:
                self.solution.equal += self._everywhere(home, one, other)
            self._cut()
            one = pairs[0][0]
            if self._is_whole(home, one):  # that holds for any two sizes, and would tie what only looks alike
                self._cut(least=True)
            if self._is_whole(home, one):
                del self.solution.equal[known:]
            elif self._mend_attributes(deviation) if attributes else self._reaches(deviation.position):
                return True
            del self.solution.equal[known:]
        self._cut()
        return False

    def _home(self, deviation: Deviation) -> str:
        return self.calls[deviation.position].module

    def _bundles(self, deviation: Deviation, home: str) -> Iterator[list[tuple[Place, Place]]]:
        """Equalities to try: one pair of sizes; then all sizes at the deviation with one and the same elsewhere."""
        together: dict[Place, list[tuple[Place, Place]]] = {}
        for i, (one, other) in enumerate(self._pairs(deviation, home)):
            together.setdefault(other, []).append((one, other))
            if i < 2 * WINDOW:
                yield [(one, other)]
        yield from (pairs for pairs in together.values() if len(pairs) > 1)

    def _pairs(self, deviation: Deviation, home: str) -> Iterator[tuple[Place, Place]]:
        """Sizes at the deviation and sizes elsewhere in its module that were equal and no longer are."""
        own = self.inside.get(home, [])
        here = own.index(deviation.position) if deviation.position in own else 0
        asked = {n for v in deviation.asked.values() if isinstance(v, list | tuple) for n in v if isinstance(n, int)}
        sites = list(self._places(home, [here]))
        near = sorted(range(len(own)), key=lambda i: abs(i - here))[: 2 * WINDOW]  # and what comes in
        others = list(self._places(home, dict.fromkeys([*near, *range(min(WINDOW, len(own)))])))
        seen = set()
        ranked: list[tuple[bool, int, Place, Place]] = []
        for (p, a), (q, b) in product(sites, others):
            if size(a) == size(b) > 1 and (a, b) not in seen and (now := size(b, self.counts)) != size(a, self.counts):
                seen |= {(a, b), (b, a)}
                ranked.append((now not in asked, len(ranked), p, q))
        for _, _, p, q in sorted(ranked):
            yield p, q

    def _places(self, home: str, calls: Iterable[int]) -> Iterator[tuple[Place, Dim]]:
        own = self.inside.get(home, [])
        for i in calls:
            for j, dim in enumerate(dims_of(self.calls[own[i]])):
                for k, run in enumerate(sub_products(dim)):
                    yield (i, j, k), run

    def _at(self, home: str, place: Place) -> Dim | None:
        own = self.inside.get(home, [])
        i, j, k = place
        dim = next(islice(dims_of(self.calls[own[i]]), j, None), None) if i < len(own) else None
        return None if dim is None else next(islice(sub_products(dim), k, None), None)

    def _is_whole(self, home: str, place: Place) -> bool:
        """Whether equalities have restored all units of a dimension."""
        dim = self._at(home, place)
        return dim is not None and size(dim, self.counts) == size(dim)

    def _everywhere(self, home: str, one: Place, other: Place) -> list[tuple[Dim, Dim]]:
        """The equality of two sizes, in this module and in all others of its class with as many calls."""
        kind, length = type(self.modules[home]), len(self.inside[home])
        pairs = []
        for path, module in self.modules.items():
            if type(module) is kind and len(self.inside.get(path, [])) == length:
                a, b = self._at(path, one), self._at(path, other)
                if a is not None and b is not None and size(a) == size(b) > 1:
                    pairs.append((a, b))
        return pairs

    # What cannot be mended is frozen

    def _stop(self, deviation: Deviation) -> None:
        """Freeze the groups at the deviation: those of composed dimensions, else of sizes it names, of the call, ..."""
        position = min(deviation.position, len(self.calls) - 1)
        call = self.calls[position]
        composed = [d for d in dims_of(call) if len(norm(d)) > 1]
        named = [d for dims in call.resize.values() for d in _several(dims)]
        around = ([d for i in self.inside[path] for d in dims_of(self.calls[i])] for path in call.stack[::-1])
        for dims in (composed, named, list(dims_of(call)), *around):
            names = self._open(dims)
            if names:
                break
        else:
            names = [n for n in self.minimum if n not in self.stopped]
        text = f"the module's own code does not follow the new width ({deviation.text.splitlines()[0][:120]})"
        reason = Reason(text, str(call.func), call.module)
        self.stopped.update(dict.fromkeys(names, reason))

    def _open(self, dims: Iterable[Dim]) -> list[str]:
        """The groups still open that some dimensions speak of."""
        spoken = {a for d in dims for a in atoms(d)}
        return [n for n, found in self.solution.atom_of.items() if found in spoken and n not in self.stopped]

    def _stop_drifting(self, drifts: list[Drift]) -> None:
        """Freeze the groups whose width goes into a number (an attention scale): cutting would change the function."""
        for drift in drifts:
            suspects = [a for v in drift.call.tensors() for d in v.dims or () for a in atoms(d)]
            exact = list(self._source(drift)) or [a for a in suspects if self._explains(a, drift)]
            found_in = set(exact or suspects or self._explaining(drift))
            names = [n for n, found in self.solution.atom_of.items() if found in found_in]
            text = f"a number is computed from this width ({drift.before:.4g} becomes {drift.after:.4g})"
            reason = Reason(text, str(drift.call.func), drift.call.module)
            fresh = [n for n in names if n not in self.stopped]
            already = [n for n in names if n in self.stopped]
            if not fresh and not already:
                fresh = self._open(d for i in self.inside[drift.call.module] for d in dims_of(self.calls[i]))
            self.stopped.update(dict.fromkeys(fresh, reason))

    def _source(self, drift: Drift) -> Iterator[Atom]:
        """The atoms of the sizes in the module of which the number is a root or a power, before and after."""
        for i in self.inside.get(drift.call.module, []):
            for run in (run for d in dims_of(self.calls[i]) for run in sub_products(d)):
                old, new = size(run), size(run, self.counts)
                if old != new and any(
                    abs(old**p - drift.before) + abs(new**p - drift.after) < 1e-6 * abs(drift.before) for p in POWERS
                ):
                    yield from atoms(run)

    def _explaining(self, drift: Drift) -> Iterator[Atom]:
        """The atoms of dimensions in a module whose change explains that of a constant which the module makes."""
        for i in self.inside.get(drift.call.module, []):
            for d in dims_of(self.calls[i]):
                old, new = size(d), size(d, self.counts)
                if old != new and is_power(drift, new / old):
                    yield from atoms(d)

    def _explains(self, found: Atom, drift: Drift) -> bool:
        share = self.counts.get(found, found.size) / found.size
        return share != 1 and is_power(drift, share)


def is_power(drift: Drift, share: float) -> bool:
    """Whether a number changed by a power of a width's change that attention scales and the like take."""
    change = drift.after / drift.before if drift.before else 0.0
    return any(abs(change - share**p) < 1e-6 for p in POWERS)


def _several(dims: Dim | list[Dim]) -> list[Dim]:
    return dims if isinstance(dims, list) else [dims]


def repairs_for(
    path: str, attribute: str, value: Number, table: Mapping[int, Mapping[int, Dim]], calls: Iterable[Call] = ()
) -> Iterator[Repair]:
    """The repairs by which an attribute could follow sizes that change; several at once as some call speaks of them."""
    if isinstance(value, int):
        for dim in table.get(value, {}).values():
            yield Repair(path, attribute, dim, int)
        return
    for dims in spoken(calls, value):
        yield Repair(path, attribute, dims, type(value))
    choices = [[(v,), *table.get(v, {}).values()][::-1] for v in value]
    for dims in islice(product(*choices), 16):
        if any(d != (v,) for d, v in zip(dims, value, strict=True)):
            yield Repair(path, attribute, dims, type(value))


def _same(value: Number) -> Dim | tuple[Dim, ...]:
    """Dimensions that stay as they are, of such sizes."""
    return (value,) if isinstance(value, int) else tuple((n,) for n in value)


def _fixed(repair: Repair) -> list[bool]:
    """Which of several sizes never change; of one, which factors: with the batch as one, all sizes can be met."""
    parts = [(factor,) for factor in norm(repair.dims)] if repair.kind is int else repair.dims  # type: ignore[arg-type]
    return [is_const(norm(d)) for d in parts]  # type: ignore[arg-type]


def spoken(calls: Iterable[Call], sizes: Sequence[int]) -> Iterator[tuple[Dim, ...]]:
    """The neighbouring dimensions that calls mention together with just these sizes, nearest call first."""
    seen = set()
    for call in calls:
        lists = [dims for dims in call.resize.values() if isinstance(dims, list)]
        for dims in (*lists, *(value.dims or () for value in (*call.outs, *call.tensors()))):
            for start in range(len(dims) - len(sizes) + 1):
                run = tuple(map(norm, dims[start : start + len(sizes)]))
                if run not in seen and all(size(d) == n for d, n in zip(run, sizes, strict=True)):
                    seen.add(run)
                    if not all(map(is_const, run)):
                        yield run
