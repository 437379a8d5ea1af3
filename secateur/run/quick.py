"""Copies of networks that answer many images fast, and still give the answers of the originals.

Batch norms are folded into the convolutions before them, images lie channels last, and where there are enough images
to win back the time the copy is compiled. All of it stays in float32: bfloat16 moves scores by up to a hundredth of
their size, so that flips between two networks would count rounding. A copy that does not give the original's scores on
an example is not used.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.training.precision import resolve_channels_last

Network = Callable[[Tensor], Tensor]
COMPILING_PAYS = 200_000
"""Images from which a copy is compiled; that takes some twenty seconds."""
_ALLOWED = 1e-3
"""By how much scores may differ, as a share of the largest."""


def scores(outputs: Any) -> Tensor:
    """The class scores of a model: a tensor, its `logits`, or the first of several; in float32 or wider."""
    found = getattr(outputs, "logits", outputs)
    if isinstance(found, dict):
        found = found.get("logits")
    if isinstance(found, tuple | list) and found:
        found = found[0]
    if not isinstance(found, Tensor):
        raise InputError(
            f"A model that is evaluated must give class scores as a tensor. It gave {type(outputs).__name__}."
        )
    return found.float() if found.dtype in (torch.bfloat16, torch.float16) else found


class Padded:
    """A network that is always called with batches of one size, so that it is compiled once."""

    def __init__(self, network: Network, size: int) -> None:
        self.network, self.size = network, size

    def __call__(self, inputs: Tensor) -> Tensor:
        """The scores of at most `size` inputs."""
        missing = self.size - len(inputs)
        if missing:
            inputs = torch.cat([inputs, inputs[:1].expand(missing, *inputs.shape[1:])])
        outputs = self.network(inputs)
        return outputs[: self.size - missing] if missing else outputs


def quick(model: nn.Module, example: Tensor, compiled: bool | Literal["auto"], images: int) -> tuple[Network, str]:
    """A network that gives the scores of `model` in evaluation mode, and in a word how: "compiled", "folded", "plain".

    `example` is a full batch of inputs. "auto" compiles on the CPU, where a compiler of C++ is there and `images` are
    many. The model is left as it is.
    """
    plain = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
    last = resolve_channels_last("auto", plain) and example.dim() == 4
    if last:
        plain = plain.to(memory_format=torch.channels_last)
        example = example.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = scores(plain(example))

    def laid(network: nn.Module) -> Network:
        def call(inputs: Tensor) -> Tensor:
            inputs = inputs.contiguous(memory_format=torch.channels_last) if last else inputs
            return scores(network(inputs))

        return call

    folded = _folded(plain)
    if _compiles(compiled, example.device, images):
        found = _tried(lambda: _compiled(folded or plain), laid, example, expected)
        if found is not None:
            return Padded(found, len(example)), "compiled"
    if folded is not None:
        found = _tried(lambda: folded, laid, example, expected)
        if found is not None:
            return found, "folded"
    return laid(plain), "plain"


def _compiles(asked: bool | Literal["auto"], device: torch.device, images: int) -> bool:
    if asked != "auto":
        return asked
    found = any(shutil.which(name) for name in ("g++", "c++", "clang++"))
    return device.type == "cpu" and found and images >= COMPILING_PAYS


def _folded(model: nn.Module) -> nn.Module | None:
    """A copy with its batch norms in the convolutions; None where the code cannot be read symbolically."""
    from torch.fx.experimental.optimization import fuse

    try:
        return fuse(model)
    except Exception:  # whatever the code of a model does under symbolic tracing, the plain copy is there
        return None


def _compiled(model: nn.Module) -> nn.Module:
    compiled: nn.Module = torch.compile(model, options={"freezing": True})  # type: ignore[assignment]
    return compiled


def _tried(
    make: Callable[[], nn.Module], laid: Callable[[nn.Module], Network], example: Tensor, expected: Tensor
) -> Network | None:
    """The network that `make` gives, if it answers the example as expected."""
    try:
        network = laid(make())
        with torch.no_grad():
            found = network(example)
    except Exception:  # a compiler that is not there or fails is no reason not to evaluate
        return None
    apart = float((found - expected).abs().max())
    return network if apart <= _ALLOWED * max(1.0, float(expected.abs().max())) else None
