"""How often a classifier is right, and how sure that number is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.errors import DataError, InputError
from secateur.training.batches import call, device_of, moved
from secateur.training.keeping import kept_modes
from secateur.training.precision import autocast, resolve_precision, widened

TOP = 5


@dataclass(frozen=True)
class Accuracy:
    """`value` = `correct` / `total`, its confidence interval [`low`, `high`], and the mean cross-entropy `loss`.

    `top5` is the share of samples whose label is among the five largest scores (1.0 for five classes or fewer).
    """

    correct: int
    total: int
    value: float
    low: float
    high: float
    loss: float
    top5: float
    confidence: float

    def __str__(self) -> str:
        return f"{self.value:.2%} [{self.low:.2%}, {self.high:.2%}] of {self.total}, loss {self.loss:.4f}"


@torch.no_grad()
def accuracy(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    precision: Literal["auto", "fp32", "bf16"] = "fp32",
    confidence: float = 0.95,
) -> Accuracy:
    """The accuracy of `model`, in evaluation mode, over all (inputs, targets) of `loader`; modes are put back.

    Outputs have the shape `[N, classes, ...]`, targets are class labels of shape `[N, ...]`. The interval is Wilson's
    score interval (1927), which stays in [0, 1] and holds near its ends; it takes samples to be independent.

    Raises `InputError` for outputs or labels of other shapes, labels beyond the outputs, or a confidence outside (0,
    1); `DataError` for an empty loader.

    >>> accuracy(model, data.test).value
    0.9339
    """
    if not 0 < confidence < 1:
        raise InputError(
            f"The 'confidence' parameter of accuracy must be a float in (0, 1). Got {confidence!r} instead."
        )
    device = device_of(model)
    resolved = resolve_precision(precision, model, device)
    sums: list[Tensor] = []
    total = 0
    with kept_modes(model):
        model.eval()
        for batch in loader:
            inputs, targets = moved(batch, device)
            with autocast(resolved, device):
                outputs = widened(call(model, inputs))
            sums.append(_counts(outputs, targets))
            total += targets.numel()
    if not total:
        raise DataError("The loader must hold at least one sample to measure accuracy on. It is empty.")
    wide = torch.stack(sums).cpu().double().sum(dim=0).tolist()
    correct, among, loss = round(wide[0]), round(wide[1]), wide[2]
    low, high = wilson(correct, total, confidence)
    return Accuracy(correct, total, correct / total, low, high, loss / total, among / total, confidence)


def _counts(outputs: Any, targets: Any) -> Tensor:
    """Right answers, labels among the five largest scores, and summed cross-entropy of a batch: a tensor of three."""
    fits = isinstance(outputs, Tensor) and isinstance(targets, Tensor) and outputs.dim() >= 2
    if not fits or targets.is_floating_point() or targets.shape != outputs.shape[:1] + outputs.shape[2:]:
        shapes = [list(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in (outputs, targets)]
        raise InputError(
            "Accuracy needs scores of shape [N, classes, ...] and integer labels of shape [N, ...]. "
            f"Got outputs {shapes[0]} and targets {shapes[1]} instead."
        )
    if targets.numel() and not bool(((targets >= 0) & (targets < outputs.shape[1])).all()):
        raise InputError(
            f"Labels must lie in [0, {outputs.shape[1]}), the model's outputs. "
            f"Got labels from {int(targets.min())} to {int(targets.max())} instead."
        )
    best = outputs.topk(min(TOP, outputs.shape[1]), dim=1).indices == targets.unsqueeze(1)
    right = outputs.argmax(dim=1) == targets
    loss = F.cross_entropy(outputs, targets.long(), reduction="sum")
    return torch.stack([right.sum().float(), best.sum().float(), loss.float()])


def wilson(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (low, high) for a share of `correct` in `total` independent trials.

    >>> wilson(9, 10)  # (0.596, 0.982)
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = correct / total
    middle = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    # The interval holds the share itself; rounding must not say otherwise where it is 0 or 1.
    return max(0.0, min(share, (middle - half) / scale)), min(1.0, max(share, (middle + half) / scale))
