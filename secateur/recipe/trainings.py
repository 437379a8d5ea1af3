"""The trainings of a recipe: parameters of `fit` and its optimizer, distillation, adversarial inputs, rewinding."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from torch.optim import Optimizer

from secateur.errors import InputError
from secateur.recipe.choices import OPTIMIZERS, PREPARING, SET_BY_KEYS, parameters, require_known, require_options
from secateur.recipe.parts import Part, default
from secateur.training.adversarial import Adversarial
from secateur.training.distillation import Distillation
from secateur.training.settings import Training

_SGD: Mapping[str, Any] = default(Training, "optimizer").keywords


class TrainingPart(Part):
    """A training: parameters of `fit` and of its optimizer."""

    epochs: int = Field(default=0, ge=0)
    """Passes over the training data; 0: no training."""
    optimizer: str = "sgd"
    """sgd, adam, adamw, rmsprop, stochgradadam, stochgradadamw, sampledsgd or sampledadamw."""
    lr: float = Field(default=_SGD["lr"], gt=0)
    """Learning rate, which the schedule multiplies."""
    momentum: float = Field(default=_SGD["momentum"], ge=0, lt=1)
    """Of optimizers that have it."""
    nesterov: bool = False
    """Of optimizers that have it."""
    weight_decay: float = Field(default=_SGD["weight_decay"], ge=0)
    """Of the optimizer."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further parameters of the optimizer, such as betas."""
    schedule: str = default(Training, "schedule")
    """cosine, step or constant."""
    milestones: tuple[float, ...] = default(Training, "milestones")
    """Of step: shares of the training at which the learning rate is multiplied by gamma."""
    gamma: float = default(Training, "gamma")
    """Of step."""
    warmup: float = default(Training, "warmup")
    """Epochs of a linear ramp of the learning rate."""
    label_smoothing: float = default(Training, "label_smoothing")
    """Of the cross-entropy, in [0, 1)."""
    accumulate: int = default(Training, "accumulate")
    """Batches whose gradients are averaged for one step."""
    clip: float | None = default(Training, "clip")
    """The largest norm of the gradient; null for no limit."""
    decay_norm: bool = default(Training, "decay_norm")
    """false keeps weight decay off biases and norm weights."""
    ema: float | None = default(Training, "ema")
    """Decay of a moving average of the weights, which is then the result; null for none."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = default(Training, "precision")
    """fp32, bf16, fp16, or auto: bf16 where the device has it in hardware."""
    channels_last: bool | Literal["auto"] = default(Training, "channels_last")
    """Memory layout of images; auto: for networks with two-dimensional convolutions."""
    compile: bool | Literal["auto"] = default(Training, "compile")
    """Run the model through torch.compile."""
    checkpoint_minutes: float | None = default(Training, "checkpoint_minutes")
    """Checkpoints within epochs too, whenever so many minutes have passed; null: after epochs alone."""
    trackers: tuple[str, ...] = default(Training, "trackers")
    """tensorboard, wandb, mlflow: where curves go beside the report."""

    @field_validator("optimizer")
    @classmethod
    def _known(cls, value: str) -> str:
        return require_known(value, OPTIMIZERS)

    @model_validator(mode="after")
    def _accepted_by_fit(self) -> TrainingPart:
        require_options(self.optimizer, OPTIMIZERS[self.optimizer], self.options, SET_BY_KEYS)
        if self.epochs:
            self.settings(checkpoint=Path(), log=Path())
        return self

    def settings(self, **more: Any) -> Training:
        """What `fit` takes; `more` are its fields that a recipe does not have."""
        own = ("optimizer", "lr", "momentum", "nesterov", "weight_decay", "options")
        fields = {name: getattr(self, name) for name in TrainingPart.model_fields if name not in own}
        return Training(optimizer=self._optimizer(), **fields, **more)

    def _optimizer(self) -> partial[Optimizer]:
        kind = OPTIMIZERS[self.optimizer]
        given = {name: getattr(self, name) for name in SET_BY_KEYS if name in parameters(kind) and hasattr(self, name)}
        return partial(kind, **given, **self.options)


class DenseTrainingPart(TrainingPart):
    """The training of the dense model."""

    prepare: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """What makes the network prunable meanwhile: sam, cram, var, hoyer, p_norm_decay, powerprop or factorised, each
    with its options, as in {cram: {rho: 0.2}}."""

    @field_validator("prepare")
    @classmethod
    def _fits(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, options in value.items():
            require_options(require_known(name, PREPARING), PREPARING[name], options, ())
            PREPARING[name](**options)
        return value

    def preparing(self) -> list[Any]:
        """The methods for `fit` that `prepare` names."""
        return [PREPARING[name](**options) for name, options in self.prepare.items()]


class DistillPart(Part):
    """Learning from the dense model's outputs beside the labels (Hinton et al., arXiv 1503.02531); null: not."""

    weight: float = Field(default=default(Distillation, "weight"), gt=0)
    """Of the teacher's term; the labels' term weighs 1."""
    temperature: float = Field(default=default(Distillation, "temperature"), gt=0)
    """Divides both models' outputs; higher tells more of the wrong classes."""


class AdversarialPart(Part):
    """Learning also from inputs moved to where the loss grows most (arXiv 1412.6572, 2001.03994); null: not."""

    epsilon: float = Field(default=default(Adversarial, "epsilon"), gt=0)
    """How far an input is moved at most, after normalisation."""
    weight: float = Field(default=default(Adversarial, "weight"), gt=0)
    """Of the moved inputs' term; the data's own weighs 1."""


class RewindPart(Part):
    """Going back to an epoch of this run's training (arXiv 1912.05671, 2003.02389); null: not."""

    weights: int | None = Field(default=None, ge=0)
    """The epoch whose weights the remaining units get back; null: those they have."""
    schedule: int | None = Field(default=None, ge=0)
    """The epoch from which the training is repeated, learning rate and all; null: fine_tuning's own keys."""

    @model_validator(mode="after")
    def _rewinds(self) -> RewindPart:
        if self.weights is None and self.schedule is None:
            raise InputError("must have the key 'weights' or 'schedule', or be null.")
        return self


class FineTuningPart(TrainingPart):
    """The training after a cut: shorter and gentler than one from scratch."""

    epochs: int = Field(default=10, ge=0)
    """Passes over the training data; 0: no training."""
    lr: float = Field(default=0.01, gt=0)
    """Learning rate, which the schedule multiplies."""
    distill: DistillPart | None = None
    """Learn from the dense model's outputs too; null: from the labels alone."""
    adversarial: AdversarialPart | None = None
    """Learn from inputs moved against the network too; null: from the data alone."""
    rewind: RewindPart | None = None
    """Go back to an epoch of this run's training; null: go on from the weights after the cut."""
    snapshots: int = Field(default=0, ge=0)
    """Epochs of each of a method's 'snapshots' under its mask, by the other keys; 0: they are measured as they were."""
