"""The exponential moving average of a model's weights: often better than the last weights, and free at inference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from secateur.errors import InputError


class Average:
    """An average of everything in the model's state dict, moved by every step: `a += (1 - d) * (w - a)`.

    The decay `d` grows to the one asked for as `(1 + step) / (10 + step)`, so that the first weights are soon forgotten
    (as in TensorFlow's ExponentialMovingAverage). Batch-norm statistics are averaged too, counters copied. The average
    is a set of tensors and no second model: hooks and gates that methods put into the model exist once.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self.tensors: dict[str, Tensor] = {}
        self.follow(model)

    def follow(
        self, model: nn.Module, names: Mapping[str, str] | None = None, given: Mapping[str, Tensor] | None = None
    ) -> None:
        """Average the weights of `model` from now on.

        Tensors in `given`, by their names in the model, are where the average goes on from; others go on from the
        average so far where their shape stayed the same under their name (`names`: new to old), or else start from the
        model's weights. Raises `InputError` for a given tensor that does not fit the model.
        """
        live = {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
        wrong = [name for name, value in (given or {}).items() if name not in live or live[name].shape != value.shape]
        if wrong:
            raise InputError(
                f"The 'average' given to replace must have the names and shapes of the new model. {wrong[0]!r} has not."
            )
        before, self.tensors = self.tensors, {}
        for name, value in live.items():
            known = before.get((names or {}).get(name, name), value)
            start = (given or {}).get(name, known if known.shape == value.shape else value)
            self.tensors[name] = torch.empty_like(value, requires_grad=False).copy_(start.detach())
        self._live: dict[str, Tensor] = live
        self._pairs = [(self.tensors[name], value) for name, value in live.items() if value.is_floating_point()]
        self._counters = [(self.tensors[name], value) for name, value in live.items() if not value.is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step`, counted from 1."""
        decay = min(self._decay, (1 + step) / (10 + step))
        if self._pairs:
            own, live = zip(*self._pairs, strict=True)
            torch._foreach_lerp_(list(own), list(live), 1 - decay)
        for counter, value in self._counters:
            counter.copy_(value)

    @torch.no_grad()
    def settle(self) -> None:
        """Set to zero what is exactly zero in the model, so that what masks have removed is removed here too."""
        for own, live in self._pairs:
            own.masked_fill_(live == 0, 0)

    @torch.no_grad()
    def load(self, stored: Mapping[str, Tensor]) -> None:
        """Take back stored averages."""
        for name, tensor in self.tensors.items():
            tensor.copy_(stored[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """A block in which the model has the averaged weights."""
        own = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        self._write(self.tensors)
        try:
            yield
        finally:
            self._write(own)

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, live in self._live.items():
            live.copy_(values[name])
