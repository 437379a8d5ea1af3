"""What a model remembers from one run to the next: results that go back into it, and what its functions cache."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Collection, Iterable, Mapping
from types import CellType, FunctionType
from typing import Any

from torch import nn

from secateur.errors import InputError


def free_names(
    model: nn.Module,
    inputs: tuple[tuple[Any, ...], dict[str, Any]],
    fields: Mapping[str, Any],
    wanted: Collection[str] | None,
) -> set[str]:
    """The names among a result's `fields` whose widths need not stay.

    A model returns a cache of keys and values, or the state of a recurrence, in order to get it back: under the name of
    an argument that was left out of `inputs`. Nobody else reads it. Where the results that are `wanted` are named, all
    others are free. Raises `InputError` for names that are not there.
    """
    if wanted is not None:
        for name in set(wanted) - set(fields):
            known = ", ".join(map(repr, fields)) or "no names"
            raise InputError(f"The 'outputs' parameter of groups holds {name!r}. The model's result has {known}.")
        return set(fields) - set(wanted)
    try:
        arguments = inspect.signature(model.forward).bind_partial(*inputs[0], **inputs[1])
    except (TypeError, ValueError):
        return set()
    return set(fields) & (set(arguments.signature.parameters) - set(arguments.arguments))


def memories(modules: Iterable[nn.Module]) -> list[functools._lru_cache_wrapper[Any]]:
    """What `functools.lru_cache` keeps of functions beside the modules' classes: it would outlast a run."""
    kinds = set(map(type, modules))
    classes = {c for kind in kinds for c in kind.__mro__ if not c.__module__.startswith("torch.")}
    homes: list[Any] = [
        *classes,
        *(sys.modules[name] for name in {c.__module__ for c in classes} if name in sys.modules),
    ]
    found = [getattr(value, "__func__", value) for home in homes for value in vars(home).values()]
    inside = [_content(cell) for value in found if type(value) is FunctionType for cell in value.__closure__ or ()]
    return [value for value in (*found, *inside) if isinstance(value, functools._lru_cache_wrapper)]


def forget(memories: Iterable[functools._lru_cache_wrapper[Any]]) -> None:
    """Empty what functions remember."""
    for memory in memories:
        memory.cache_clear()


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing was put into it yet
        return None
