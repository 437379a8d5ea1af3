"""Finding the attributes of modules that hold sizes: one follows a size if the cut model's run then gets further."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Any

from secateur.graph.lockstep import Deviation
from secateur.graph.repair import Number, Repair, get_attribute, integers, renamings
from secateur.graph.terms import Dim, is_const, norm, size
from secateur.graph.trace import Call
from secateur.graph.trial import RUNS, WINDOW, Trial, several


class Attributes:
    """The search for the attributes of one model that follow sizes."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial

    def mend(self, deviation: Deviation) -> bool:
        """Let attributes follow sizes around a deviation; whether the copy then gets past it."""
        for path in self._suspects(deviation):
            options = list(self._options(path, deviation))
            for repair in options:
                if self._try([repair], deviation.position):
                    return True
            first = list({r.attribute: r for r in reversed(options)}.values())
            for joint in (*self._joint(options, deviation), first):
                if len(joint) > 1 and self._try(joint, deviation.position):
                    return True
            if self.trial.runs >= RUNS:
                break
        return False

    def _suspects(self, deviation: Deviation) -> Iterator[str]:
        """The modules whose attributes may be to blame: those at work, innermost first, and its children."""
        stack = list(dict.fromkeys(reversed(deviation.stack)))
        yield from stack[:1]
        if stack:
            children = self.trial.modules[stack[0]].children()
            yield from (self.trial.names[child] for child in children)  # shared ones: first name
        yield from stack[1:]

    def _options(self, path: str, deviation: Deviation) -> Iterator[Repair]:
        """Every attribute of a module that equals a size around the deviation that changes."""
        trial, here = self.trial, deviation.position
        around = {*range(here - WINDOW, here + WINDOW), *trial.inside.get(path, [])[:200]}
        near = sorted(around, key=lambda i: abs(i - here))
        calls = [trial.calls[i] for i in near if 0 <= i < len(trial.calls)]
        table = renamings(calls, trial.counts, trial.own_dims(path))
        for attribute, value in integers(trial.modules[path]):
            if trial.kind(path, attribute) in trial.refused:
                continue
            known = trial.repairs.get((path, attribute))
            now = None if known is None else known.value(trial.counts)
            yield from (r for r in repairs_for(path, attribute, value, table, calls) if r.value(trial.counts) != now)

    def _joint(self, options: list[Repair], deviation: Deviation) -> Iterator[list[Repair]]:
        """One attribute for each size that the call at the deviation names: sizes that must add up change together."""
        if deviation.position >= len(self.trial.calls):
            return
        named = {d: None for dims in self.trial.calls[deviation.position].resize.values() for d in several(dims)}
        choices = [[r for r in options if r.kind is int and r.dims == d] for d in map(norm, named)]
        open_ = [found for found in choices if found]
        if len(open_) > 1:
            yield from map(list, islice(product(*open_), 8))

    def _try(self, repairs: Iterable[Repair], position: int) -> bool:
        """Keep repairs if the run gets past the position with them."""
        if self.trial.runs >= RUNS:
            return False
        undo = self.trial.set(repairs)
        if not self.trial.reaches(position):
            self.trial.undo(undo)
            return False
        needed = self._needed(list(repairs), position)
        self.trial.repairs.update({(r.module, r.attribute): r for r in needed})
        self._generalise(needed, position)
        return True

    def _needed(self, repairs: list[Repair], position: int) -> list[Repair]:
        """Those of several repairs that the run needs to get past the position: others equal a size by chance."""
        for repair in repairs if len(repairs) > 1 else ():
            others = [r for r in repairs if r is not repair]
            original = get_attribute(self.trial.modules[repair.module], repair.attribute)
            undo = self.trial.set([Repair(repair.module, repair.attribute, _same(original), repair.kind)])
            if others and self.trial.reaches(position):
                repairs = others
            else:
                self.trial.undo(undo)
        return repairs

    def _generalise(self, repairs: list[Repair], position: int) -> None:
        """Apply what was learned of one module to all others of its class, if they can tell their own sizes."""
        found = []
        for repair in repairs:
            kind = type(self.trial.modules[repair.module])
            for path, module in self.trial.modules.items():
                if type(module) is not kind or path == repair.module or (path, repair.attribute) in self.trial.repairs:
                    continue
                for attribute, value in integers(module):
                    if attribute == repair.attribute:
                        found += list(islice(self._likewise(repair, path, value), 1))
        if found:
            undo = self.trial.set(found)
            if self.trial.reaches(position):
                self.trial.repairs.update({(r.module, r.attribute): r for r in found})
            else:
                self.trial.undo(undo)

    def _likewise(self, repair: Repair, path: str, value: Number) -> Iterator[Repair]:
        """The same repair of another module that makes as many calls, told by the place of its dimensions."""
        own, other = self.trial.inside.get(repair.module, []), self.trial.inside.get(path, [])
        if not own or len(own) != len(other):
            yield from self._likewise_by_size(repair, path, value)
            return
        wanted: list[Any] = [repair.dims] if repair.kind is int else list(repair.dims)
        values = [value] if isinstance(value, int) else list(value)
        found: list[Dim] = []
        for dim, n in zip(wanted, values, strict=False):
            places = (place for place, run in self.trial.places(repair.module, range(len(own))) if run == dim)
            runs = (self.trial.at(path, place) for place in islice(places, WINDOW))
            same = next((run for run in runs if run is not None and size(run) == n), None)
            if same is not None or size(dim) == n:  # what no call speaks of is a number of its own
                found.append(same if same is not None else (n,))
        if len(found) == len(values):
            yield Repair(path, repair.attribute, found[0] if repair.kind is int else tuple(found), repair.kind)

    def _likewise_by_size(self, repair: Repair, path: str, value: Number) -> Iterator[Repair]:
        """The same repair of another module that makes other calls, or none: told by the sizes that change."""
        trial = self.trial
        calls = [trial.calls[i] for i in self._around(path)[:200]]
        own = [trial.calls[i] for i in trial.inside.get(path, [])[:200]]
        table = renamings(own, trial.counts, trial.own_dims(path))
        found = repairs_for(path, repair.attribute, value, table, calls)
        yield from (r for r in found if _fixed(r) == _fixed(repair))

    def _around(self, path: str) -> list[int]:
        """The calls of a module; of the one around it where others call a part of it that is not its forward."""
        while path and path not in self.trial.inside:
            path = path.rpartition(".")[0]
        return self.trial.inside.get(path, [])


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
