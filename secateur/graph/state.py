"""What a run leaves behind in a model, and taking it back: modes, caches, buffers, what functions remember."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.graph.memory import forget, memories


@dataclass(frozen=True)
class Written:
    """An attribute that a run wrote: the path of its module, its name and its value before; `MISSING` for none."""

    module: str
    attribute: str
    before: Any


MISSING = object()
STORES = (list, dict, set, OrderedDict)
HOOKS = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks")
PLAIN = frozenset(vars(nn.Module())) - set(HOOKS)  # what torch keeps in every module


def take_back(model: nn.Module, written: Iterable[Written]) -> None:
    """Put attributes that a run wrote (caches, tables of positions, hooks) back to what they were before it."""
    for one in written:
        attributes = model.get_submodule(one.module).__dict__
        if one.before is MISSING:
            attributes.pop(one.attribute, None)
        else:
            attributes[one.attribute] = one.before.copy() if isinstance(one.before, STORES) else one.before


@contextlib.contextmanager
def undisturbed(
    model: nn.Module, training: bool = False, modules: Mapping[str, nn.Module] | None = None
) -> Iterator[list[Written]]:
    """Runs the block with the model in evaluation (or training) mode and puts modes and attributes back afterwards.

    A forward may write to its module (caches of attention biases, position tables, hooks); whatever it writes is taken
    back, and listed in what the block is given. `modules` are those of the model by path, where they are at hand.
    """
    if modules is None:
        modules = dict(model.named_modules())
    before = [(path, module, _Snapshot(module)) for path, module in modules.items()]
    written: list[Written] = []
    buffers = {id(b): b for module in modules.values() for b in module._buffers.values() if type(b) is Tensor}
    values = [(buffer, buffer.detach().clone()) for buffer in buffers.values()]
    remembered = memories(modules.values())
    forget(remembered)
    try:
        set_mode(model, training)
        yield written
    finally:
        forget(remembered)
        for path, module, snapshot in before:
            written += snapshot.restore(path, module)
        with torch.no_grad():
            for buffer, value in values:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


class _Snapshot:
    """The attributes of one module, and what its lists and dictionaries held."""

    def __init__(self, module: nn.Module) -> None:
        self.attributes = dict(module.__dict__)
        own = self.attributes.keys() - PLAIN
        self.held = {k: v.copy() if v else () for k in own if type(v := self.attributes[k]) in STORES}
        self.buffers = dict(module._buffers)

    def restore(self, path: str, module: nn.Module) -> list[Written]:
        """Put everything back; returns what was changed, but for the mode and torch's own."""
        now, then, written = module.__dict__, self.attributes, []
        for key in now.keys() - then.keys():
            written.append(Written(path, key, MISSING))
            del now[key]
        for key in [k for k, value in then.items() if now.get(k, MISSING) is not value]:
            if key != "training":
                written.append(Written(path, key, self.held.get(key) or then[key]))
            now[key] = then[key]
        for key, held in self.held.items():
            store = then[key]
            if (store or held) and _differ(store, held):
                written.append(Written(path, key, held or type(store)()))
                store.clear()
                store.extend(held) if type(store) is list else store.update(held)
        if _differ(module._buffers, self.buffers):
            module._buffers.clear()
            module._buffers.update(self.buffers)
        return written


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
    """Whether a list, a set or a dictionary holds other objects than before."""
    if len(now) != len(before):
        return True
    if isinstance(now, dict):
        return any(now.get(key, MISSING) is not value for key, value in before.items())
    if isinstance(now, set):
        return any(value not in now for value in before)
    return any(a is not b for a, b in zip(now, before, strict=True))
