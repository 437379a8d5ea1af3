"""What can be wrong between a model and its data, found before the first step and told in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.errors import InputError, TrainingError
from secateur.training.batches import call, count, each_tensor, last_batch
from secateur.training.keeping import kept_buffers
from secateur.training.state import State
from secateur.training.streams import kept_streams

_IGNORED = -100  # the label that torch's cross-entropy leaves out


@contextmanager
def explained(state: State) -> Iterator[None]:
    """A block in which errors that torch words for its own developers are told in terms of the data."""
    try:
        yield
    except (ValueError, IndexError) as error:
        message = str(error)
        where = f"(epoch {state.epoch + 1}, step {state.step + 1})"
        if "more than 1 value per channel" in message or "more than 1 spatial element" in message:
            raise TrainingError(
                f"Batch norm needs more than one value per channel to train. A batch of one sample came {where}. "
                "Take a larger batch, or leave an incomplete last batch out (drop_last)."
            ) from error
        if message.startswith("Target ") and "out of bounds" in message:
            raise InputError(f"Every label must be below the number of outputs. {message} {where}") from error
        raise


@torch.no_grad()
def check_first_batch(state: State, loader: Iterable[Any], *, labels: bool, classes: int | None) -> None:
    """Run the first batch through the model, moving nothing, and see that loss, labels and outputs fit.

    With `labels` the targets are class labels, compared with the number of outputs; `classes` is the data set's number
    of classes where it is known. An incomplete last batch of one sample is tried too, so that it does not end the first
    epoch.
    """
    assert state.batch is not None
    inputs, targets = state.batch
    with kept_buffers(state.model), kept_streams(state.device, state.generator), explained(state):
        if last_batch(loader) == 1 and count(inputs) > 1 and _has_batch_norm(state.model):
            call(state.model, each_tensor(lambda tensor: tensor[:1] if tensor.dim() else tensor, inputs))
        outputs = state.forward()
        if labels and isinstance(outputs, Tensor) and isinstance(targets, Tensor) and not targets.is_floating_point():
            _require_places(outputs, targets, classes)
        loss = state.loss_function(outputs, targets)
    if not isinstance(loss, Tensor) or loss.dim() > 0:
        found = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise InputError(f"The loss must be a scalar tensor. Got {found} instead; take its mean.")


def _require_places(outputs: Tensor, targets: Tensor, classes: int | None) -> None:
    if outputs.dim() < 2 or targets.dim() != outputs.dim() - 1 or not targets.numel():
        return
    places, labels = outputs.shape[1], targets[targets != _IGNORED]
    if classes is not None and classes > places:
        raise InputError(
            f"The model must have an output for each of the data's {classes} classes. It has {places}; "
            f"build it with {classes}."
        )
    if labels.numel() and not (int(labels.min()) >= 0 and int(labels.max()) < places):
        raise InputError(
            f"Labels must lie in [0, {places}), the model's outputs. Got labels from {int(labels.min())} to "
            f"{int(labels.max())} in the first batch instead."
        )


def _has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def check_weights(state: State) -> None:
    """Raise if a trained parameter holds a value that is not finite; waits for the device once."""
    named = [(name, p) for name, p in state.model.named_parameters() if p.requires_grad and p.is_floating_point()]
    finite = torch.stack([p.detach().isfinite().all() for _, p in named]).tolist() if named else []
    broken = [name for (name, _), fine in zip(named, finite, strict=True) if not fine]
    if broken:
        raise TrainingError(
            f"Weights must stay finite. After epoch {state.epoch} (step {state.step}) {', '.join(broken[:5])}"
            f"{' and others' if len(broken) > 5 else ''} held infinities or NaN. Lower the learning rate or set 'clip'."
        )
