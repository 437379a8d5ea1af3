"""A recipe as a person reads it: YAML with every key and what it means, and the same as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from secateur.recipe.schema import Recipe
from secateur.recipe.wrong import part_of

COLUMN = 34
"""Where comments start, beside keys that leave room for them."""


def shown(recipe: Recipe) -> str:
    """The recipe as commented YAML, every default written out; `Recipe.from_yaml` reads it back."""
    return "\n".join(_lines(Recipe, recipe.to_dict(), "")) + "\n"


def _lines(part: type[BaseModel], values: Mapping[str, Any], indent: str) -> Iterator[str]:
    for name, value in values.items():
        inner = part_of(part.model_fields[name].annotation)
        if inner is not None and value is not None:
            yield f"{indent + name + ':':<{COLUMN}} # {_meaning(part, name)}"
            yield from _lines(inner, value, indent + "  ")
        else:
            yield f"{f'{indent}{name}: {_flow(value)}':<{COLUMN}} # {_meaning(part, name)}"


def _meaning(part: type[BaseModel], name: str) -> str:
    """What a key means, in one line: its own description, or that of the part it holds."""
    field = part.model_fields[name]
    inner = part_of(field.annotation)
    told = field.description or (inner.__doc__ if inner is not None else None) or ""
    return " ".join(told.split())


def summary(recipe: Recipe) -> str:
    """What a recipe does, in one line."""
    part, tuned = recipe.pruning, recipe.fine_tuned_by()
    start = "train" if recipe.training.epochs else "load" if recipe.model.weights is not None else "build"
    epochs = f" for {recipe.training.epochs} epochs" if recipe.training.epochs else ""
    words = [f"{start} {recipe.model.spec} on {recipe.data.name}{epochs}"]
    if part is not None and part.method is not None:
        removal = f" with {part.method.removal.name} removal" if part.method.removal is not None else ""
        words.append(f"prune {part.units} to {part.budget} by {part.method.name}{removal}")
    elif part is not None:
        rounds = f" in {part.turns} rounds" if part.turns > 1 else ""
        words.append(f"prune {part.units} to {part.budget}{rounds}")
    if part is not None and tuned is not None:
        many = " each" if part.turns > 1 else " meanwhile" if part.method is not None else ""
        words.append(f"fine-tune for {tuned.epochs} epochs{many}")
    seeds = f"; seeds {', '.join(map(str, recipe.seeds))}" if len(recipe.seeds) > 1 else f"; seed {recipe.seeds[0]}"
    return f"{', '.join([*words, 'measure'])}{seeds}."


def rows() -> Iterator[tuple[str, str, str]]:
    """Every key of a recipe with its default, in YAML, and its meaning."""
    yield from _rows(Recipe, "")


def _rows(part: type[BaseModel], above: str) -> Iterator[tuple[str, str, str]]:
    for name, field in part.model_fields.items():
        inner = part_of(field.annotation)
        if inner is not None:
            value = "null" if field.default is None else ""
            yield f"{above}{name}", value, _meaning(part, name)
            yield from _rows(inner, f"{above}{name}.")
        else:
            value = "required" if field.is_required() else _flow(field.get_default(call_default_factory=True))
            yield f"{above}{name}", value, _meaning(part, name)


def _flow(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    written: str = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=10**6)
    return written.removesuffix("...\n").strip()
