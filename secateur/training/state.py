"""State: what the methods see of a running training, and the two things they may ask of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from secateur.errors import InputError, TrainingError
from secateur.ranks import mean_over_ranks, world
from secateur.schedule import Schedule, constant
from secateur.training.average import Average
from secateur.training.batches import Batch, call, count, device_of
from secateur.training.devices import average_gradients
from secateur.training.keeping import kept_buffers
from secateur.training.moments import Moments
from secateur.training.optimisers import align_state, carry_over, loose_parameters, missing_parameters
from secateur.training.precision import Precision, autocast, gradient_scaler, set_layout, widened
from secateur.training.schedules import warm_up
from secateur.training.streams import derive, kept_streams, seed_streams

Loss = Callable[[Any, Any], Tensor]


@dataclass(eq=False)
class State:
    """A training between two steps: the model, the optimizer, where it stands, and the batch at hand.

    `step` counts steps done since the start, `epoch` epochs done, `position` steps done in this epoch. `loss` is the
    last step's objective (penalties included) and `outputs` the model's last outputs, both without a graph; while
    penalties are asked for, `outputs` are those of the batch at hand, with the graph that the loss has. Where gradients
    are accumulated a step has several `batches`, `batch` being the one at hand. `average` is the moving average of the
    weights, if there is one. `generator` is a CPU generator for the methods' own draws, seeded anew each step from
    `seed`, alike on all ranks. `wrap` makes of the state's model the module that a step calls, compiled or on many
    devices; `model` itself is never wrapped, but where it is `sharded` its parameters are. A loop of one's own makes a
    State by hand, sets `batch`, calls `objective`, and the moments around it:

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
    wrap: Callable[[State], nn.Module] | None = None
    sharded: bool = False
    step: int = 0
    epoch: int = 0
    position: int = 0
    batch: Batch | None = None
    batches: tuple[Batch, ...] = ()
    loss: Tensor | None = None
    outputs: Any = None
    average: Average | None = None
    device: torch.device = field(init=False)
    generator: torch.Generator = field(init=False, default_factory=lambda: torch.Generator("cpu"))
    scaler: GradScaler | None = field(init=False)
    _optimizer: Optimizer | None = field(init=False, default=None)
    rank: int = field(init=False)
    ranks: int = field(init=False)
    _called: nn.Module | None = field(init=False, default=None)
    _share: float = field(init=False, default=1.0)
    _unscaled: bool = field(init=False, default=False)
    _place: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.device = device_of(self.model)
        self.rank, self.ranks = world()
        self.scaler = gradient_scaler(self.precision, self.device)
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

    def draw_from(self, *place: str | int) -> None:
        """Let all random streams start from the run's seed and the place, so that none has to be stored.

        What the model draws (dropout) differs from rank to rank, as its batches do; what methods draw from `generator`
        does not, nor what decides on the order of batches.
        """
        own = (self.rank,) if self.rank else ()
        seed_streams(derive(self.seed, *place, *own), self.device)
        self.generator.manual_seed(derive(self.seed, "methods", *place))

    def begin_epoch(self) -> None:
        """Start of an epoch, or of what is left of one: training mode, and the epoch's own random streams."""
        self.model.train()
        self.draw_from("epoch", self.epoch)

    def before_batches(self, position: int) -> None:
        """The random streams of one step of the epoch, for what fetches its batches: all ranks see one order."""
        seed_streams(derive(self.seed, "batches", self.epoch, position), self.device)

    def end_epoch(self) -> None:
        """Count the epoch; what its methods see next is its end."""
        self.epoch, self.position = self.epoch + 1, 0
        self.draw_from("end", self.epoch)

    def begin_step(self, *batches: Batch) -> None:
        """Take the next batches, set the learning rate of every group, forget the gradients; the step's own draws."""
        self.batches, self.batch, self.loss, self._unscaled = batches, batches[0], None, False
        self._place = self.position
        factor = self.schedule(self.progress) * warm_up(self.step, self.warmup * self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
        self._forget_gradients()
        self.draw_from("step", self.epoch, self._place)

    def _forget_gradients(self) -> None:
        """As the optimizer's zero_grad does, without the profiling around it."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def each_batch(self) -> Iterator[Batch]:
        """The batches of the step in turn, each set as `batch` while its objective is evaluated.

        They weigh as many as they hold samples. Gradients are averaged over ranks with the last of them; when all are
        done, so are the loss and the gradients of the methods' own parameters, and "fp16" gradients are unscaled.
        """
        batches = self.batches or (() if self.batch is None else (self.batch,))
        samples = [count(inputs) for inputs, _ in batches] if len(batches) > 1 else [1]
        for number, batch in enumerate(batches, start=1):
            self.batch, self._share = batch, samples[number - 1] / sum(samples)
            with getattr(self._called, "no_sync", nullcontext)() if number < len(batches) else nullcontext():
                yield batch
        if self.ranks > 1 and self.loss is not None:
            own = [p for group in self.optimizer.param_groups for p in group["params"]]
            average_gradients(own if self.wrap is None else loose_parameters(self.optimizer, self.model))
            (self.loss,) = mean_over_ranks([self.loss])
        self._unscale()

    def forward(self) -> Any:
        """The model's outputs for `batch`, tensors of half precision brought back to float32."""
        if self.batch is None:
            raise TrainingError("state.batch must be set before it can be evaluated. There is none yet.")
        if self._called is None:
            self._called = self.model if self.wrap is None else self.wrap(self)
        return self.run(self._called, self.batch[0])

    def run(self, model: nn.Module, inputs: Any) -> Any:
        """The outputs of a model for inputs, in this training's number format."""
        with autocast(self.precision, self.device):
            return widened(call(model, inputs))

    def objective(self) -> tuple[Tensor, Any]:
        """The loss of `batch` with the penalties of the methods (a scalar with a graph), and the model's outputs."""
        self.outputs = outputs = self.forward()
        assert self.batch is not None
        return self.moments.penalty(self, self.loss_function(outputs, self.batch[1])), outputs

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of an objective of `batch` to those of the step, and its value to `loss`."""
        loss = loss if self._share == 1 else loss * self._share
        value = loss.detach()
        self.loss = value if self.loss is None else self.loss + value
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def optimizer_step(self) -> None:
        """Move the weights; with "fp16" not by gradients that overflowed, and the next ones are scaled less then."""
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def _unscale(self) -> None:
        """Divide "fp16" gradients by their scale; only the first division of a step looks out for overflow."""
        if self.scaler is None:
            return
        if not self._unscaled:
            self.scaler.unscale_(self.optimizer)
            self._unscaled = True
            return
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        torch._foreach_div_(gradients, self.scaler.scale(torch.ones((), device=self.device)))

    def closure(self) -> Tensor:
        """The objective of the step's batches once more, at the weights as they are now; gradients become its own.

        Nothing else moves: buffers (batch-norm statistics) stay, the random draws (dropout) are those the step itself
        made, and afterwards every stream stands where it stood. Not to be called from `penalty`, which is part of the
        objective. On several ranks all must call it; value and gradients are means over them.
        """
        if self.batch is None:
            raise TrainingError("state.batch must be set before it can be evaluated. There is none yet.")
        (kept, outputs), self.loss = (self.loss, self.outputs), None
        try:
            with kept_buffers(self.model), kept_streams(self.device, self.generator):
                self.draw_from("step", self.epoch, self._place)
                self._forget_gradients()
                for _ in self.each_batch():
                    self.backward(self.objective()[0])
            assert self.loss is not None
            return self.loss
        finally:
            self.loss, self.outputs = kept, outputs

    def add_penalty_gradients(self) -> None:
        """Add the gradients of the methods' penalties to those that are there: for a loop that owns its loss.

        To be called between that loop's backward pass (gradients complete, averaged and unscaled) and its step, with
        `batch` set. On several ranks the means over them are added.
        """
        penalty = self.moments.penalty(self, torch.zeros((), device=self.device))
        if not penalty.requires_grad:
            return
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]
        found = torch.autograd.grad(penalty, parameters, retain_graph=True, allow_unused=True)
        reached = [(p, gradient) for p, gradient in zip(parameters, found, strict=True) if gradient is not None]
        means = mean_over_ranks(gradient for _, gradient in reached)
        for (parameter, _), gradient in zip(reached, means, strict=True):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.add_(gradient)

    def replace(
        self,
        model: nn.Module,
        *,
        optimizer: Optimizer | None = None,
        names: Mapping[str, str] | None = None,
        average: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Go on with `model` (a cut copy, say) in place of the present one, which is left alone.

        `optimizer` is one that already moves the new model's parameters, its state cut along. Without it the present
        one keeps the state of parameters whose shape stayed the same under their name, and starts afresh for the
        others; `names` maps names in the new model to names in the old where they differ. `average` is the moving
        average of the weights, cut along, by names in the new model; what it lacks is kept or starts afresh by the same
        rule. Wrappers (compiled, many devices) are made anew. Before the optimizer is built (in a `setup`) only the
        model changes.
        """
        if self.sharded:
            raise TrainingError("A model whose weights are sharded (FSDP) cannot be replaced. Start without FSDP.")
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
        if self.average is not None:
            self.average.follow(model, names, average)
        model.train(self.model.training)
        self.model, self._called = model, None
