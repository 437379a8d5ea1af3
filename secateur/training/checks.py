"""What can be wrong between a model and its data, found before the first step and told in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.errors import InputError, TrainingError
from secateur.training.batches import call, count, each_tensor, last_batch, tensors
from secateur.training.keeping import kept_buffers
from secateur.training.sharding import whole
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
        outputs = state.run(state.model, inputs)
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
    if broken := _broken_weights(state.model):
        when = f"In epoch {state.epoch + 1}" if state.position else f"After epoch {state.epoch}"
        raise TrainingError(
            f"Weights must stay finite. {when} (step {state.step}) {', '.join(broken[:5])}"
            f"{' and others' if len(broken) > 5 else ''} held infinities or NaN. Lower the learning rate or set 'clip'."
        )


def _broken_weights(model: nn.Module) -> list[str]:
    """Names of the trained parameters that hold values that are not finite."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad and p.is_floating_point()]
    finite = torch.stack([whole(p.detach().isfinite().all()) for _, p in named]).tolist() if named else []
    return [name for (name, _), fine in zip(named, finite, strict=True) if not fine]


@torch.no_grad()
def where_not_finite(state: State) -> str:
    """A sentence on where the values that are not finite come from, found by running the batch at hand once more."""
    if broken := _broken_weights(state.model):
        return f"By now the weights of {', '.join(broken[:3])} are not finite."
    assert state.batch is not None
    if not all(_finite(tensor) for tensor in tensors(state.batch[0])):
        return "The inputs of this batch are not finite."
    found: list[str] = []

    def look(name: str, module: nn.Module) -> Any:
        def hook(_module: nn.Module, _inputs: Any, outputs: Any) -> None:
            if not all(_finite(tensor) for tensor in tensors(outputs)):
                found.append(f"The first module whose output is not finite is {name!r} ({type(module).__name__}).")

        return module.register_forward_hook(hook)

    hooks = [look(name, module) for name, module in state.model.named_modules() if name]
    try:
        with kept_buffers(state.model), kept_streams(state.device, state.generator):
            state.run(state.model, state.batch[0])
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else "All modules' outputs are finite: look at the loss function and the penalties."


def _finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


def unused_parameters(state: State) -> bool:
    """Whether a loss of the batch at hand leaves out some of the model's trained parameters; nothing moves."""
    assert state.batch is not None
    inputs, targets = state.batch
    trained = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
    with kept_buffers(state.model), kept_streams(state.device, state.generator), torch.enable_grad():
        loss = state.loss_function(state.run(state.model, inputs), targets)
        found = torch.autograd.grad(loss, trained, allow_unused=True)
    return any(gradient is None for gradient in found)
