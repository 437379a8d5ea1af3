"""What operators take and give: tensors, alone or in lists; torch's functions for trees take longer than a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def all_of(kind: type[T], value: Any) -> list[T]:
    """Everything of a kind in an argument or a result, in order."""
    if isinstance(value, kind):
        return [value]
    if isinstance(value, list | tuple):
        return [found for item in value for found in all_of(kind, item)]
    return []


def mapped(kind: type[T], function: Callable[[T], Any], value: Any) -> Any:
    """An argument or a result with a function applied to everything of a kind in it."""
    if isinstance(value, kind):
        return function(value)
    if type(value) in (list, tuple):
        return type(value)(mapped(kind, function, item) for item in value)
    return value
