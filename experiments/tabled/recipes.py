"""What recipes can say: their keys, those that come with the package, the methods."""

from __future__ import annotations

import json
import sys
from typing import Any

from secateur.recipe import METHODS, shipping
from secateur.recipe.pruning import method_options
from secateur.recipe.shown import rows
from tabled.common import table


def keys() -> str:
    """Every key of a recipe."""
    lines = [[f"`{key}`", f"`{value}`" if value else "", meaning.replace("|", "\\|")] for key, value, meaning in rows()]
    return table(["key", "default", "meaning"], lines, numbers=False)


def shipped() -> str:
    """The recipes that come with the package."""
    return table(
        ["name", "what it does"], [[f"`{name}`", told] for name, told in shipping.names().items()], numbers=False
    )


def methods() -> str:
    """One row a pruning method of a recipe, with its own words and what it can be told."""
    lines = []
    for name, kind in METHODS.items():
        words = (sys.modules[kind.__module__].__doc__ or "").partition("\n")[0]
        told = ", ".join(f"{option} {_plain(value)}" for option, value in method_options(name).items())
        lines.append([f"`{name}`", words.partition(": ")[2], told])
    return table(["name", "what it does", "options and their defaults"], lines, numbers=False)


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_plain, value))}]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return value if isinstance(value, str) else f"{value:.3g}"


TABLES = {"recipe keys": keys, "recipes": shipped, "methods": methods}
