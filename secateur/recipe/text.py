"""The text of a recipe: plain values that remember where each of them was written, so that an error can say so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from secateur.errors import InputError

Keys = tuple[str | int, ...]


@dataclass(frozen=True)
class Written:
    """The values of a recipe and what is known of their origin.

    `where` names the whole ("recipe experiments/x.yaml"), `places` the origin of the value at each path of keys: a line
    of a file, or the option that set it.
    """

    values: Any
    where: str = "recipe"
    places: Mapping[Keys, str] = field(default_factory=dict)

    def at(self, keys: Keys) -> str:
        """The whole with the place of the value at `keys`, or of what is nearest above it."""
        for end in range(len(keys), 0, -1):
            if keys[:end] in self.places:
                return f"{self.where} ({self.places[keys[:end]]})"
        return self.where

    def changed(self, key: str, value: Any, said: str) -> Written:
        """The same with the value at a dotted key set by `said`, such as "--set seed=1"."""
        if not isinstance(self.values, Mapping):
            raise InputError(f"The {self.where} must be a mapping. Got {self.values!r} instead.")
        path: Keys = tuple(key.split("."))
        places = {keys: place for keys, place in self.places.items() if keys[: len(path)] != path}
        return Written(changed(self.values, key, value), self.where, {**places, path: said})

    def set(self, change: str) -> Written:
        """The same with a value set as on the command line: "training.epochs=5", the value in YAML."""
        key, sign, value = change.partition("=")
        if not sign or not key.strip():
            raise InputError(f"The '--set' option must read KEY=VALUE, such as seed=1. Got {change!r} instead.")
        parsed = parse(value, f"value of '--set {change}'")
        return self.changed(key.strip(), parsed.values, f"--set {change}")


def changed(values: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of nested values with the one at a dotted key set, its parents made where they are missing.

    >>> changed({"pruning": {"round_to": 8}}, "pruning.budget", "2x macs")
    {'pruning': {'round_to': 8, 'budget': '2x macs'}}
    """
    head, _, rest = key.partition(".")
    inner = values.get(head)
    return {**values, head: changed(inner if isinstance(inner, Mapping) else {}, rest, value) if rest else value}


def read(path: str | Path) -> Written:
    """What a YAML file holds. Raises `InputError` if it is missing or no YAML."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The recipe {path} cannot be read: {error}.") from error
    return parse(text, f"recipe {path}")


def parse(text: str, where: str = "recipe") -> Written:
    """What a YAML text holds; nothing in it is ever executed. Raises `InputError` with the line of what is wrong.

    A key that stands twice in one mapping is refused, where YAML itself would take the last.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Written(None, where)
        _refuse_twins(node, where)
        values = loader.construct_document(node)
        return Written(values, where, _places(node))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark is not None else ""
        raise InputError(f"The {where} is not YAML{place}: {getattr(error, 'problem', error)}.") from error
    finally:
        loader.dispose()


Pair = tuple[str | int, yaml.Node, yaml.Node]


def _walk(node: yaml.Node, keys: Keys = (), above: tuple[yaml.Node, ...] = ()) -> Iterator[tuple[Keys, list[Pair]]]:
    """Every mapping and sequence: the path to it, and (key, node that has its line, value) of its entries.

    `above` are the nodes around this one: YAML may refer back to them, and there the walk ends.
    """
    if any(node is other for other in above):
        return
    pairs: list[Pair] = []
    if isinstance(node, yaml.MappingNode):
        pairs = [(key.value, key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)]
    elif isinstance(node, yaml.SequenceNode):
        pairs = [(index, item, item) for index, item in enumerate(node.value)]
    yield keys, pairs
    for key, _, value in pairs:
        yield from _walk(value, (*keys, key), (*above, node))


def _refuse_twins(root: yaml.Node, where: str) -> None:
    for keys, pairs in _walk(root):
        first: dict[str | int, int] = {}
        for key, marked, _ in pairs:
            line = _line(marked)
            if first.setdefault(key, line) != line:
                path = ".".join(map(str, (*keys, key)))
                raise InputError(
                    f"The {where} has the key '{path}' twice, at lines {first[key]} and {line}. Remove one."
                )


def _places(root: yaml.Node) -> dict[Keys, str]:
    return {(*keys, key): f"line {_line(marked)}" for keys, pairs in _walk(root) for key, marked, _ in pairs}


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
