"""What is wrong with a recipe, in a sentence: the key, where it stands, what must hold, and the nearest right key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from secateur.errors import InputError
from secateur.recipe.choices import nearest
from secateur.recipe.text import Keys, Written

_PARAMETER = re.compile(r"The '(\w+)' parameter (?:of \w+ )?(must .*)", re.DOTALL)
"""What stages say of a parameter that a recipe has as a key."""

_WORDS = (
    ("Input should be ", ""),
    ("Input must be ", ""),
    ("greater than or equal to", "at least"),
    ("less than or equal to", "at most"),
)


class MisfitError(InputError):
    """A value that does not fit another one: `key` is its dotted key, below the part that raises this."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def told(root: type[BaseModel], error: ValidationError, written: Written) -> str:
    """The first thing that is wrong, in one line."""
    errors = error.errors()
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    keys, message = _blamed(root, first)
    path = ".".join(map(str, keys))
    at = written.at(keys)
    if first["type"] == "extra_forbidden":
        return f"The {at} has no key '{path}'.{_offer(root, keys)}"
    if first["type"] == "missing":
        return f"The {written.at(keys[:-1])} must have the key '{path}'."
    if first["type"] == "value_error":
        if not path:
            return f"The {at} {message}"
        return f"The '{path}' of the {at} {message}" if message.startswith("must ") else f"{message} ({at}, '{path}')"
    same = [other for other in errors if real(root, other["loc"]) == keys]
    closer = [other for other in same if not other["type"].endswith("_type")]  # of the right type, and yet wrong
    wanted = " or ".join(dict.fromkeys(map(expected, closer or same)))
    return f"The '{path}' of the {at} must be {wanted}. Got {_got(written.values, keys, first)!r} instead."


def _blamed(root: type[BaseModel], error: ErrorDetails) -> tuple[Keys, str]:
    """The key that is wrong and the message about it; an error of a whole part may name the key itself."""
    keys, message = real(root, error["loc"]), error["msg"].removeprefix("Value error, ")
    if (cause := error.get("ctx", {}).get("error")) is not None and isinstance(cause, MisfitError):
        return (*keys, *cause.key.split(".")), message
    part, named = _part(root, keys), _PARAMETER.match(message)
    if named is not None and part is not None and named[1] in part.model_fields:
        return (*keys, named[1]), named[2]
    if named is not None and keys and keys[-1] == named[1]:
        return keys, named[2]
    if named is not None and keys and keys[-1] == "options":
        return (*keys, named[1]), named[2]
    return keys, message


def expected(error: ErrorDetails) -> str:
    """What must hold instead, as the end of a sentence."""
    if error["type"] in ("model_type", "dict_type", "model_attributes_type"):
        return "a mapping"
    message = error["msg"]
    for theirs, ours in _WORDS:
        message = message.replace(theirs, ours)
    return message.partition(", unable")[0]


def _got(values: Any, keys: Keys, error: ErrorDetails) -> Any:
    """The value as it was written; for a default that does not hold, what the error saw."""
    for key in keys:
        try:
            values = values[key]
        except (KeyError, IndexError, TypeError):
            return error["input"]
    return values


def _offer(root: type[BaseModel], keys: Keys) -> str:
    """A sentence with the nearest right key: beside the wrong one, or anywhere in a recipe under that very name."""
    parent, name = keys[:-1], str(keys[-1])
    part = _part(root, parent)
    known = list(part.model_fields) if part is not None else []
    if near := nearest(name, known):
        return near.replace("'", f"'{''.join(f'{key}.' for key in parent)}", 1)
    if elsewhere := [path for path in paths(root) if path.rpartition(".")[2] == name]:
        return f" Did you mean '{elsewhere[0]}'?"
    return f" It takes {', '.join(known)}."


def paths(root: type[BaseModel], above: str = "") -> Iterator[str]:
    """The dotted keys of all values that a recipe can hold, in order."""
    for name, field in root.model_fields.items():
        inner = part_of(field.annotation)
        yield from paths(inner, f"{above}{name}.") if inner is not None else (f"{above}{name}",)


def part_of(annotation: Any) -> type[BaseModel] | None:
    """The part that a key holds, also where it may be null; None for a key with a plain value."""
    found = (annotation, *get_args(annotation))
    return next((kind for kind in found if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _part(root: type[BaseModel], keys: Keys) -> type[BaseModel] | None:
    part: type[BaseModel] | None = root
    for key in keys:
        field = part.model_fields.get(str(key)) if part is not None else None
        part = part_of(field.annotation) if field is not None else None
    return part


def real(root: type[BaseModel], location: tuple[str | int, ...]) -> Keys:
    """The part of an error's location that consists of keys: it ends where pydantic names a branch of a union."""
    part: type[BaseModel] | None = root
    keys: list[str | int] = []
    for step in location:
        if part is None and isinstance(step, str):
            break
        keys.append(step)
        field = part.model_fields.get(str(step)) if part is not None else None
        part = part_of(field.annotation) if field is not None else None
    return tuple(keys)
