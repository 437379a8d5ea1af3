"""The weights that regularisers and perturbations act on, and the checks of their strengths."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from secateur.errors import InputError


def matrices(model: nn.Module) -> dict[str, Tensor]:
    """Name -> trainable parameter of two axes or more: what pruning takes from; no biases, no norm weights."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad and p.dim() > 1 and p.numel()}


def layers(model: nn.Module, method: str) -> dict[str, nn.Module]:
    """Name -> module with a trainable `weight` of two axes or more: convolutions, linear layers, embeddings.

    Raises `InputError` where there is none, and where two modules share one weight, which cannot be written anew in
    only one of them.
    """
    found: dict[str, nn.Module] = {}
    owners: dict[int, str] = {}
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is None or not weight.requires_grad or weight.dim() < 2:
            continue
        if id(weight) in owners:
            raise InputError(
                f"{method} cannot rewrite a weight that two modules share: '{owners[id(weight)]}' and '{name}'."
            )
        owners[id(weight)] = name
        found[name] = module
    if not found:
        raise InputError(f"{method} found no layer with a trainable weight matrix in {type(model).__name__}.")
    return found


def check_number(value: Any, name: str, owner: str, low: float, high: float = math.inf) -> None:
    """Raise `InputError` unless `value` is a finite number in [low, high]."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high:
        limits = f"in [{low:g}, {high:g}]" if high < math.inf else f"of at least {low:g}"
        raise InputError(f"The '{name}' parameter of {owner} must be a number {limits}. Got {value!r} instead.")
