"""Training: the settings of a run, each default in one place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.progress import Progress
from torch import Tensor
from torch.optim import SGD

from secateur.errors import InputError
from secateur.schedule import Schedule
from secateur.training.history import Epoch
from secateur.training.optimisers import OptimizerFactory
from secateur.training.schedules import learning_rate

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
TRACKERS = ("tensorboard", "wandb", "mlflow")


@dataclass(frozen=True, kw_only=True)
class Training:
    """How to train: everything `fit` takes besides the model, the data and the methods.

    epochs            passes over the training data
    optimizer         a function from parameter groups to an optimizer; the default is that of He et al. for CIFAR
                      (arXiv 1512.03385), with the weight decay of Zagoruyko and Komodakis (arXiv 1605.07146)
    schedule          "cosine", "step", "constant", or a function from progress in [0, 1] to a factor on lr
    warmup            epochs during which a linear ramp multiplies the schedule
    milestones, gamma of "step": shares of the training at which the learning rate is multiplied by gamma
    steps_per_epoch   batches of an epoch; None is the loader's length
    loss              a function (outputs, targets) -> scalar; None is cross-entropy
    label_smoothing   of the cross-entropy, in [0, 1)
    accumulate        batches whose gradients are averaged for one step of the optimizer
    clip              the largest norm of the gradient, None for no limit; methods see gradients before clipping
    decay_norm        False keeps weight decay off parameters of one dimension (biases, norm weights)
    ema               decay of an exponential moving average of the weights, in (0, 1), which is then what is validated
                      and handed back as `History.ema`; None for none
    precision         "fp32", "bf16", "fp16" (autocast; the last with loss scaling, on CUDA alone), or "auto": bf16
                      where the device has it in hardware
    channels_last     memory layout of images; "auto" where the model has two-dimensional convolutions
    compile           run the model through torch.compile; "auto" in long trainings on CUDA
    seed              of every random draw; the same seed gives the same numbers on the same hardware
    validate          measure loss and accuracy on the validation data after each epoch
    checkpoint        a folder: written after each epoch, and continued from if a run was killed
    checkpoint_minutes  within epochs too, whenever so many minutes have passed; None for after epochs alone
    log               a folder for epochs.jsonl and epochs.csv, one row an epoch
    trackers          names of trackers that Accelerate knows ("tensorboard", "wandb", "mlflow"), which write to `log`
    progress          show a progress bar; or a running rich Progress to put it into
    on_epoch          called with each finished `Epoch`, after its checkpoint was written
    """

    epochs: int
    optimizer: OptimizerFactory = field(default=partial(SGD, lr=0.1, momentum=0.9, weight_decay=5e-4))
    schedule: str | Schedule = "cosine"
    warmup: float = 0.0
    milestones: Sequence[float] = (0.5, 0.75)
    gamma: float = 0.1
    steps_per_epoch: int | None = None
    loss: Callable[[Any, Any], Tensor] | None = None
    label_smoothing: float = 0.0
    accumulate: int = 1
    clip: float | None = None
    decay_norm: bool = True
    ema: float | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool | Literal["auto"] = "auto"
    compile: bool | Literal["auto"] = "auto"
    seed: int = 0
    validate: bool = True
    checkpoint: str | Path | None = None
    checkpoint_minutes: float | None = None
    log: str | Path | None = None
    trackers: Sequence[str] = ()
    progress: bool | Progress = True
    on_epoch: Callable[[Epoch], object] | None = None

    def __post_init__(self) -> None:
        count, share = "an integer of at least 1", "a float in [0, 1)"
        self._require("epochs", count, _is_count(self.epochs))
        self._require(
            "steps_per_epoch", f"{count}, or None", self.steps_per_epoch is None or _is_count(self.steps_per_epoch)
        )
        self._require("accumulate", count, _is_count(self.accumulate))
        self._require("seed", "an integer", isinstance(self.seed, int))
        self._require("warmup", "a number of epochs in [0, epochs]", _within(self.warmup, 0, self.epochs))
        self._require("label_smoothing", share, _within(self.label_smoothing, 0, 1) and self.label_smoothing < 1)
        self._require("gamma", "a float in (0, 1]", _within(self.gamma, 0, 1) and self.gamma > 0)
        inside = all(_within(milestone, 0, 1) and 0 < milestone < 1 for milestone in self.milestones)
        self._require("milestones", "shares of the training in (0, 1), e.g. 0.5 for epoch 80 of 160", inside)
        self._require("clip", "a positive float, or None", self.clip is None or _is_positive(self.clip))
        self._require(
            "ema", "a float in (0, 1), or None", self.ema is None or (_is_positive(self.ema) and self.ema < 1)
        )
        self._require("precision", '"auto", "fp32", "bf16" or "fp16"', self.precision in PRECISIONS)
        self._require("channels_last", '"auto", True or False', self.channels_last in ("auto", True, False))
        self._require("compile", '"auto", True or False', self.compile in ("auto", True, False))
        if self.loss is not None and self.label_smoothing:
            raise InputError(
                "The 'label_smoothing' parameter of fit belongs to its own loss; a 'loss' was given. Drop one."
            )
        self._require_places()
        learning_rate(self.schedule, self.milestones, self.gamma)

    def _require_places(self) -> None:
        """See that what is written has a folder to be written to."""
        minutes = self.checkpoint_minutes
        self._require("checkpoint_minutes", "a positive float, or None", minutes is None or _is_positive(minutes))
        names = not isinstance(self.trackers, str) and all(name in TRACKERS for name in self.trackers)
        self._require("trackers", f"a list of names among {', '.join(TRACKERS)}", names)
        for needs, given, folder in (("checkpoint_minutes", minutes, "checkpoint"), ("trackers", self.trackers, "log")):
            if given and getattr(self, folder) is None:
                raise InputError(
                    f"The '{needs}' parameter of fit needs a folder to write to: give '{folder}' as well. "
                    f"Got {given!r} without one."
                )

    def _require(self, name: str, what: str, holds: bool) -> None:
        if not holds:
            raise InputError(f"The '{name}' parameter of fit must be {what}. Got {getattr(self, name)!r} instead.")


def merged(settings: Training | None, changes: dict[str, Any]) -> Training:
    """`settings` with the fields in `changes`; the names are checked."""
    known = [item.name for item in fields(Training)]
    for name in changes:
        if name not in known:
            hint = " The optimizer takes it: optimizer=partial(SGD, lr=...)." if name in _OF_OPTIMIZERS else ""
            raise InputError(f"fit has no parameter '{name}'.{hint} It takes {', '.join(known)}.")
    if settings is not None:
        return replace(settings, **changes)
    if "epochs" not in changes:
        raise InputError("The 'epochs' parameter of fit must be given: an integer of at least 1.")
    return Training(**changes)


_OF_OPTIMIZERS = ("lr", "momentum", "weight_decay", "nesterov", "betas", "eps", "learning_rate")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _within(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and low <= value <= high
