"""Loss and accuracy: of a training epoch as it goes, without waiting for the device, and of validation data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from secateur.errors import DataError, TrainingError
from secateur.training.batches import call, count, moved
from secateur.training.keeping import kept_modes
from secateur.training.precision import autocast, widened
from secateur.training.state import Loss, State

READ_EVERY = 50  # batches between two looks at losses on an accelerator, each of which waits for it


def correct(outputs: Any, targets: Any) -> Tensor | None:
    """How many targets the largest score hits, a scalar on the device; None if these are not scores and labels.

    `outputs` has the shape `[N, classes, ...]`, `targets` is of integers and shape `[N, ...]`.
    """
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or outputs.dim() < 2:
        return None
    if targets.is_floating_point() or targets.shape != outputs.shape[:1] + outputs.shape[2:]:
        return None
    return (outputs.argmax(dim=1) == targets).sum()


class Meter:
    """The sums of one training epoch, which stop it at a loss that is not finite.

    An accelerator is read every 50 batches, for that waits for it; the CPU at every one.
    """

    def __init__(self, state: State) -> None:
        self._every = 1 if state.device.type == "cpu" else READ_EVERY
        self._pending: list[tuple[int, int, int, Tensor, Tensor | None]] = []
        self._loss_sum = 0.0
        self._correct = 0
        self._labels = 0
        self.samples = 0

    def add(self, state: State) -> None:
        """Count the batch that was just evaluated."""
        assert state.batch is not None
        assert state.loss is not None
        inputs, targets = state.batch
        labels = targets.numel() if isinstance(targets, Tensor) else 0
        hits = correct(state.outputs, targets)
        self._pending.append((state.step + 1, count(inputs), labels, state.loss, hits))
        if len(self._pending) >= self._every:
            self.read(state)

    def read(self, state: State) -> None:
        """Bring the sums up to date; waits for the device."""
        if not self._pending:
            return
        losses = torch.stack([loss.float() for *_, loss, _ in self._pending]).tolist()
        hits = [hit for *_, hit in self._pending if hit is not None]
        self._correct += int(torch.stack(hits).sum()) if hits else 0
        for loss, (step, samples, labels, _, hit) in zip(losses, self._pending, strict=True):
            if not math.isfinite(loss):
                raise TrainingError(
                    f"The loss must stay finite. It is {loss} at step {step}, epoch {state.epoch + 1}/{state.epochs}. "
                    "Lower the learning rate, add 'warmup' or 'clip', or look for such inputs."
                )
            self._loss_sum += loss * samples
            self.samples += samples
            self._labels += labels if hit is not None else 0
        self._pending.clear()

    def close(self, state: State) -> None:
        """Read what is left at the end of an epoch; raises `DataError` if the loader gave no batch at all."""
        self.read(state)
        if not self.samples:
            raise DataError(
                f"The training data must give batches in every epoch. It gave none in epoch {state.epoch + 1}; "
                "pass a loader that can be gone through again."
            )

    @property
    def loss(self) -> float:
        """Mean loss per sample so far."""
        return self._loss_sum / max(self.samples, 1)

    @property
    def accuracy(self) -> float | None:
        """Share of correct labels so far, None if the outputs are not class scores."""
        return self._correct / self._labels if self._labels else None


@torch.no_grad()
def validate(state: State, loader: Iterable[Any], loss_function: Loss) -> tuple[float, float | None]:
    """Mean loss per sample and accuracy of the model as it stands, in evaluation mode; modes are put back."""
    losses: list[Tensor] = []
    hits: list[Tensor] = []
    samples: list[int] = []
    labels = 0
    with kept_modes(state.model):
        state.model.eval()
        for batch in loader:
            inputs, targets = moved(batch, state.device, state.channels_last)
            with autocast(state.precision, state.device):
                outputs = widened(call(state.model, inputs))
            losses.append(loss_function(outputs, targets).detach().float())
            samples.append(count(inputs))
            if (hit := correct(outputs, targets)) is not None:
                hits.append(hit)
                labels += targets.numel()
    if not samples:
        raise DataError(
            "The validation data must hold at least one batch. It is empty; pass validate=False to do without."
        )
    loss = sum(one * n for one, n in zip(torch.stack(losses).tolist(), samples, strict=True)) / sum(samples)
    return loss, int(torch.stack(hits).sum()) / labels if labels else None
