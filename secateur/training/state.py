"""State: what the methods see of a running training, and the two things they may ask of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.errors import InputError, TrainingError
from secateur.schedule import Schedule, constant
from secateur.training.batches import Batch, call, device_of
from secateur.training.keeping import kept_buffers
from secateur.training.moments import Moments
from secateur.training.optimisers import align_state, carry_over, missing_parameters
from secateur.training.precision import Precision, autocast, set_layout, widened
from secateur.training.schedules import warm_up
from secateur.training.streams import Streams, derive, kept_streams, seed_streams, snapshot

Loss = Callable[[Any, Any], Tensor]


@dataclass(eq=False)
class State:
    """A training between two steps: the model, the optimizer, where it stands, and the batch at hand.

    `step` counts steps done since the start, `epoch` epochs done, `position` batches done in this epoch. `loss` is the
    last objective (penalties included) and `outputs` the model's last outputs, both without a graph. `generator` is a
    CPU generator for the methods' own draws, seeded anew each epoch from `seed`. A loop of one's own makes a State by
    hand, sets `batch`, calls `objective`, and the moments around it:

    >>> state = State(model, epochs=1, steps_per_epoch=10, moments=Moments([method]))
    >>> groups = state.moments.setup(state)
    >>> state.optimizer = SGD([{"params": model.parameters()}, *groups], lr=0.1)
    """

    model: nn.Module
    epochs: int
    steps_per_epoch: int
    moments: Moments = field(default_factory=Moments)
    loss_function: Loss = F.cross_entropy
    schedule: Schedule = constant
    warmup: float = 0.0
    seed: int = 0
    precision: Precision = "fp32"
    channels_last: bool = False
    step: int = 0
    epoch: int = 0
    position: int = 0
    batch: Batch | None = None
    loss: Tensor | None = None
    outputs: Any = None
    device: torch.device = field(init=False)
    generator: torch.Generator = field(init=False, default_factory=lambda: torch.Generator("cpu"))
    _optimizer: Optimizer | None = field(init=False, default=None)
    _streams: Streams | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.device = device_of(self.model)
        self.generator.manual_seed(derive(self.seed, "setup"))

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer; it is built after `setup`, which may bring parameters of its own."""
        if self._optimizer is None:
            raise TrainingError(
                "The optimizer is built after the methods' setup; state.optimizer cannot be used there."
            )
        return self._optimizer

    @optimizer.setter
    def optimizer(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer

    @property
    def progress(self) -> float:
        """The share of the training that is done, in [0, 1]."""
        if self.epoch >= self.epochs:
            return 1.0
        return (self.epoch + min(1.0, self.position / self.steps_per_epoch)) / self.epochs

    def begin_epoch(self) -> None:
        """Start of an epoch: training mode, and random streams that depend on the seed and the epoch alone."""
        self.position = 0
        self.model.train()
        seed_streams(derive(self.seed, "epoch", self.epoch), self.device, self.generator)

    def end_epoch(self) -> None:
        """Count the epoch; what its methods see next is its end."""
        self.epoch, self.position = self.epoch + 1, 0

    def begin_step(self, batch: Batch) -> None:
        """Take the next batch, set the learning rate of every group, and forget the gradients."""
        self.batch = batch
        factor = self.schedule(self.progress) * warm_up(self.step, self.warmup * self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
        self.optimizer.zero_grad(set_to_none=True)
        # The closure replays the step's own draws; without methods nobody can ask for one.
        self._streams = snapshot(self.device, self.generator) if self.moments.methods else None

    def forward(self) -> Any:
        """The model's outputs for `batch`, tensors of half precision brought back to float32."""
        if self.batch is None:
            raise TrainingError("state.batch must be set before it can be evaluated. There is none yet.")
        with autocast(self.precision, self.device):
            return widened(call(self.model, self.batch[0]))

    def objective(self) -> tuple[Tensor, Any]:
        """The loss of `batch` with the penalties of the methods (a scalar with a graph), and the model's outputs."""
        outputs = self.forward()
        assert self.batch is not None
        return self.moments.penalty(self, self.loss_function(outputs, self.batch[1])), outputs

    def closure(self) -> Tensor:
        """The objective of the same batch once more, at the weights as they are now; gradients are replaced by its own.

        Nothing else moves: buffers (batch-norm statistics) stay, the random draws (dropout) are those the step itself
        made, and afterwards every stream stands where it stood. Not to be called from `penalty`, which is part of the
        objective.
        """
        with kept_buffers(self.model), kept_streams(self.device, self.generator, start=self._streams):
            self.optimizer.zero_grad(set_to_none=True)
            loss, _ = self.objective()
            loss.backward()
        return loss.detach()

    def replace(
        self, model: nn.Module, *, optimizer: Optimizer | None = None, names: Mapping[str, str] | None = None
    ) -> None:
        """Go on with `model` (a cut copy, say) in place of the present one, which is left alone.

        `optimizer` is one that already moves the new model's parameters, its state cut along. Without it the present
        one keeps the state of parameters whose shape stayed the same under their name, and starts afresh for the
        others; `names` maps names in the new model to names in the old where they differ. Before the optimizer is built
        (in a `setup`) only the model changes.
        """
        model = model.to(self.device)
        if self.channels_last:
            set_layout(model, torch.channels_last)
        if optimizer is not None:
            if missing := missing_parameters(optimizer, model):
                raise InputError(
                    "The 'optimizer' given to replace must move every trainable parameter of the new model. "
                    f"It lacks {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}."
                )
            align_state(optimizer)
            self.optimizer = optimizer
        elif self._optimizer is not None:
            carry_over(self._optimizer, self.model, model, names or {})
        model.train(self.model.training)
        self.model = model
