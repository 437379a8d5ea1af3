"""fit: the training loop, readable from top to bottom."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from secateur.training.average import Average
from secateur.training.batches import announce_epoch, device_of, each_tensor, groups_of, moved, splits, steps_in
from secateur.training.checkpoint import Checkpoint
from secateur.training.checks import check_first_batch, check_weights, explained, unused_parameters
from secateur.training.devices import agree_on_statistics, enter, is_first, on_all_ranks
from secateur.training.evaluation import Meter, validate
from secateur.training.heap import kept_heap
from secateur.training.history import Epoch, History, Manner
from secateur.training.identity import identity
from secateur.training.keeping import kept_modes
from secateur.training.log import Log
from secateur.training.moments import Moments
from secateur.training.optimisers import build_optimizer, parameter_groups
from secateur.training.precision import resolve_channels_last, resolve_compile, resolve_precision, set_layout
from secateur.training.progress import progress_bar
from secateur.training.schedules import learning_rate
from secateur.training.settings import Training, merged
from secateur.training.sharding import asked_for, check_shardable, shard
from secateur.training.sharing import share
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

    With a `checkpoint` folder a killed run, started again, goes on from the last one written and ends with the same
    numbers as one that was not killed. Started by `torchrun` or `accelerate launch`, all processes train one model,
    each on its share of the data (`secateur.training.devices`).

    Raises `InputError` for settings, labels or data that do not fit, `TrainingError` for a loss or weights that are not
    finite, `CheckpointError` for a checkpoint that is damaged or of another run.

    >>> history = fit(model, data, epochs=30, optimizer=partial(SGD, lr=0.01, momentum=0.9), methods=[])
    >>> history.best.val_accuracy
    """
    settings = merged(settings, fields)
    if asked_for():
        check_shardable(methods, {name: getattr(settings, name) for name in _WHOLE})
    enter(model)
    whole, validation = splits(data)
    train = share(whole)
    batches = steps_in(train, settings.steps_per_epoch, settings.epochs)
    state = _start(model, settings, -(-batches // settings.accumulate), methods)
    manner = Manner(state.precision, state.channels_last, _compiles(settings, state), state.ranks)
    about = identity(settings, state, data, train, compiled=manner.compiled)
    history, meter = History(model, manner), Meter()
    with (
        _left_alone(state),
        _put_down(settings, state, about) as (checkpoint, log),
        progress_bar(is_first() and settings.progress, state.epochs, state.steps_per_epoch) as bar,
    ):
        added = state.moments.setup(state)
        if state.sharded:
            shard(state.model)
        state.optimizer = build_optimizer(settings.optimizer, parameter_groups(state.model, added, settings.decay_norm))
        state.average = Average(state.model, settings.ema) if settings.ema is not None else None
        if checkpoint.resume(state, history, meter, train):
            bar.skip(state.epoch * state.steps_per_epoch + state.position)
            log.write(history)
        unchecked = True

        while state.epoch < state.epochs:
            announce_epoch(train, state.epoch)
            checkpoint.begin_epoch(train)
            state.begin_epoch()
            meter.start()

            for group in groups_of(train, state.position, batches, settings.accumulate, state.before_batches):
                state.begin_step(*(moved(batch, state.device, state.channels_last) for batch in group))
                if unchecked:
                    check_first_batch(state, train, labels=settings.loss is None, classes=_classes(data))
                    unchecked = False
                for _ in state.each_batch():
                    with explained(state):
                        loss, outputs = state.objective()
                    state.backward(loss)
                    state.outputs = each_tensor(Tensor.detach, outputs)
                    meter.add(state, loss.detach())
                state.moments("before_step", state)
                if settings.clip is not None:
                    clip_grad_norm_(state.model.parameters(), settings.clip)
                state.optimizer_step()
                if state.ranks > 1:
                    agree_on_statistics(state.model)
                state.step += 1
                state.position += 1
                state.moments("after_step", state)
                if state.average is not None:
                    state.average.update(state.step)
                bar.step(state.epoch, meter.loss)
                checkpoint.within_epoch(state, history, meter)

            meter.close(state)
            state.end_epoch()
            state.moments("epoch_end", state)
            check_weights(state)
            row = _row(state, meter, _measured(state, settings, validation))
            history.rows.append(row)
            log.track(row)
            checkpoint.after_epoch(state, history, train)
            log.write(history)
            bar.epoch(row)
            if settings.on_epoch is not None:
                settings.on_epoch(row)
            meter = Meter()

        state.draw_from("finish")
        state.moments("finish", state)
    history.model = state.model
    history.ema = state.average.tensors if state.average is not None else None
    return history


def steps_of(data: Any, settings: Training) -> int:
    """How many steps of the optimizer `fit` makes with these settings; raises what it raises for such data."""
    batches = steps_in(share(splits(data)[0]), settings.steps_per_epoch, settings.epochs)
    return settings.epochs * -(-batches // settings.accumulate)


_WHOLE = ("ema", "checkpoint_minutes")  # settings that shards do not go with


def _measured(state: State, settings: Training, validation: Iterable[Any] | None) -> tuple[float | None, float | None]:
    """Loss and accuracy on the validation data, of the averaged weights if there are such; None without data."""
    if state.average is not None:
        state.average.settle()
    if not settings.validate or validation is None:
        return None, None
    with state.average.in_place() if state.average is not None else nullcontext():
        return validate(state, validation, settings.loss or F.cross_entropy)


def _row(state: State, meter: Meter, measured: tuple[float | None, float | None]) -> Epoch:
    """The finished epoch in numbers; `measured` is (loss, accuracy) on the validation data."""
    val_loss, val_accuracy = measured
    return Epoch(
        epoch=state.epoch,
        lr=float(state.optimizer.param_groups[0]["lr"]),
        train_loss=meter.loss,
        train_accuracy=meter.accuracy,
        val_loss=val_loss,
        val_accuracy=val_accuracy,
        seconds=meter.seconds,
        images_per_second=meter.samples / meter.seconds,
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
        channels_last=not asked_for() and resolve_channels_last(settings.channels_last, model),
        sharded=asked_for(),
        wrap=partial(_wrapped, settings),
    )


def _compiles(settings: Training, state: State) -> bool:
    return not state.sharded and resolve_compile(settings.compile, state.device, state.epochs * state.steps_per_epoch)


def _wrapped(settings: Training, state: State) -> nn.Module:
    """The module that a step calls: the model, compiled if asked, its gradients averaged over ranks."""
    if state.sharded:
        return state.model
    module: Any = torch.compile(state.model) if _compiles(settings, state) else state.model
    return on_all_ranks(module, some_unused=state.ranks > 1 and unused_parameters(state))


@contextmanager
def _put_down(settings: Training, state: State, about: Mapping[str, str]) -> Iterator[tuple[Checkpoint, Log]]:
    """The checkpoint and the log of the run that `about` describes, closed in the end whatever happens."""
    checkpoint = Checkpoint(settings.checkpoint, settings.checkpoint_minutes, about)
    try:
        log = Log(settings.log if is_first() else None, settings.trackers, about, state.device)
        try:
            yield checkpoint, log
        finally:
            log.close()
    finally:
        checkpoint.close()


@contextmanager
def _left_alone(state: State) -> Iterator[None]:
    """A block after which random streams, module modes and memory layout are the caller's again."""
    with kept_streams(state.device), kept_modes(state.model), kept_heap(state.device):
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
