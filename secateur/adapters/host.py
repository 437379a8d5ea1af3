"""The state of a training whose loop belongs to somebody else: what all hosts have in common.

A host decides about batches, learning rates, precision and logging. What the methods need of it is small: where the
batch at hand goes through the model once more, by how much its gradients are scaled, and where a new model is put.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, LRScheduler, OneCycleLR
from torch.utils.hooks import RemovableHandle

from secateur.errors import CheckpointError, InputError, TrainingError
from secateur.ranks import mean_over_ranks
from secateur.training.batches import each_tensor
from secateur.training.devices import average_gradients
from secateur.training.keeping import kept_buffers
from secateur.training.optimisers import loose_parameters
from secateur.training.state import State
from secateur.training.streams import Streams, derive, kept_streams, snapshot


@dataclass(frozen=True, eq=False)
class Part:
    """One batch of the step at hand; with gradient accumulation a step has several.

    `arguments` is what the host's own step takes, `streams` where the random draws of this batch began.
    """

    batch: Any
    arguments: tuple[Any, ...]
    streams: Streams


class Host(Protocol):
    """What a `HostState` asks of the loop it stands in."""

    @property
    def root(self) -> nn.Module:
        """All that the loop runs; its buffers are kept when a batch is evaluated again."""

    def loss(self, part: Part) -> Tensor:
        """The host's own loss of one batch, a scalar with a graph."""

    def repeat(self, part: Part, state: HostState) -> Tensor:
        """Do again what the host did with this batch: its share of the step's objective, without a graph.

        The gradient of that share, times `scale()`, is added to the parameters'.
        """

    def scale(self) -> float:
        """By how much gradients are scaled at present (mixed precision in float16); 1 where they are not."""

    def check_replaceable(self) -> None:
        """Raise `TrainingError` where the loop cannot go on with another model."""

    def place(self, model: nn.Module) -> None:
        """Let the loop go on with `model`."""


