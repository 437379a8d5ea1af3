"""Copies of networks that answer many images fast, and still give the answers of the originals.

Batch norms are folded into the convolutions before them, images lie channels last, and where there are enough images
to win back the time the copy is compiled. All of it stays in float32: bfloat16 moves scores by up to a hundredth of
their size, so that flips between two networks would count rounding. A copy that does not give the original's scores on
an example is not used.
"""

from __future__ import annotations

import copy
import math
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
AT_ONCE = 50
"""Inputs a thread of the CPU computes at once: what lies between two layers should stay in its cache."""
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


class Portions:
    """A network that is called with at most `size` inputs at a time; exactly so many where it is compiled for them."""

    def __init__(self, network: Network, size: int, *, exactly: bool) -> None:
        self.network, self.size, self.exactly = network, size, exactly

    def __call__(self, inputs: Tensor) -> Tensor:
        """The scores of all inputs."""
        found = [self._answered(part) for part in inputs.split(self.size)]
        return torch.cat(found) if len(found) > 1 else found[0]

    def _answered(self, inputs: Tensor) -> Tensor:
        missing = self.size - len(inputs) if self.exactly else 0
        if not missing:
            return self.network(inputs)
        inputs = torch.cat([inputs, inputs[:1].expand(missing, *inputs.shape[1:])])
        return self.network(inputs)[:-missing]


def _portion(example: Tensor) -> int:
    """Of a batch on the CPU the equal parts that have at most AT_ONCE inputs for each thread; else all of it."""
    most = AT_ONCE * torch.get_num_threads() if example.device.type == "cpu" else len(example)
    return math.ceil(len(example) / math.ceil(len(example) / most))


def quick(model: nn.Module, example: Tensor, compiled: bool | Literal["auto"], images: int) -> tuple[Network, str]:
    """A network that gives the scores of `model` in evaluation mode, and in a word how: "compiled", "folded", "plain".

    `example` is a full batch of inputs. "auto" compiles on the CPU, where a compiler of C++ is there and `images` are
    many. The model is left as it is.
    """
    plain = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
    size = _portion(example)
    example = example[:size]
    last = resolve_channels_last("auto", plain) and example.dim() == 4
    if last:
        plain = plain.to(memory_format=torch.channels_last)
        example = example.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = scores(plain(example))

    def laid(network: Network) -> Network:
        def call(inputs: Tensor) -> Tensor:
            inputs = inputs.contiguous(memory_format=torch.channels_last) if last else inputs
            return scores(network(inputs))

        return call

    folded = _folded(plain)
    if _compiles(compiled, example.device, images):
        found = _tried(lambda: torch.compile(folded or plain), laid, example, expected)
        if found is not None:
            return Portions(found, size, exactly=True), "compiled"
    if folded is not None:
        found = _tried(lambda: folded, laid, example, expected)
        if found is not None:
            return Portions(found, size, exactly=False), "folded"
    return Portions(laid(plain), size, exactly=False), "plain"


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


def _tried(
    make: Callable[[], Network], laid: Callable[[Network], Network], example: Tensor, expected: Tensor
) -> Network | None:
    """The network that `make` gives, if it answers the example as expected.

    A compiler takes the weights for constants, which it may lay out for its convolutions; so does Dynamo before it only
    where the configuration says so when the network is first called.
    """
    try:
        from torch._inductor import config

        with torch.no_grad(), config.patch(freezing=True):
            network = laid(make())
            found = network(example)
    except Exception:  # a compiler that is not there or fails is no reason not to evaluate
        return None
    apart = float((found - expected).abs().max())
    return network if apart <= _ALLOWED * max(1.0, float(expected.abs().max())) else None
