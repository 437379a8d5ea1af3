"""Loss and accuracy: of a training epoch as it goes, without waiting for the device, and of validation data."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.errors import DataError, TrainingError
from secateur.ranks import mean_over_ranks
from secateur.training.batches import count, moved
from secateur.training.checks import where_not_finite
from secateur.training.keeping import kept_modes
from secateur.training.sharing import part
from secateur.training.state import Loss, State

READ_EVERY = 50  # batches between two looks at losses on an accelerator, each of which waits for it


class Hits:
    """Counts how many targets the largest score hits.

    `outputs` has the shape `[N, classes, ...]`; targets are labels, integers of shape `[N, ...]`, or (from mixed
    images) shares of classes in the shape of the outputs, the largest of which is then the label. Whether floats are
    such shares is decided by the first batch: they are at least 0 and sum to 1.
    """

    def __init__(self) -> None:
        self._shares: bool | None = None

    def __call__(self, outputs: Any, targets: Any) -> Tensor | None:
        """The number of hits, a scalar on the device; None if these are not scores and labels."""
        if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or outputs.dim() < 2:
            return None
        if targets.is_floating_point() and targets.shape == outputs.shape and outputs.shape[1] > 1:
            if self._shares is None:
                self._shares = bool((targets >= 0).all() & ((targets.sum(1) - 1).abs() < 1e-3).all())
            return (outputs.argmax(dim=1) == targets.argmax(dim=1)).sum() if self._shares else None
        if targets.is_floating_point() or targets.shape != outputs.shape[:1] + outputs.shape[2:]:
            return None
        return (outputs.argmax(dim=1) == targets).sum()


class Meter:
    """The sums of one training epoch, which stop it at a loss that is not finite.

    An accelerator is read every 50 batches, for that waits for it; the CPU at every one. On several ranks losses and
    hits are means over them.
    """

    def __init__(self) -> None:
        self._hits = Hits()
        self._pending: list[tuple[int, int, int, Tensor, Tensor | None]] = []
        self._loss_sum = 0.0
        self._correct = 0
        self._labels = 0
        self.samples = 0
        self._earlier = 0.0
        self._started: float | None = None

    def start(self) -> None:
        """The epoch, or what is left of it, begins now."""
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """How long the epoch has been trained, by runs that were killed too."""
        return self._earlier + (time.perf_counter() - self._started if self._started is not None else 0.0)

    def add(self, state: State, loss: Tensor) -> None:
        """Count the batch that was just evaluated."""
        assert state.batch is not None
        inputs, targets = state.batch
        hits, ranks = self._hits(state.outputs, targets), state.ranks
        labels = math.prod(state.outputs.shape) // state.outputs.shape[1] if hits is not None else 0
        if ranks > 1:
            both = mean_over_ranks([loss.float(), hits.float() * ranks] if hits is not None else [loss.float()])
            loss, hits = both[0], both[1] if hits is not None else None
        self._pending.append((state.step + 1, ranks * count(inputs), ranks * labels, loss.detach(), hits))
        if len(self._pending) >= (1 if state.device.type == "cpu" else READ_EVERY):
            self.read(state)

    def read(self, state: State) -> None:
        """Bring the sums up to date; waits for the device."""
        if not self._pending:
            return
        losses = _numbers([loss for *_, loss, _ in self._pending])
        self._correct += int(sum(_numbers([hit for *_, hit in self._pending if hit is not None])))
        for loss, (step, samples, labels, _, _) in zip(losses, self._pending, strict=True):
            if not math.isfinite(loss):
                raise TrainingError(
                    f"The loss must stay finite. It is {loss} at step {step}, epoch {state.epoch + 1}/{state.epochs}. "
                    f"{where_not_finite(state)} Lower the learning rate, add 'warmup' or 'clip', or look for such "
                    "inputs."
                )
            self._loss_sum += loss * samples
            self.samples += samples
            self._labels += labels
        self._pending.clear()

    def close(self, state: State) -> None:
        """Read what is left at the end of an epoch, and stop the clock.

        Raises `DataError` if the loader gave no batch at all.
        """
        self.read(state)
        self._earlier, self._started = self.seconds, None
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

    def state_dict(self) -> dict[str, float]:
        """The sums so far; what is pending must have been read."""
        return {
            "loss": self._loss_sum,
            "correct": self._correct,
            "labels": self._labels,
            "samples": self.samples,
            "seconds": self.seconds,
        }

    def load_state_dict(self, stored: dict[str, Any]) -> None:
        """Go on from stored sums."""
        self._loss_sum, self._correct, self._labels = stored["loss"], stored["correct"], stored["labels"]
        self.samples, self._earlier = stored["samples"], stored["seconds"]


def _numbers(scalars: Sequence[Tensor]) -> list[float]:
    """Scalars of one device as numbers, fetched at once."""
    if len(scalars) < 2:
        return [scalar.item() for scalar in scalars]
    return torch.stack([scalar.float() for scalar in scalars]).tolist()


@torch.no_grad()
def validate(state: State, loader: Iterable[Any], loss_function: Loss) -> tuple[float, float | None]:
    """Mean loss per sample and accuracy of the model as it stands, in evaluation mode; modes are put back.

    Each rank measures its part of the batches; all of them measure all together where the weights are sharded.
    """
    losses: list[Tensor] = []
    hits: list[Tensor] = []
    samples: list[int] = []
    labels, count_hits = 0, Hits()
    with kept_modes(state.model):
        state.model.eval()
        for batch in loader if state.sharded else part(loader):
            inputs, targets = moved(batch, state.device, state.channels_last)
            outputs = state.run(state.model, inputs)
            losses.append(loss_function(outputs, targets).detach().float())
            samples.append(count(inputs))
            if (hit := count_hits(outputs, targets)) is not None:
                hits.append(hit)
                labels += outputs.numel() // outputs.shape[1]
    total = sum(one * n for one, n in zip(torch.stack(losses).tolist(), samples, strict=True)) if losses else 0.0
    found = [total, float(sum(samples)), float(torch.stack(hits).sum()) if hits else 0.0, float(labels)]
    (sums,) = mean_over_ranks([torch.tensor(found, dtype=torch.float64)])
    loss, seen, correct, known = sums.tolist()
    if not seen:
        raise DataError(
            "The validation data must hold at least one batch. It is empty; pass validate=False to do without."
        )
    return loss / seen, correct / known if known else None
