"""What a model remembers from one run to the next: results that go back into it, and what its functions cache."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Collection, Mapping
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


def forget(model: nn.Module) -> None:
    """Empty what `functools.lru_cache` remembers of functions beside the model's classes: it would outlast the run."""
    classes = {c for module in model.modules() for c in type(module).__mro__ if not c.__module__.startswith("torch.")}
    homes: list[Any] = [
        *classes,
        *(sys.modules[name] for name in {c.__module__ for c in classes} if name in sys.modules),
    ]
    for home in homes:
        for value in [getattr(found, "__func__", found) for found in vars(home).values()]:
            cells = getattr(value, "__closure__", None) or ()
            for function in (value, *(cell.cell_contents for cell in cells if _filled(cell))):
                if isinstance(function, functools._lru_cache_wrapper):
                    function.cache_clear()


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
