"""Whether a classifier knows how sure it may be: calibration errors, and the temperature that mends them.

ECE in 15 equal bins of the top label's confidence: Guo et al., "On Calibration of Modern Neural Networks" (arXiv
1706.04599), equation 3; their section 4.2 has the temperature. Brier's score is summed over classes, 0 to 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.measures.answers import Answers

BINS = 15
_COLDEST, _HOTTEST = 0.05, 20.0


@dataclass(frozen=True)
class Bin:
    """The images whose confidence lies in (`low`, `high`]: how many, their mean confidence and their accuracy."""

    low: float
    high: float
    number: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Expected and largest calibration error, mean negative log-likelihood, Brier's score, and the bins behind."""

    ece: float
    mce: float
    nll: float
    brier: float
    bins: tuple[Bin, ...]


def calibration(answers: Answers, *, bins: int = BINS) -> Calibration:
    """How far confidence and accuracy lie apart, over all labelled images; empty bins are left out.

    >>> calibration(Answers.of(logits, labels)).ece
    """
    if bins < 1:
        raise InputError(f"The 'bins' parameter of calibration must be a positive int. Got {bins!r} instead.")
    right = answers.right.double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    place = (torch.bucketize(answers.confidence, edges) - 1).clamp(0, bins - 1)  # intervals are closed on the right
    number = torch.bincount(place, minlength=bins)
    sure, hits = (torch.bincount(place, weights=values, minlength=bins) for values in (answers.confidence, right))
    made = tuple(
        Bin(
            float(edges[i]), float(edges[i + 1]), int(number[i]), float(sure[i] / number[i]), float(hits[i] / number[i])
        )
        for i in range(bins)
        if number[i]
    )
    gaps = [(b.number / len(answers), abs(b.accuracy - b.confidence)) for b in made]
    return Calibration(
        ece=sum(weight * gap for weight, gap in gaps),
        mce=max(gap for _, gap in gaps),
        nll=float(answers.nll.mean()),
        brier=float(answers.brier.mean()),
        bins=made,
    )


def temperature(logits: Tensor, labels: Tensor) -> float:
    """The T that makes the mean negative log-likelihood of `logits` / T least, between 0.05 and 20.

    It is convex in 1 / T, so the minimum is the only one. `logits` are [images, classes].
    """
    from scipy.optimize import minimize_scalar

    wide, own = logits.double(), labels.long().unsqueeze(1)

    def loss(inverse: float) -> float:
        return float(-(wide * inverse).log_softmax(dim=1).gather(1, own).mean())

    found = minimize_scalar(loss, bounds=(1 / _HOTTEST, 1 / _COLDEST), method="bounded", options={"xatol": 1e-6})
    return float(1 / found.x)


def tempered(logits: Tensor, labels: Tensor) -> tuple[Answers, float]:
    """The answers after temperature scaling that has never seen the image it scales, and the mean temperature.

    Images of even and of odd place each take the temperature that the others ask for, so no further data are needed.
    """
    halves = [torch.arange(start, len(labels), 2) for start in (0, 1)]
    hot = [temperature(logits[half], labels[half]) for half in halves]
    scaled = logits.double()
    for half, other in zip(halves, reversed(hot), strict=True):
        scaled[half] /= other
    return Answers.of(scaled, labels), sum(hot) / 2
