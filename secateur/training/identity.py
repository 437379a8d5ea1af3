"""What makes two runs the same run: a description of settings, methods, model and data that a checkpoint carries."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from secateur.ranks import world
from secateur.training.settings import Training
from secateur.training.state import State

_NO_MATTER = ("checkpoint", "checkpoint_minutes", "log", "trackers", "progress", "on_epoch")
_RESOLVED = ("steps_per_epoch", "precision", "channels_last", "compile")
_TOLD = ("samples", "batch_size", "seed", "augment")


def describe(value: Any) -> str:
    """A text that is the same for equal values in every process: no addresses, no module of the calling script."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous()
        return f"Tensor{list(value.shape)}#{zlib.crc32(repr(data.flatten().tolist()).encode()):08x}"
    if isinstance(value, partial):
        inside = [describe(item) for item in value.args]
        inside += [f"{name}={describe(item)}" for name, item in sorted(value.keywords.items())]
        return f"{describe(value.func)}({', '.join(inside)})"
    if is_dataclass(value) and not isinstance(value, type):
        inside = [
            f"{item.name}={describe(getattr(value, item.name))}" for item in fields(value) if item.init and item.repr
        ]
        return f"{type(value).__qualname__}({', '.join(inside)})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{describe(key)}: {describe(item)}' for key, item in value.items())}}}"
    if isinstance(value, Sequence):
        return f"({', '.join(map(describe, value))})"
    return str(getattr(value, "__qualname__", type(value).__qualname__))


def identity(settings: Training, state: State, data: Any, train: Iterable[Any], compiled: bool) -> dict[str, str]:
    """The description of a run, by the names a user knows; taken before the methods' setup.

    Precision, layout and compiling enter as what "auto" came to, for another machine may decide otherwise.
    """
    left_out = (*_NO_MATTER, *_RESOLVED)
    described = {
        item.name: describe(getattr(settings, item.name)) for item in fields(settings) if item.name not in left_out
    }
    return {
        **described,
        "steps_per_epoch": str(state.steps_per_epoch),
        "precision": state.precision,
        "channels_last": str(state.channels_last),
        "compile": str(compiled),
        "ranks": str(world()[1]),
        "methods": describe(state.moments.methods),
        "model": _shape_of(state.model),
        "data": _source_of(data, train),
    }


def differences(stored: Mapping[str, str], present: Mapping[str, str]) -> list[str]:
    """One phrase for every entry that differs."""
    return [
        f"{name} ({stored.get(name, 'absent')} there, {present.get(name, 'absent')} here)"
        for name in sorted({*stored, *present})
        if stored.get(name) != present.get(name)
    ]


def _shape_of(model: nn.Module) -> str:
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    code = zlib.crc32(repr(sorted(shapes.items())).encode())
    return f"{type(model).__name__} of {len(shapes)} tensors, shapes #{code:08x}"


def _source_of(data: Any, train: Iterable[Any]) -> str:
    """What a data set and its loader tell of themselves; a bare iterable tells its type."""
    told = [
        (owner, name) for owner, name in ((data, "name"), *((train, name) for name in _TOLD)) if hasattr(owner, name)
    ]
    return ", ".join(f"{name} {describe(getattr(owner, name))}" for owner, name in told) or type(train).__name__
