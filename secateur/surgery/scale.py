"""Attention that keeps its scale when the head size changes.

`scaled_dot_product_attention` without a stated scale divides by the root of the head size it finds. A slim head is
smaller, so the function would change; a module that keeps its scale states the one of the full model.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode


class StatedScale(TorchFunctionMode):
    """States `scale` to attention that has none."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.scaled_dot_product_attention and kwargs.get("scale") is None:
            kwargs = {**kwargs, "scale": self.scale}
        return func(*args, **kwargs)


def keep_scale(module: nn.Module, scale: float) -> None:
    """Let the attention that `module` runs use `scale` from now on, by giving the module a class of its own."""
    kind = type(module)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with StatedScale(scale):
            return kind.forward(self, *args, **kwargs)

    module.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
