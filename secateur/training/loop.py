"""fit: the training loop, readable from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from secateur.training.batches import announce_epoch, device_of, each_tensor, moved, splits, steps_in, take
from secateur.training.checkpoint import Checkpoint
from secateur.training.checks import check_first_batch, check_weights, explained
from secateur.training.evaluation import Meter, validate
from secateur.training.history import Epoch, History
from secateur.training.identity import identity
from secateur.training.keeping import kept_modes
from secateur.training.moments import Moments
from secateur.training.optimisers import build_optimizer, parameter_groups
from secateur.training.precision import resolve_channels_last, resolve_precision, set_layout
from secateur.training.progress import progress_bar
from secateur.training.schedules import learning_rate
from secateur.training.settings import Training, merged
from secateur.training.state import State
from secateur.training.streams import derive, kept_streams, seed_streams


def fit(
    model: nn.Module, data: Any, *, methods: Sequence[Any] = (), settings: Training | None = None, **fields: Any
) -> History:
    """The history of training `model` on `data`, in place.

    `data` has `.train` and `.validation`, or is itself a sized iterable of (inputs, targets), gone through once an
    epoch; a loader with `set_epoch` is told which. `methods` take part at the moments described in
    `secateur.training.moments`. Every field of `Training` can be given as a keyword. All modules are trained in
    training mode and returned to the modes they had; the caller's random streams are left alone. Where a method
    replaces the model, `History.model` is the new one.

    With a `checkpoint` folder a killed run, started again, goes on after its last whole epoch and ends with the same
    numbers as one that was not killed.

    Raises `InputError` for settings, labels or data that do not fit, `TrainingError` for a loss or weights that are not
    finite, `CheckpointError` for a checkpoint that is damaged or of another run.

    >>> history = fit(model, data, epochs=30, optimizer=partial(SGD, lr=0.01, momentum=0.9), methods=[])
    >>> history.best.val_accuracy
    """
    settings = merged(settings, fields)
    train, validation = splits(data)
    plain_loss = settings.loss or F.cross_entropy
    state = _start(model, settings, steps_in(train, settings.steps_per_epoch, settings.epochs), methods)
    history = History(model)
    checkpoint = Checkpoint(settings.checkpoint, identity(settings, state, data, train))
    with _left_alone(state), progress_bar(settings.progress, state.epochs, state.steps_per_epoch) as bar:
        added = state.moments.setup(state)
        state.optimizer = build_optimizer(settings.optimizer, parameter_groups(state.model, added, settings.decay_norm))
        if checkpoint.resume(state, history, train):
            bar.skip(state.epoch * state.steps_per_epoch)
        unchecked = True

        while state.epoch < state.epochs:
            state.begin_epoch()
            announce_epoch(train, state.epoch)
            meter, started = Meter(state), time.perf_counter()

            for batch in take(train, state.steps_per_epoch):
                state.begin_step(moved(batch, state.device, state.channels_last))
                if unchecked:
                    check_first_batch(state, train, labels=settings.loss is None, classes=_classes(data))
                    unchecked = False
                with explained(state):
                    loss, outputs = state.objective()
                loss.backward()
                state.loss, state.outputs = loss.detach(), each_tensor(Tensor.detach, outputs)
                meter.add(state)
                state.moments("before_step", state)
                if settings.clip is not None:
                    clip_grad_norm_(state.model.parameters(), settings.clip)
                state.optimizer.step()
                state.step += 1
                state.position += 1
                state.moments("after_step", state)
                bar.step(state.epoch, meter.loss)

            meter.close(state)
            seconds = time.perf_counter() - started
            state.end_epoch()
            state.moments("epoch_end", state)
            check_weights(state)
            measured = validate(state, validation, plain_loss) if settings.validate and validation is not None else None
            row = _row(state, meter, seconds, measured)
            history.rows.append(row)
            checkpoint.save(state, history, train)
            bar.epoch(row)
            if settings.on_epoch is not None:
                settings.on_epoch(row)

        state.moments("finish", state)
    history.model = state.model
    return history


def _row(state: State, meter: Meter, seconds: float, measured: tuple[float, float | None] | None) -> Epoch:
    """The finished epoch in numbers; `measured` is (loss, accuracy) on the validation data."""
    val_loss, val_accuracy = measured or (None, None)
    return Epoch(
        epoch=state.epoch,
        lr=float(state.optimizer.param_groups[0]["lr"]),
        train_loss=meter.loss,
        train_accuracy=meter.accuracy,
        val_loss=val_loss,
        val_accuracy=val_accuracy,
        seconds=seconds,
        images_per_second=meter.samples / seconds,
    )


def _start(model: nn.Module, settings: Training, steps: int, methods: Sequence[Any]) -> State:
    """The state before the first step."""
    loss = (
        partial(F.cross_entropy, label_smoothing=settings.label_smoothing) if settings.loss is None else settings.loss
    )
    return State(
        model=model,
        epochs=settings.epochs,
        steps_per_epoch=steps,
        moments=Moments(methods),
        loss_function=loss,
        schedule=learning_rate(settings.schedule, settings.milestones, settings.gamma),
        warmup=settings.warmup,
        seed=settings.seed,
        precision=resolve_precision(settings.precision, model, device_of(model)),
        channels_last=resolve_channels_last(settings.channels_last, model),
    )


@contextmanager
def _left_alone(state: State) -> Iterator[None]:
    """A block after which random streams, module modes and memory layout are the caller's again."""
    with kept_streams(state.device), kept_modes(state.model):
        seed_streams(derive(state.seed, "setup"), state.device, state.generator)
        mode = state.model.training
        converted = state.channels_last and set_layout(state.model, torch.channels_last)
        try:
            yield
        finally:
            state.model.train(mode)
            if converted:
                set_layout(state.model, torch.contiguous_format)


def _classes(data: Any) -> int | None:
    """The number of classes of a data set that tells it, as a number or as their names."""
    classes = getattr(data, "classes", None)
    if isinstance(classes, int) or classes is None:
        return classes
    return len(classes) if hasattr(classes, "__len__") else None
