"""What a classifier said to every image of a set, in a few numbers an image: all that later measures need.

The scores themselves are dropped batch by batch, so that a set of a million images and a thousand classes fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from secateur.errors import DataError, InputError

_SUM = 1e-3
"""How far the sum of a row of probabilities may lie from 1."""


@dataclass(frozen=True)
class Answers:
    """One row an image: int64 `labels` and `predictions`, float64 `confidence`, `nll`, `brier` and `energy`.

    `confidence` is the largest probability (MSP), `nll` the negative log-probability of the label, `brier` the squared
    distance between probabilities and the label's one-hot vector (0 to 2), `energy` the log of the sum of exponentials
    of the scores, higher for what the network knows (Liu et al., arXiv 2010.03759); NaN where only probabilities were
    known. `nll` and `brier` are NaN for images without labels, whose label is -1.
    """

    labels: Tensor
    predictions: Tensor
    confidence: Tensor
    nll: Tensor
    brier: Tensor
    energy: Tensor

    @classmethod
    def of(cls, outputs: Tensor, labels: Tensor | None = None, *, probabilities: bool = False) -> Answers:
        """The answers that scores [images, classes] give; `probabilities` says that these are no logits.

        Raises `InputError` for scores of another shape, labels beyond the classes, and for scores that contradict
        `probabilities`.

        >>> Answers.of(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).right
        tensor([True])
        """
        _check(outputs, labels, probabilities)
        wide = outputs.double()
        logs = wide.clamp_min(torch.finfo(torch.float64).tiny).log() if probabilities else wide.log_softmax(dim=1)
        shares = logs.exp()
        confidence, predictions = shares.max(dim=1)
        none = torch.full_like(confidence, torch.nan)
        energy = none if probabilities else wide.logsumexp(dim=1)
        if labels is None:
            labels, nll, brier = torch.full_like(predictions, -1), none, none
        else:
            own = labels.long().unsqueeze(1)
            nll = -logs.gather(1, own).squeeze(1)
            brier = shares.square().sum(dim=1) - 2 * shares.gather(1, own).squeeze(1) + 1
        return cls(*(part.cpu() for part in (labels.long(), predictions, confidence, nll, brier, energy)))

    @classmethod
    def joined(cls, parts: Sequence[Answers]) -> Answers:
        """The answers to several batches as one. Raises `DataError` if there is none."""
        if not parts:
            raise DataError("The data must hold at least one image to be evaluated on. They are empty.")
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, which: Tensor) -> Answers:
        """The answers to some of the images."""
        return Answers(*(getattr(self, field.name)[which] for field in fields(self)))

    @property
    def right(self) -> Tensor:
        """Where the prediction is the label: bool [images]."""
        return self.predictions == self.labels

    @property
    def accuracy(self) -> float:
        """The share of right predictions."""
        return float(self.right.double().mean())


def _check(outputs: Tensor, labels: Tensor | None, probabilities: bool) -> None:
    """Raise `InputError` for what is no classification."""
    if outputs.dim() != 2 or outputs.shape[1] < 2:
        raise InputError(
            "A model that is evaluated must give scores of shape [images, classes], at least two classes. "
            f"Got {list(outputs.shape)} instead."
        )
    if labels is not None:
        if labels.shape != outputs.shape[:1] or labels.is_floating_point():
            raise InputError(
                f"Labels must be integers of shape [{len(outputs)}], one an image. Got {labels.dtype} of shape "
                f"{list(labels.shape)} instead."
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < outputs.shape[1]:
            raise InputError(
                f"Labels must lie in [0, {outputs.shape[1]}), the model's classes. Got labels from "
                f"{int(labels.min())} to {int(labels.max())} instead."
            )
    if not bool(torch.isfinite(outputs).all()):
        raise InputError("A model that is evaluated must give finite scores. It gave infinities or NaN.")
    looks = len(outputs) > 0 and bool((outputs >= 0).all()) and bool(((outputs.sum(dim=1) - 1).abs() < _SUM).all())
    if probabilities and not looks and len(outputs):
        raise InputError(
            "With probabilities=True the model's outputs must be at least 0 and sum to 1 for every image. They do not; "
            "leave it out for logits."
        )
    if looks and not probabilities:
        raise InputError(
            "The model's outputs are at least 0 and sum to 1 for every image: they are probabilities, and would be "
            "put through a softmax once more. Say probabilities=True (--probabilities), or give the model without its "
            "softmax."
        )