@dataclass(eq=False, kw_only=True)
class HostState(State):
    """A `State` that stands in a host's loop.

    The host sets the learning rate and computes the loss; `batch` is what its loader gave, `batches` those of the step
    so far. `progress` is the share of `total_steps` that is done. `generator` is seeded as in `fit`; the other random
    streams belong to the host.
    """

    host: Host
    total_steps: int
    parts: list[Part] = field(init=False, default_factory=list)

    @property
    def progress(self) -> float:
        """The share of the training that is done, in [0, 1]."""
        return min(1.0, self.step / self.total_steps)

    def draw_from(self, *place: str | int) -> None:
        """Let the methods' generator start from the run's seed and the place."""
        self.generator.manual_seed(derive(self.seed, "methods", *place))

    def begin_part(self, batch: Any, arguments: tuple[Any, ...]) -> Part:
        """Take the next batch of the step at hand."""
        if not self.parts:
            self.draw_from("step", self.epoch, self.position)
            self.loss = None
        part = Part(batch, arguments, snapshot(self.device, self.generator))
        self.parts.append(part)
        self.batch, self.batches = batch, tuple(part.batch for part in self.parts)
        return part

    def forget_parts(self) -> None:
        """The step is over, and nobody may ask for its batches any more."""
        self.parts.clear()
        self.batches = ()

    def watch(self, called: nn.Module, act: Callable[[], None] | None = None) -> RemovableHandle:
        """A hook by which `outputs` are those of the calls of a module, with their graph, until it is removed.

        `act` is done after each call.
        """

        def note(_module: nn.Module, _inputs: Any, outputs: Any) -> None:
            self.outputs = outputs
            if act is not None:
                act()

        return called.register_forward_hook(note)

    def add_penalty(self, share: float) -> Tensor:
        """Add the gradient of the methods' penalties, times `share` and the host's scale, to the parameters'.

        To be called between forward and backward pass, for a penalty may be a function of `outputs`, which lose their
        graph here. Returns the share of the penalties, a scalar without a graph. The gradients are set, not accumulated
        by autograd: the hooks of distributed wrappers see one backward pass a batch, and average both gradients in it.
        """
        with torch.autocast(self.device.type, enabled=False):
            penalty = self.moments.penalty(self, torch.zeros((), device=self.device)) * share
            if penalty.requires_grad:
                parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]
                scaled = penalty * self.host.scale()
                found = torch.autograd.grad(scaled, parameters, retain_graph=True, allow_unused=True)
                for parameter, gradient in zip(parameters, found, strict=True):
                    if gradient is not None:
                        _add_gradient(parameter, gradient)
        self.outputs = each_tensor(Tensor.detach, self.outputs)
        return penalty.detach()

    def add_loss(self, value: Tensor) -> None:
        """Count the share that a batch has in the step's objective."""
        self.loss = value if self.loss is None else self.loss + value

    def let_before_step(self) -> None:
        """`before_step`: gradients are complete and unscaled; what the host has not averaged over ranks is averaged."""
        average_gradients(loose_parameters(self.optimizer, self.host.root))
        if self.loss is not None:
            (self.loss,) = mean_over_ranks([self.loss])
        self.moments("before_step", self)

    def count_step(self) -> None:
        """The optimizer has moved the weights: `after_step`."""
        self.step, self.position = self.step + 1, self.position + 1
        self.moments("after_step", self)

    def objective(self) -> tuple[Tensor, Any]:
        """The host's loss of `batch` with the penalties of the methods (a scalar with a graph), and the outputs."""
        handle = self.watch(self.model)
        try:
            loss = self.host.loss(self._last_part())
        finally:
            handle.remove()
        return self.moments.penalty(self, loss), self.outputs

    def closure(self) -> Tensor:
        """The objective of the step's batches once more, at the weights as they are now.

        Gradients are replaced by its own, unscaled. As in `State.closure`, nothing else moves: neither buffers nor
        random streams, and what is drawn is what was drawn before.
        """
        self._last_part()
        kept = self.batch, self.outputs
        total = torch.zeros((), device=self.device)
        try:
            with kept_buffers(self.host.root):
                self.optimizer.zero_grad(set_to_none=True)
                for part in self.parts:
                    with kept_streams(self.device, self.generator, start=part.streams), torch.enable_grad():
                        self.batch = part.batch
                        total += self.host.repeat(part, self)
        finally:
            self.batch, self.outputs = kept
        self._scale_gradients(1 / self.host.scale())
        average_gradients(loose_parameters(self.optimizer, self.host.root))
        return mean_over_ranks([total])[0]

    @contextmanager
    def unscaled(self) -> Iterator[None]:
        """A block in which gradients have their true size; a host's scale is a power of two, so nothing is rounded."""
        scale = self.host.scale()
        self._scale_gradients(1 / scale)
        yield
        self._scale_gradients(scale)

    def replace(
        self,
        model: nn.Module,
        *,
        optimizer: Optimizer | None = None,
        names: Mapping[str, str] | None = None,
        average: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Go on with `model`, as in `State.replace`; the host keeps its optimizer, whose state is cut along.

        `optimizer` can only be the host's own, after `slim(groups, plan, optimizer=state.optimizer)` made it move the
        new model's parameters. Raises `TrainingError` where the host's loop cannot change its model.
        """
        if optimizer is not None and optimizer is not self._optimizer:
            raise InputError(
                "The 'optimizer' given to replace must be the one that the training loop steps, since the loop and its "
                "learning-rate schedule hold on to it. Use slim(groups, plan, optimizer=state.optimizer) and pass "
                f"state.optimizer. Got another {type(optimizer).__name__} instead."
            )
        self.host.check_replaceable()
        super().replace(model, optimizer=optimizer, names=names, average=average)
        self.host.place(self.model)

    def saved(self) -> dict[str, Any]:
        """What a resumed training needs beside the host's own checkpoint: tensors, numbers, lists and dicts of them."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "position": self.position,
            "methods": self.moments.state_dict(),
            "loose": [p.detach().cpu() for p in loose_parameters(self.optimizer, self.host.root)],
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from `saved`, before the host loads its weights; `restore_loose` does the rest after the optimizer."""
        if len(saved["methods"]) != len(self.moments.methods):
            raise CheckpointError(
                f"The checkpoint must be of a training with the same methods. It holds the state of "
                f"{len(saved['methods'])}, {len(self.moments.methods)} are given."
            )
        self.moments.load_state_dict(saved["methods"])
        self.step, self.epoch, self.position = saved["step"], saved["epoch"], saved["position"]

    @torch.no_grad()
    def restore_loose(self, saved: Mapping[str, Any]) -> None:
        """Give the methods' own parameters, which are in no module, the values they had."""
        for parameter, value in zip(loose_parameters(self.optimizer, self.host.root), saved["loose"], strict=True):
            parameter.copy_(value)

    def _scale_gradients(self, factor: float) -> None:
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        if factor != 1 and gradients:
            torch._foreach_mul_(gradients, factor)

    def _last_part(self) -> Part:
        if not self.parts:
            raise TrainingError(
                "state.closure() and state.objective() need the batch of a step. There is none: no step has begun, or "
                "the training loop does not show its batches (see secateur.adapters.transformers.SecateurTrainer)."
            )
        return self.parts[-1]


def _add_gradient(parameter: Tensor, gradient: Tensor) -> None:
    """Add to the parameter's gradient, which is laid out as the parameter is."""
    if parameter.grad is None:
        parameter.grad = torch.empty_like(parameter, requires_grad=False).copy_(gradient)
    else:
        parameter.grad.add_(gradient)


def join_groups(optimizer: Optimizer, added: Iterable[dict[str, Any]], schedulers: Sequence[Any] = ()) -> None:
    """Let the optimizer move the parameter groups that methods brought, each with its own settings.

    Parameters that the optimizer moves already leave their group. The learning rates of the new groups follow the
    schedulers that exist already, from their own start.
    """
    for group in added:
        brought = {id(parameter) for parameter in group["params"]}
        for present in optimizer.param_groups:
            present["params"] = [p for p in present["params"] if id(p) not in brought]
        optimizer.add_param_group(group)
        for scheduler in schedulers:
            _follow(scheduler, optimizer.param_groups[-1])


def _follow(scheduler: Any, group: dict[str, Any]) -> None:
    if not isinstance(scheduler, LRScheduler) or isinstance(scheduler, OneCycleLR | CyclicLR):
        raise InputError(
            f"A method brings parameters of its own, whose learning rate cannot follow a {type(scheduler).__name__}. "
            "Take a scheduler that multiplies the learning rates there are (LambdaLR, StepLR, CosineAnnealingLR ...)."
        )
    group.setdefault("initial_lr", group["lr"])
    scheduler.base_lrs.append(group["initial_lr"])
    if isinstance(scheduler, LambdaLR):
        scheduler.lr_lambdas.append(scheduler.lr_lambdas[-1])
