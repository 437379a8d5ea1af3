"""Distillation: a network learns from the outputs of another one beside the labels.

Hinton, Vinyals & Dean, Distilling the Knowledge in a Neural Network (arXiv 1503.02531). With logits z of the network
and v of its teacher, and softmax at temperature T, the loss becomes

    CE(z, labels) + weight T^2 KL(softmax(v / T) || softmax(z / T))

The factor T^2 keeps the two gradients in proportion whatever the temperature (section 2.1).

Differences from the paper: it weighs both terms, which is the same up to a factor on the learning rate, and takes the
cross-entropy of the soft targets, which differs from KL by a constant.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.training.batches import call
from secateur.training.precision import autocast, set_layout, widened
from secateur.training.state import State


def distillation(outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || outputs) at temperature T, a mean over samples; both are logits of shape `[N, classes, ...]`.

    >>> distillation(logits, logits, temperature=4.0)
    tensor(0.)
    """
    told, telling = (F.log_softmax(logits / temperature, dim=1) for logits in (outputs, teacher))
    return F.kl_div(told, telling, reduction="batchmean", log_target=True) * temperature**2


@dataclass
class Distillation:
    """A method that adds the teacher's term to the loss.

    teacher      the network that knows; a copy of it looks at every batch, in evaluation mode
    weight       of its term beside the labels', which weighs 1
    temperature  4 is the middle of the range that the paper found to work (2.5 to 4 for small networks, 20 for large)
    """

    teacher: nn.Module = field(repr=False)
    weight: float = 1.0
    temperature: float = 4.0

    def setup(self, state: State) -> None:
        """Lay the teacher out as the network is."""
        self._teacher = copy.deepcopy(self.teacher).to(state.device).eval().requires_grad_(requires_grad=False)
        if state.channels_last:
            set_layout(self._teacher, torch.channels_last)

    def penalty(self, state: State) -> Tensor:
        """The teacher's term for the batch at hand. Raises `InputError` where outputs are not logits of one shape."""
        assert state.batch is not None
        with torch.no_grad(), autocast(state.precision, state.device):
            telling = widened(call(self._teacher, state.batch[0]))
        seen = state.outputs
        outputs = seen if isinstance(seen, Tensor) and seen.requires_grad else state.forward()
        if not isinstance(outputs, Tensor) or not isinstance(telling, Tensor) or outputs.shape != telling.shape:
            raise InputError(
                "The teacher of a distillation must give logits of the network's shape, [N, classes, ...]. "
                f"Got {_shape(telling)} for outputs of {_shape(outputs)} instead."
            )
        return self.weight * distillation(outputs, telling, self.temperature)


def _shape(value: object) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__
