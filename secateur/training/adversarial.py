"""Adversarial training: a network learns on inputs moved a little to where its loss grows, beside the data's own.

Goodfellow, Shlens & Szegedy, Explaining and Harnessing Adversarial Examples (arXiv 1412.6572), with the random start of
Wong, Rice & Kolter, Fast is better than free: Revisiting adversarial training (arXiv 2001.03994). With inputs x, labels
y and a reach e,

    d ~ U(-e, e),   d := clip(d + 1.25 e sign(grad_d L(x + d, y)), -e, e)
    the loss becomes L(x, y) + weight L(x + d, y)

Differences from the papers: the reach is that of the inputs as the network sees them, after normalisation, and moved
inputs are not clipped to the range of images; both losses stay, where the second paper takes the moved inputs alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.training.keeping import kept_buffers
from secateur.training.state import State
from secateur.training.streams import kept_streams

STEP = 1.25
"""The step over the reach, of arXiv 2001.03994."""


@dataclass
class Adversarial:
    """A method that adds the loss at moved inputs.

    epsilon    the reach, of normalised inputs: 8/255 of the range of images is 0.13 where their deviation is 0.24
    weight     of the term beside the data's own, which weighs 1
    """

    epsilon: float = 0.13
    weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("epsilon", "weight"):
            value = getattr(self, name)
            if not value > 0:
                raise InputError(f"The '{name}' parameter of Adversarial must be a positive float. Got {value!r}.")

    def penalty(self, state: State) -> Tensor:
        """The term for the batch at hand. Raises `InputError` for inputs that are not a tensor of floats."""
        assert state.batch is not None
        inputs, targets = state.batch
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            raise InputError(
                f"Adversarial training needs inputs that are a tensor of floats. Got {type(inputs).__name__} instead."
            )
        with kept_streams(state.device, state.generator):
            moved = inputs + self._found(state, inputs, targets)
            return self.weight * state.loss_function(state.run(state.model, moved), targets)

    def _found(self, state: State, inputs: Tensor, targets: object) -> Tensor:
        """The move of every input, in `[-epsilon, epsilon]`; batch-norm statistics do not see the search."""
        start = torch.empty_like(inputs).uniform_(-self.epsilon, self.epsilon).requires_grad_()
        with kept_buffers(state.model), torch.enable_grad():
            loss = state.loss_function(state.run(state.model, inputs + start), targets)
            (slope,) = torch.autograd.grad(loss, [start])
        return (start.detach() + STEP * self.epsilon * slope.sign()).clamp(-self.epsilon, self.epsilon)
