"""Blocks that may run a model as they like and leave it as it was: its modes, its buffers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """A block after which every module is in the mode (training or evaluation) it was in before."""
    before = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """A block that works on copies of the model's buffers, so batch-norm statistics and the like do not move.

    The buffers themselves are set aside, not written back: a graph recorded before the block can still be
    differentiated.
    """
    copies: dict[int, Tensor] = {}
    before = [(module, dict(module._buffers)) for module in model.modules()]
    for module, buffers in before:
        for name, buffer in buffers.items():
            if buffer is not None:
                module._buffers[name] = copies.setdefault(id(buffer), buffer.detach().clone())
    try:
        yield
    finally:
        for module, buffers in before:
            module._buffers.update(buffers)
