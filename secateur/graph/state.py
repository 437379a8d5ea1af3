"""What a run leaves behind in a model, and taking it back: modes, caches, buffers, what functions remember."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.graph.memory import forget


@dataclass(frozen=True)
class Written:
    """An attribute that a run wrote: the path of its module, its name and its value before; `MISSING` for none."""

    module: str
    attribute: str
    before: Any


MISSING = object()
HOOKS = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks")


def take_back(model: nn.Module, written: Iterable[Written]) -> None:
    """Put attributes that a run wrote (caches, tables of positions) back to what they were before it."""
    for one in written:
        attributes = model.get_submodule(one.module).__dict__
        if one.before is MISSING:
            attributes.pop(one.attribute, None)
        else:
            attributes[one.attribute] = one.before.copy() if isinstance(one.before, list | dict) else one.before


@contextlib.contextmanager
def undisturbed(model: nn.Module, training: bool = False) -> Iterator[list[Written]]:
    """Runs the block with the model in evaluation (or training) mode and puts modes and attributes back afterwards.

    A forward may write to its module (caches of attention biases, position tables, hooks); whatever it writes is taken
    back, and listed in what the block is given.
    """
    before = []
    written: list[Written] = []
    for path, module in model.named_modules():
        state = {k: v.copy() for k, v in module.__dict__.items() if _is_own_store(k, v) or k in HOOKS}
        before.append((path, module, dict(module.__dict__), state, dict(module._buffers)))
    values = [(buffer, buffer.detach().clone()) for buffer in model.buffers() if type(buffer) is Tensor]
    forget(model)
    try:
        set_mode(model, training)
        yield written
    finally:
        forget(model)
        for path, module, originals, state, buffers in before:
            for key in [k for k in module.__dict__ if k not in originals]:
                written.append(Written(path, key, MISSING))
                del module.__dict__[key]
            for key, value in originals.items():
                if module.__dict__.get(key) is not value and key != "training":
                    written.append(Written(path, key, state.get(key, value)))
                module.__dict__[key] = value
                if key not in state:
                    continue
                if key not in HOOKS and _differ(value, state[key]):
                    written.append(Written(path, key, state[key]))
                if isinstance(value, dict):
                    value.clear()
                    value.update(state[key])
                else:
                    value[:] = state[key]
            module._buffers.clear()
            module._buffers.update(buffers)
        with torch.no_grad():
            for buffer, value in values:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def set_mode(model: nn.Module, training: bool) -> None:
    """Put a model into evaluation or training mode, but for torch's own layers.

    What a model does beside evaluation is decided by its own modules; norms and dropout would only make it random, or
    ask for more than one example.
    """
    model.train(training)
    for module in model.modules():
        if type(module).__module__.startswith("torch.nn.modules") and not module._modules:
            module.training = False


def _differ(now: Any, before: Any) -> bool:
    """Whether a list or a dictionary holds other objects than before."""
    if len(now) != len(before):
        return True
    if type(now) is dict:
        return any(key not in now or now[key] is not value for key, value in before.items())
    return any(a is not b for a, b in zip(now, before, strict=True))


def _is_own_store(key: str, value: Any) -> bool:
    """Whether an attribute is a list or a dictionary of the module's author, not one of torch's."""
    return type(value) is list or (type(value) is dict and not key.startswith("_"))
