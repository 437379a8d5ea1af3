"""Which names a person meant: exact names, shell patterns and regular expressions over a model's dotted names."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Collection, Iterable, Sequence

from torch import nn

from secateur.errors import InputError


def select(
    patterns: str | nn.Module | Iterable[str | nn.Module],
    names: Collection[str],
    *,
    model: nn.Module,
    parameter: str,
) -> set[str]:
    """The names that any of the patterns means; `parameter` says in errors where the patterns came from.

    A pattern is a module of `model`; a dotted name, which means itself and everything beneath it (`"layer4"`); a shell
    pattern over whole names (`"layer4.*"`, where `*` passes dots); or `"re:"` and a regular expression matched from
    the start of a name. Raises `InputError` for a pattern that means nothing, with the nearest names.
    """
    given: Sequence[str | nn.Module] = [patterns] if isinstance(patterns, str | nn.Module) else list(patterns)
    chosen: set[str] = set()
    for pattern in given:
        text = _path(pattern, model, parameter) if isinstance(pattern, nn.Module) else pattern
        if not isinstance(text, str):
            raise InputError(
                f"The {parameter} must hold names, patterns or modules. Got {type(pattern).__name__} instead."
            )
        found = _matches(text, names, parameter)
        if not found:
            raise InputError(
                f"The {parameter} holds {text!r}, which matches nothing in the model.{nearest(text, names)}"
            )
        chosen |= found
    return chosen


def nearest(text: str, names: Iterable[str]) -> str:
    """A sentence that offers the names most like `text`, with a space before it; empty if none is near."""
    close = difflib.get_close_matches(text, list(names), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""


def _path(module: nn.Module, model: nn.Module, parameter: str) -> str:
    for path, candidate in model.named_modules():
        if candidate is module:
            return str(path)
    raise InputError(f"The {parameter} holds a {type(module).__name__} that is not part of the model.")


def _matches(text: str, names: Collection[str], parameter: str) -> set[str]:
    if text.startswith("re:"):
        try:
            expression = re.compile(text[3:])
        except re.error as error:
            raise InputError(f"The {parameter} holds {text!r}, which is not a regular expression: {error}.") from error
        return {name for name in names if expression.match(name)}
    if any(c in text for c in "*?["):
        return {name for name in names if fnmatch.fnmatchcase(name, text)}
    if not text:  # the model itself, as `named_modules` calls it
        return set(names)
    return {name for name in names if name == text or name.startswith(f"{text}.")}
