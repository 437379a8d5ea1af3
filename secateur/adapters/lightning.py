"""Methods under Lightning: a callback that lets them take part in `Trainer.fit`.

>>> from secateur.adapters.lightning import SecateurCallback
>>> trainer = Trainer(max_epochs=10, callbacks=[SecateurCallback([method])])
>>> trainer.fit(module, loader)

The moments stand where `fit` has them: `setup` before the optimizer is built, `before_step` when gradients are
complete, unscaled and not yet clipped, `after_step` right after the optimizer, `epoch_end` before the validation and
the checkpoints of that epoch. A penalty cannot be added to the loss that `training_step` returns, so it enters as its
gradient: with gradient accumulation its share for every batch, as if `training_step` had returned the sum.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchmetrics import Metric

from secateur.adapters.host import HostState, Part, join_groups
from secateur.errors import InputError, TrainingError
from secateur.training.batches import each_tensor
from secateur.training.moments import Moments

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    try:  # the package that the caller's own module came from
        if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
            from pytorch_lightning import Callback
        else:
            from lightning.pytorch import Callback
    except ImportError as error:
        raise InputError(
            "secateur.adapters.lightning needs Lightning, which is not installed. pip install 'secateur[lightning]'."
        ) from error


class SecateurCallback(Callback):
    """The methods' part in a Lightning training; `state` is the `State` they see, also after the training.

    `model` names the attribute of the LightningModule that holds the network, dotted where it lies deeper. Left out, it
    is the only submodule with parameters, or the LightningModule itself, in which case the model cannot be replaced.
    `seed` decides `state.generator`. What the methods did is part of Lightning's checkpoints. A network that was cut in
    training is `callback.state.model`, and stands in its attribute of the LightningModule.

    One optimizer, automatic optimization, and strategies that keep whole parameters (one device, DDP) are needed;
    `state.replace` needs one device once training runs.
    """

    def __init__(self, methods: Sequence[Any], *, model: str | None = None, seed: int = 0) -> None:
        self.moments = Moments(methods)
        self.state: HostState | None = None
        self._model = model
        self._seed = seed
        self._added: list[dict[str, Any]] = []
        self._saved: Mapping[str, Any] | None = None
        self._undo: list[Any] = []
        self._watch: RemovableHandle | None = None
        self._open = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stand by for the two places where Lightning has no hook for callbacks: see `_borrow`."""
        if stage != "fit":
            return
        _check(trainer, pl_module)
        self._release()
        self.state = self._saved = None
        configure, load = pl_module.configure_model, pl_module.on_load_checkpoint

        def configure_model() -> None:
            configure()
            self._begin(trainer, pl_module)

        def on_load_checkpoint(checkpoint: dict[str, Any]) -> None:
            self._saved = checkpoint.get("callbacks", {}).get(self.state_key)
            if self._saved is not None:
                self._here.restore(self._saved)
            load(checkpoint)

        self._borrow(pl_module, configure_model, on_load_checkpoint)

    def on_fit_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """The optimizer is built; its state is not loaded yet."""
        if len(trainer.optimizers) != 1:
            raise InputError(
                "SecateurCallback needs one optimizer from configure_optimizers. "
                f"Got {len(trainer.optimizers)} instead."
            )
        state, optimizer = self._here, trainer.optimizers[0]
        join_groups(optimizer, self._added, [config.scheduler for config in trainer.lr_scheduler_configs])
        state.optimizer = optimizer
        if self._saved is not None:
            state.restore_loose(self._saved)
        handle = optimizer.register_step_post_hook(lambda *_: state.count_step())
        self._undo.append(handle.remove)

    def on_train_epoch_start(self, *_: Any, **__: Any) -> None:
        """An epoch that `epoch_end` will close."""
        self._open = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the batch and where its random draws begin."""
        state = self._here
        if batch_idx % trainer.accumulate_grad_batches == 0:
            state.forget_parts()
        wants_index = len(inspect.signature(pl_module.training_step).parameters) > 1
        state.begin_part(batch, (batch, batch_idx) if wants_index else (batch,))
        self._watch = state.watch(state.model)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:  # noqa: ARG002
        """`penalty`, as its gradient."""
        state = self._here
        self._stop_watching()
        penalty = state.add_penalty(1 / trainer.accumulate_grad_batches)
        state.add_loss(loss.detach() / state.host.scale() + penalty)

    def on_before_optimizer_step(self, *_: Any, **__: Any) -> None:
        """`before_step`; the accumulated gradients are there, unscaled and not clipped."""
        self._here.let_before_step()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,
    ) -> None:
        """`epoch_end` after the last batch: what follows are validation and checkpoints."""
        self._stop_watching()
        if trainer.is_last_batch or batch_idx + 1 >= trainer.num_training_batches:
            self._end_epoch()

    def on_train_epoch_end(self, *_: Any, **__: Any) -> None:
        """`epoch_end` of an epoch that was broken off."""
        self._end_epoch()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """`finish`, before the last checkpoint."""
        self._here.draw_from("finish")
        self.moments("finish", self._here)

    def teardown(self, *_: Any, **__: Any) -> None:
        """Leave module and optimizer as if the callback had never been there."""
        self._release()

    def on_exception(self, *_: Any, **__: Any) -> None:
        """The same, after a failure."""
        self._release()

    def state_dict(self) -> dict[str, Any]:
        """The state of the methods and where the training stands. It comes back before the weights are loaded."""
        return {} if self.state is None else self.state.saved()

    @property
    def _here(self) -> HostState:
        if self.state is None:
            raise TrainingError("SecateurCallback must be given to the Trainer before fit starts. It has no state yet.")
        return self.state

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """`setup`: the module is complete; neither wrappers nor optimizer are there."""
        pl_module.to(trainer.strategy.root_device)
        loop = _Loop(trainer, pl_module, network_name(pl_module) if self._model is None else self._model)
        epochs, steps, total = _lengths(trainer)
        self.state = HostState(
            model=loop.network(),
            epochs=epochs,
            steps_per_epoch=steps,
            total_steps=total,
            moments=self.moments,
            seed=self._seed,
            host=loop,
        )
        self._added = self.moments.setup(self.state)

    def _end_epoch(self) -> None:
        if self._open:
            self._open = False
            self._here.end_epoch()
            self.moments("epoch_end", self._here)

    def _borrow(self, pl_module: LightningModule, *functions: Any) -> None:
        """Put functions in front of the module's own of the same name until `_release`.

        `configure_model` is the one moment at which the module is complete and not yet wrapped, loaded or moved, and
        `on_load_checkpoint` the only one at which a checkpoint is known and its weights are not loaded yet: a method
        that had cut the model must cut it again in between. Callbacks are told of neither.
        """
        for function in functions:
            name = function.__name__
            setattr(pl_module, name, function)
            self._undo.append(lambda name=name: vars(pl_module).pop(name, None))

    def _release(self) -> None:
        self._stop_watching()
        while self._undo:
            self._undo.pop()()
        if self.state is not None:
            self.state.forget_parts()

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.remove()
            self._watch = None


class _Loop:
    """Lightning's training loop as a `Host`."""

    def __init__(self, trainer: Trainer, module: LightningModule, path: str) -> None:
        self.trainer, self.root, self.path = trainer, module, path

    def network(self) -> nn.Module:
        """The network inside the LightningModule."""
        try:
            return self.root.get_submodule(self.path)
        except AttributeError as error:
            known = ", ".join(name for name, _ in self.root.named_children())
            raise InputError(
                f"The 'model' of SecateurCallback must name a submodule of {type(self.root).__name__} that exists when "
                f"training starts. Got {self.path!r} instead; there are {known}."
            ) from error

    def loss(self, part: Part) -> Tensor:
        """What `training_step` returns for the batch; nothing is logged and no metric counts it."""
        with _unheard(self.root):
            output = self.trainer.strategy.training_step(*part.arguments)
        loss = output["loss"] if isinstance(output, Mapping) else output
        return torch.zeros((), device=self.root.device, requires_grad=True) if loss is None else loss

    def repeat(self, part: Part, state: HostState) -> Tensor:
        """`training_step` and the backward pass of the batch, with the penalties."""
        share = 1 / self.trainer.accumulate_grad_batches
        watch = state.watch(state.model)
        try:
            loss = self.loss(part) * share
        finally:
            watch.remove()
        penalty = state.add_penalty(share)
        self.root.backward(loss * self.scale())
        return loss.detach() + penalty

    def scale(self) -> float:
        """The scale of float16 gradients."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return 1.0 if scaler is None else float(scaler.get_scale())

    def check_replaceable(self) -> None:
        """The network must be an attribute, and not inside a wrapper."""
        if not self.path:
            raise TrainingError(
                f"state.replace cannot exchange a whole LightningModule ({type(self.root).__name__}). Make the network "
                "one of its attributes, and name it: SecateurCallback(methods, model='net')."
            )
        if self.trainer.strategy.model is not self.root:
            raise TrainingError(
                f"state.replace cannot exchange the network inside {type(self.trainer.strategy.model).__name__}: the "
                "wrapper holds the old parameters. Cut on one device, or before training, in a method's setup."
            )

    def place(self, model: nn.Module) -> None:
        """Put the network into its attribute."""
        parent, _, name = self.path.rpartition(".")
        setattr(self.root.get_submodule(parent), name, model)


def network_name(module: nn.Module) -> str:
    """The name of the only submodule with parameters; "", the module itself, where there is no such."""
    names = [name for name, child in module.named_children() if any(True for _ in child.parameters())]
    own = any(True for _ in module.parameters(recurse=False))
    return names[0] if len(names) == 1 and not own else ""


def _check(trainer: Trainer, module: LightningModule) -> None:
    """Raise `InputError` for a training that methods cannot take part in."""
    if not module.automatic_optimization:
        raise InputError(
            f"SecateurCallback needs automatic optimization; {type(module).__name__} sets automatic_optimization to "
            "False. Call the moments in training_step instead, as in a loop of your own (secateur.training.State)."
        )
    if trainer.strategy.restore_checkpoint_after_setup or trainer.strategy.handles_gradient_accumulation:
        raise InputError(
            f"SecateurCallback needs a strategy that keeps whole parameters, on one device or with DDP. "
            f"Got {type(trainer.strategy).__name__} instead."
        )


def _lengths(trainer: Trainer) -> tuple[int, int, int]:
    """Epochs, optimizer steps an epoch, and steps in all."""
    total = trainer.estimated_stepping_batches
    if not 0 < total < math.inf:
        raise InputError(
            "A training with methods must have an end, for their schedules. Give the Trainer max_epochs or max_steps. "
            f"Its number of steps is {total}."
        )
    batches = trainer.num_training_batches
    steps = math.ceil(batches / trainer.accumulate_grad_batches) if batches < math.inf else int(total)
    return math.ceil(total / steps), steps, int(total)


@contextmanager
def _unheard(module: LightningModule) -> Iterator[None]:
    """A block in which `self.log` says nothing, and after which no metric has counted what happened in it."""
    metrics = [inner for inner in module.modules() if isinstance(inner, Metric)]
    before = [vars(metric) | each_tensor(_copy, metric.metric_state) for metric in metrics]
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.log
        for metric, attributes in zip(metrics, before, strict=True):
            vars(metric).update(attributes)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()
