"""Methods under the Trainer of Transformers: a callback, and a trainer that shows it what callbacks do not see.

>>> from secateur.adapters.transformers import SecateurCallback, SecateurTrainer
>>> trainer = SecateurTrainer(model, arguments, train_dataset=texts, callbacks=[SecateurCallback([method])])
>>> trainer.train()

A callback alone, in any `Trainer`, serves methods that act after the optimizer's step: masks, decay, removal. The
Trainer shows its callbacks neither the batch nor gradients before they are clipped, and lets none of them change the
model or the optimizer. Whatever needs those, `closure`, `replace`, parameters of a method's own, a penalty or
`before_step` under clipping, needs `SecateurTrainer`, or `SecateurMixin` in front of a trainer class of one's own:

>>> class MyTrainer(SecateurMixin, SFTTrainer): ...

A penalty enters as its gradient: with gradient accumulation its share for every batch. Without `SecateurTrainer` it can
depend on the weights alone, since the Trainer has no hook for callbacks between forward and backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.adapters.host import HostState, Part, join_groups
from secateur.errors import CheckpointError, InputError, TrainingError
from secateur.training.moments import Moments
from secateur.training.tree import read_tree, write_tree

try:
    from transformers import Trainer, TrainerCallback
except ImportError as error:
    raise InputError(
        "secateur.adapters.transformers needs Transformers, which is not installed. "
        "pip install 'secateur[transformers]'."
    ) from error

if TYPE_CHECKING:
    from transformers import TrainerState, TrainingArguments

    _Mixed = Trainer  # what the mixin stands in front of
else:
    _Mixed = object

FILE = "secateur.safetensors"
KIND = "secateur methods 1"


class SecateurCallback(TrainerCallback):
    """The methods' part in a Transformers training; `state` is the `State` they see, also after the training.

    `state.batch` is (inputs, labels) as the model takes them; without `SecateurTrainer` there is none. `seed` decides
    `state.generator`. The methods' state is written beside each of the Trainer's checkpoints, as
    `secateur.safetensors`, and read from there on resuming. Sharded parameters (DeepSpeed, FSDP) are refused.
    """

    def __init__(self, methods: Sequence[Any], *, seed: int = 0) -> None:
        self.moments = Moments(methods)
        self.state: HostState | None = None
        self._seed = seed
        self._served = False
        self._open = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **given: Any) -> None:
        """`setup`, unless `SecateurTrainer` had it happen before the optimizer was built."""
        if self._served:
            return
        _check(args)
        self._check_clipping(args)
        groups = self.begin(_Bare(given["model"]), args, state, given["train_dataloader"])
        if groups:
            raise InputError(
                "A method brings parameters of its own, which a callback cannot give to the Trainer's optimizer. "
                "Take secateur.adapters.transformers.SecateurTrainer instead of Trainer."
            )
        self.here.optimizer = _innermost(given["optimizer"])
        if state.global_step > 0:
            self.here.restore(_read(_folder(args, state.global_step)))

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """An epoch that `epoch_end` will close."""
        self._open = True

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Forget the last step, and its gradients: the Trainer zeroes only those of the model it began with."""
        self.here.forget_parts()
        self.here.optimizer.zero_grad(set_to_none=True)

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """`penalty` and `before_step`, where no `SecateurTrainer` has let them act before the clipping."""
        if not self._served:
            self.here.draw_from("step", self.here.epoch, self.here.position)
            self.here.add_penalty_gradients()
            self.here.let_before_step()

    def on_optimizer_step(self, *_: Any, **given: Any) -> None:
        """`after_step`, unless infinite float16 gradients kept the optimizer from moving anything."""
        if not getattr(given["optimizer"], "step_was_skipped", False):
            self.here.count_step()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **given: Any) -> None:
        """`epoch_end` after the last step: what follows are evaluation and checkpoint."""
        if state.global_step % _steps(args, state, given["train_dataloader"]) == 0:
            self._end_epoch()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """`epoch_end` of an epoch that was broken off."""
        self._end_epoch()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """`finish`; what `save_model` writes afterwards is as the methods left it."""
        self.here.draw_from("finish")
        self.moments("finish", self.here)
        self.here.forget_parts()

    def on_save(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Write the methods' state into the checkpoint's folder."""
        if args.should_save:
            write_tree(_folder(args, state.global_step) / FILE, self.here.saved(), KIND)

    @property
    def here(self) -> HostState:
        """The state. Raises `TrainingError` before there is one."""
        if self.state is None:
            raise TrainingError("SecateurCallback has no state yet. It must be given to the trainer before train().")
        return self.state

    def begin(
        self, host: _Bare, args: TrainingArguments, state: TrainerState, loader: Any, *, served: bool = False
    ) -> list[dict[str, Any]]:
        """`setup`; the parameter groups that the methods bring."""
        self._served = served
        steps = _steps(args, state, loader)
        self.state = HostState(
            model=host.root,
            epochs=math.ceil(state.max_steps / steps),
            steps_per_epoch=steps,
            total_steps=state.max_steps,
            moments=self.moments,
            seed=self._seed,
            host=host,
        )
        return self.moments.setup(self.state)

    def _end_epoch(self) -> None:
        if self._open:
            self._open = False
            self.here.end_epoch()
            self.moments("epoch_end", self.here)

    def _check_clipping(self, args: TrainingArguments) -> None:
        needing = [
            f"{type(method).__name__}.{moment}"
            for method in self.moments.methods
            for moment in ("penalty", "before_step")
            if hasattr(method, moment)
        ]
        if needing and args.max_grad_norm:
            raise InputError(
                f"{needing[0]} needs gradients before they are clipped, and the Trainer clips them before it tells its "
                f"callbacks. Take secateur.adapters.transformers.SecateurTrainer instead of Trainer, or set "
                f"max_grad_norm=0 (it is {args.max_grad_norm})."
            )


class SecateurMixin(_Mixed):
    """What `SecateurCallback` needs of a Trainer and its callbacks are not told; stands first among the base classes.

    Without a `SecateurCallback` among the callbacks it changes nothing.
    """

    _secateur_loader: Any = None
    _secateur_resume: str | None = None

    @property
    def secateur(self) -> SecateurCallback | None:
        """The callback that this trainer was given."""
        return next((c for c in self.callback_handler.callbacks if isinstance(c, SecateurCallback)), None)

    def get_train_dataloader(self) -> Any:
        """The Trainer's loader; its length is wanted before callbacks see it."""
        self._secateur_loader = super().get_train_dataloader()
        return self._secateur_loader

    def create_optimizer(self, model: nn.Module | None = None) -> Any:
        """The Trainer's optimizer, built after `setup`; on resuming, weights are loaded between the two."""
        callback, saved = self.secateur, None
        if callback is None:
            return super().create_optimizer(model)
        _check(self.args)
        groups = callback.begin(_Loop(self), self.args, self.state, self._secateur_loader, served=True)
        if self._secateur_resume is not None:
            saved = _read(Path(self._secateur_resume))
            callback.here.restore(saved)
            super()._load_from_checkpoint(self._secateur_resume)
            self._secateur_resume = None
        super().create_optimizer(None if model is None else self.model)
        callback.here.optimizer = _innermost(self.optimizer)
        join_groups(callback.here.optimizer, groups)
        if saved is not None:
            callback.here.restore_loose(saved)
        return self.optimizer

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """The Trainer's step with the penalties, followed by `before_step` once the gradients are complete."""
        callback = self.secateur
        if callback is None:
            plain: Tensor = super().training_step(model, inputs, num_items_in_batch)
            return plain
        state = callback.here
        inputs = self._prepare_inputs(inputs)
        part = state.begin_part((inputs, inputs.get("labels")), (inputs, num_items_in_batch))
        loss, penalties = self.secateur_step(part, state)
        state.add_loss(loss + penalties)
        if self.accelerator.sync_gradients:
            with state.unscaled():
                state.let_before_step()
        return loss

    def secateur_step(self, part: Part, state: HostState) -> tuple[Tensor, Tensor]:
        """One batch forward and backward, as the Trainer does it: what it adds to the step's loss and penalties.

        The penalties act between the two, when the model has been called for the first time.
        """
        penalties: list[Tensor] = []

        def act() -> None:
            watch.remove()
            penalties.append(state.add_penalty(1.0 / int(self.current_gradient_accumulation_steps)))

        watch = state.watch(self.model_wrapped, act)
        try:
            loss: Tensor = super().training_step(self.model_wrapped, *part.arguments)
        finally:
            watch.remove()
        return loss, penalties[0]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load weights; when a training starts, not before a method that had cut the model has cut it again."""
        if model is None and self.secateur is not None and self.is_in_train:
            self._secateur_resume = resume_from_checkpoint
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _clip_grad_norm(self, model: nn.Module) -> Any:  # noqa: ARG002
        """Clip the gradients of the present model; the Trainer's loop holds on to the first."""
        return super()._clip_grad_norm(self.model_wrapped)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:  # noqa: ARG002
        """The norm for the log, of the present model."""
        return super()._get_grad_norm(self.model_wrapped, grad_norm=grad_norm)


class SecateurTrainer(SecateurMixin, Trainer):
    """The Trainer of Transformers, ready for every method; give it a `SecateurCallback`."""


class _Bare:
    """The loop of a plain Trainer as a `Host`: what a callback sees of it, which is the model."""

    def __init__(self, model: nn.Module) -> None:
        self.root = model

    def loss(self, part: Part) -> Tensor:  # noqa: ARG002 - as the subclass has it
        """Refused: callbacks are not shown batches."""
        raise _not_seen("state.objective")

    def repeat(self, part: Part, state: HostState) -> Tensor:  # noqa: ARG002
        """Refused, for the same reason."""
        raise _not_seen("state.closure")

    def scale(self) -> float:
        """1: the Trainer has unscaled the gradients when it tells its callbacks."""
        return 1.0

    def check_replaceable(self) -> None:
        """Refused: the Trainer's loop holds on to its model."""
        raise _not_seen("state.replace")

    def place(self, model: nn.Module) -> None:  # noqa: ARG002
        """Refused, for the same reason."""
        raise _not_seen("state.replace")


class _Loop(_Bare):
    """The loop of a `SecateurTrainer` as a `Host`."""

    def __init__(self, trainer: Any) -> None:
        super().__init__(trainer.model)
        self.trainer = trainer

    def loss(self, part: Part) -> Tensor:
        """What `compute_loss` gives for the batch."""
        inputs, items = part.arguments
        with self.trainer.compute_loss_context_manager():
            loss = self.trainer.compute_loss(self.trainer.model_wrapped, inputs, num_items_in_batch=items)
        found: Tensor = loss
        return found

    def repeat(self, part: Part, state: HostState) -> Tensor:
        """The Trainer's own step for the batch, with the penalties."""
        loss, penalties = self.trainer.secateur_step(part, state)
        total: Tensor = loss + penalties
        return total

    def scale(self) -> float:
        """The scale of float16 gradients."""
        scaler = getattr(self.trainer.accelerator, "scaler", None)
        return 1.0 if scaler is None else float(scaler.get_scale())

    def check_replaceable(self) -> None:
        """The model must not be inside a wrapper."""
        trainer = self.trainer
        if trainer.model_wrapped is not trainer.model:
            raise TrainingError(
                f"state.replace cannot exchange the model inside {type(trainer.model_wrapped).__name__}: the wrapper "
                "holds the old parameters. Cut on one device and without torch_compile, or before training."
            )
        if not hasattr(Trainer, "_clip_grad_norm"):
            raise TrainingError("state.replace needs Transformers 5: earlier trainers go on clipping the old model.")

    def place(self, model: nn.Module) -> None:
        """Let the trainer, its callbacks and its accelerator go on with the model."""
        trainer = self.trainer
        models = trainer.accelerator._models
        models[:] = [model if known is self.root else known for known in models]
        self.root = trainer.model = trainer.model_wrapped = trainer.callback_handler.model = model


def _not_seen(what: str) -> TrainingError:
    return TrainingError(
        f"{what} needs what the Trainer does not show its callbacks. "
        "Take secateur.adapters.transformers.SecateurTrainer instead of Trainer."
    )


def _check(args: TrainingArguments) -> None:
    """Raise `InputError` for a training that methods cannot take part in."""
    if args.deepspeed or args.fsdp:
        raise InputError(
            "SecateurCallback needs whole parameters, on one device or with DDP. The arguments ask for "
            f"{'DeepSpeed' if args.deepspeed else 'FSDP'}."
        )


def _steps(args: TrainingArguments, state: TrainerState, loader: Any) -> int:
    """Optimizer steps of one epoch; all of them where the loader does not know its length."""
    try:
        batches = len(loader)
    except TypeError:
        return state.max_steps
    return max(1, math.ceil(batches / args.gradient_accumulation_steps))


def _innermost(optimizer: Any) -> Optimizer:
    """The torch optimizer inside Accelerate's wrappers."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    found: Optimizer = optimizer
    return found


def _folder(args: TrainingArguments, step: int) -> Path:
    """Where the Trainer keeps the checkpoint of a step."""
    return Path(str(args.output_dir)) / f"checkpoint-{step}"


def _read(folder: Path) -> Mapping[str, Any]:
    """The methods' state in a checkpoint's folder."""
    if not (folder / FILE).exists():
        raise CheckpointError(
            f"The checkpoint {folder} has no {FILE}: it was written by a training without SecateurCallback, or lies "
            "elsewhere. Resume without the callback, or from the folder that the training wrote."
        )
    saved: Mapping[str, Any] = read_tree(folder / FILE, KIND)
    return saved
