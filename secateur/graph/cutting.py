"""Cutting tensors: a copy of the model that holds kept entries only, made without ever touching the model."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from types import FunctionType, NoneType
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.graph.trace import named_tensors

Kept = dict[str, dict[int, Tensor]]  # tensor name -> dimension -> sorted indices that remain


def cut_tensor(tensor: Tensor, kept: Mapping[int, Tensor]) -> Tensor:
    """The kept entries of a tensor, a new tensor of the same kind (parameters stay parameters)."""
    result = tensor.detach()
    for dim, line in kept.items():
        result = result.index_select(dim, line.to(result.device))
    return like(tensor, result)


def like(original: Tensor, data: Tensor) -> Tensor:
    """`data` wrapped as the original was: a parameter with the same `requires_grad`, or a plain tensor."""
    if isinstance(original, nn.Parameter) and not isinstance(data, nn.Parameter):
        return nn.Parameter(data, requires_grad=original.requires_grad)
    return data


def rebuild(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A deep copy of `model` with some of its tensors replaced, by name; all others are copied; ties stay tied."""
    return rebuilt(model, tensors)[0]


def rebuilt(model: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor]]:
    """What `rebuild` gives, and all tensors of the copy by name."""
    fresh: dict[str, Tensor] = {}
    memo: dict[int, Any] = {}
    for name, (_, tensor) in named_tensors(model).items():
        replacement = tensors.get(name)
        fresh[name] = like(tensor, tensor.detach().clone() if replacement is None else replacement)
        memo[id(tensor)] = fresh[name]
    try:
        result: nn.Module = _copied(model, memo)
    except Exception as error:
        raise InputError(
            f"The model ({type(model).__name__}) cannot be copied: {type(error).__name__}: {error}. "
            f"Pruning works on a copy so that the model stays whole; make copy.deepcopy(model) work."
        ) from error
    return result, fresh


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """What `copy.deepcopy` gives, in a fraction of its time for modules: their dictionaries hold little but each other.

    Classes that say themselves how to be copied are left to it.
    """
    kind = type(value)
    if kind in UNCHANGING:
        return value
    if id(value) in memo:
        return memo[id(value)]
    if kind is tuple and all(type(item) in UNCHANGING for item in value):
        return value
    if kind is set and not value:
        return set()
    if kind is dict or kind is OrderedDict:
        result: dict[Any, Any] = kind()
        memo[id(value)] = result
        for key, item in value.items():
            result[_copied(key, memo)] = item if type(item) in UNCHANGING else _copied(item, memo)
        return result
    if kind is list:
        items: list[Any] = []
        memo[id(value)] = items
        items.extend(_copied(item, memo) for item in value)
        return items
    if isinstance(value, Tensor) and not value.is_leaf:  # what a run with gradients has left in a cache
        memo[id(value)] = value.detach().clone()
        return memo[id(value)]
    if not isinstance(value, nn.Module) or not _ordinary(kind):  # type: ignore[arg-type] # classes are hashable
        return copy.deepcopy(value, memo)
    state = value.__getstate__() if hasattr(value, "__getstate__") else value.__dict__
    module = object.__new__(kind)
    memo[id(value)] = module
    copied = {name: item if type(item) in UNCHANGING else _copied(item, memo) for name, item in state.items()}
    module.__setstate__(copied)
    return module


UNCHANGING = frozenset((bool, int, float, str, NoneType, FunctionType, type, torch.dtype, torch.device))


@cache
def _ordinary(kind: type[nn.Module]) -> bool:
    """Whether a class leaves copying to what Python does by itself: a new object with a copied dictionary."""
    own = ("__deepcopy__", "__getnewargs__", "__getnewargs_ex__", "__slots__")
    if any(hasattr(kind, name) for name in own) or kind.__new__ is not object.__new__:
        return False
    if kind.__reduce__ is not object.__reduce__ or kind.__reduce_ex__ is not object.__reduce_ex__:
        return False
    states = (getattr(nn.Module, "__getstate__", None), getattr(object, "__getstate__", None))
    return getattr(kind, "__getstate__", None) in states


def cut_optimizer(optimizer: torch.optim.Optimizer, old: nn.Module, new: nn.Module, kept: Kept) -> None:
    """Let an optimizer of `old` go on with `new`: its parameters swapped, its state cut along with them.

    State tensors that have the shape of their parameter (momentum, Adam's moments) are cut alike; others are kept as
    they are.
    """
    replacement = {id(t): (name, t) for name, (_, t) in named_tensors(old).items()}
    fresh = {name: t for name, (_, t) in named_tensors(new).items()}
    for group in optimizer.param_groups:
        for i, parameter in enumerate(group["params"]):
            if id(parameter) not in replacement:
                continue
            name, _ = replacement[id(parameter)]
            state = optimizer.state.pop(parameter, None)
            group["params"][i] = fresh[name]
            if state is not None:
                optimizer.state[fresh[name]] = {
                    key: cut_tensor(value, kept.get(name, {}))
                    if isinstance(value, Tensor) and value.shape == parameter.shape
                    else value
                    for key, value in state.items()
                }
