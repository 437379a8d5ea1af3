"""Which numbers of a model's configuration say how wide it is, so that a cut model's configuration tells the truth.

Models that are built from one configuration (`type(model)(model.config)`) are built anew, without data, with one number
of it doubled after the other. A tensor dimension or an attribute that doubles too follows that number. What several
layers share in one number can be told only as long as their widths agree; where they do not, the number stays as it
was and the record of the slim module has the widths of each.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from secateur.graph.repair import dims_of, get_attribute, integers, set_attribute, sub_products
from secateur.graph.solution import Solution
from secateur.graph.terms import Atom, Dim, norm, size
from secateur.graph.trace import named_tensors

NUMBERS = 64  # of a configuration that are tried


@dataclass(frozen=True)
class Stated:
    """A number of the configuration: `attribute` (dotted, from the model), `place` in it where it is a list.

    `roles` are the dimensions that follow it, those of the same tensor in different layers together.
    """

    attribute: str
    place: int | None
    roles: tuple[tuple[Dim, ...], ...]

    def value(self, counts: Mapping[Atom, int]) -> int | None:
        """What the number must be when each atom has `counts[atom]` units left; None where one cannot express it."""
        votes: Counter[int] = Counter()
        for dims in self.roles:
            found = {size(d, counts) for d in dims}
            if len(found) == 1:
                votes[found.pop()] += 1
        best = votes.most_common(1)
        return best[0][0] if best and 2 * best[0][1] > len(self.roles) else None


def stated(model: nn.Module, solution: Solution) -> list[Stated]:
    """The numbers of `model.config` that say widths; none where the model is not built from a configuration alone."""
    config = getattr(model, "config", None)
    if config is None or not type(config).__name__.endswith("Config"):
        return []
    plain = _facts(model, config)
    if plain is None or plain != _own_facts(model):
        return []
    sizes = {size(run) for dims in solution.dims.values() for d in dims for run in sub_products(d)}
    sizes |= {size(d) for r in solution.repairs for d in (r.dims if r.kind is not int else (r.dims,))}  # type: ignore[arg-type]
    numbers = [(a, p, v) for a, p, v in _numbers(config) if v in sizes][:NUMBERS]
    found = (_learn(model, solution, plain, *number) for number in numbers)
    return [entry for entry in found if entry is not None]


def restate(module: nn.Module, learned: list[Stated], counts: Mapping[Atom, int]) -> list[tuple[str, str, Any]]:
    """Bring the configuration of a cut module up to date; returns what was set as (module, attribute, value)."""
    done = {}
    for entry in learned:
        value = entry.value(counts)
        if value is None:
            continue
        before = get_attribute(module, entry.attribute)
        after = value if entry.place is None else _placed(before, entry.place, value)
        if after != before:
            set_attribute(module, entry.attribute, after)
            done[entry.attribute] = after
    return [("", attribute, value) for attribute, value in done.items()]


def _placed(values: Any, place: int, value: int) -> Any:
    return type(values)(value if i == place else v for i, v in enumerate(values))


def _numbers(config: Any, prefix: str = "config") -> Iterator[tuple[str, int | None, int]]:
    """Every number above one of a configuration and of those within it: attribute, place in it, value."""
    for name, value in vars(config).items():
        if name.startswith("_"):
            continue
        if type(value) is int and value > 1:
            yield f"{prefix}.{name}", None, value
        elif type(value) in (list, tuple) and value and all(type(v) is int for v in value):
            yield from ((f"{prefix}.{name}", i, v) for i, v in enumerate(value) if v > 1)
        elif type(value).__name__.endswith("Config") and hasattr(value, "__dict__"):
            yield from _numbers(value, f"{prefix}.{name}")


Facts = dict[tuple[str, int | str], int]  # (tensor, dimension) or (module, attribute) -> number


def _facts(model: nn.Module, config: Any) -> Facts | None:
    """The shapes and numbers of a model of the same class with another configuration; None where there is none."""
    with contextlib.suppress(Exception), torch.device("meta"), torch.random.fork_rng(devices=[]):
        return None if config is None else _own_facts(type(model)(config))
    return None


def _own_facts(model: nn.Module) -> Facts:
    facts: Facts = {}
    for name, (kind, tensor) in named_tensors(model).items():
        if kind == "parameter":
            facts |= {(name, axis): n for axis, n in enumerate(tensor.shape)}
    for path, module in model.named_modules():
        facts |= {(path, name): value for name, value in integers(module) if type(value) is int and "." not in name}
    return facts


def _learn(
    model: nn.Module, solution: Solution, plain: Facts, attribute: str, place: int | None, value: int
) -> Stated | None:
    """What follows one number; where the model takes another form with it, all numbers that equal it are doubled."""
    equal = [(a, p) for a, p, v in _numbers(model.config) if v == value]
    for doubled in ([(attribute, place)], equal):
        changed = _facts(model, _doubled(model.config, doubled))
        if changed is not None and changed.keys() == plain.keys():
            follow = {k for k, n in changed.items() if n == 2 * plain[k]}
            shared = {k: plain[k] for k, n in changed.items() if 2 * n == plain[k]}
            return _stated(solution, attribute, place, value, follow, shared)
    return None


def _doubled(config: Any, numbers: list[tuple[str, int | None]]) -> Any:
    """A configuration with some numbers doubled; None where it does not allow that."""
    with contextlib.suppress(Exception):
        result = copy.deepcopy(config)
        for attribute, place in numbers:
            owner = result
            *path, name = attribute.split(".")[1:]
            for part in path:
                owner = getattr(owner, part)
            now = getattr(owner, name)
            setattr(owner, name, 2 * now if place is None else _placed(now, place, 2 * now[place]))
        return result
    return None


def _heads(solution: Solution, module: str, value: int, shared: Mapping[tuple[str, int | str], int]) -> set[Dim]:
    """The factors of `value` units, in a module's own calls, whose inner neighbour is shared among them.

    A number of heads that no code reads is told by the size of a head: it is halved where the number is doubled.
    """
    sizes = {n for (path, _), n in shared.items() if path == module}
    found: set[Dim] = set()
    for call in solution.recording.calls if sizes else ():
        for dim in map(norm, dims_of(call)) if call.module == module else ():
            for outer, inner in pairwise(dim):
                if isinstance(outer, Atom) and outer.size == value and size((inner,)) in sizes:
                    found.add((outer,))
    return found


def _stated(
    solution: Solution,
    attribute: str,
    place: int | None,
    value: int,
    doubled: set[tuple[str, int | str]],
    shared: Mapping[tuple[str, int | str], int],
) -> Stated | None:
    roles: dict[str, dict[Dim, None]] = {}
    repaired = {(r.module, r.attribute): r.dims for r in solution.repairs if r.kind is int}
    for where, what in sorted(doubled, key=str):
        runs: dict[Any, None]
        if isinstance(what, int) and where not in solution.dims:
            continue
        if isinstance(what, int):
            runs = dict.fromkeys(norm(r) for r in sub_products(solution.dims[where][what]) if size(r) == value)
        elif (where, what) in repaired:
            runs = {repaired[where, what]: None}
        else:
            runs = dict.fromkeys(_heads(solution, where, value, shared))
        if len(runs) == 1:
            roles.setdefault(f"{re.sub('[0-9]+', '', where)}[{what}]", {}).update(runs)
    return Stated(attribute, place, tuple(map(tuple, roles.values()))) if roles else None
