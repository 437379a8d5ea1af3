"""What changed its answer between two models: churn, negative and positive flips, and whether that can be chance.

Negative flips: Yan et al., "Positive-Congruent Training" (arXiv 2011.09161). McNemar's test (1947) asks whether images
that only the one model gets right are as many as those that only the other does; here exactly, by the binomial.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import DataError, InputError


@dataclass(frozen=True)
class Flips:
    """Of `total` images, `changed` have another prediction; `negative` were right before, `positive` are right after.

    `p_value` is McNemar's, for the accuracy being the same.
    """

    total: int
    changed: int
    negative: int
    positive: int
    p_value: float

    @property
    def churn(self) -> float:
        """The share of images whose prediction changed."""
        return self.changed / self.total

    @property
    def negative_rate(self) -> float:
        """The share of images that were right and no longer are."""
        return self.negative / self.total

    @property
    def positive_rate(self) -> float:
        """The share of images that became right."""
        return self.positive / self.total


def flips(before: Tensor, after: Tensor, labels: Tensor) -> Flips:
    """How predictions `before` and `after` differ, all int64 [images].

    >>> flips(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])).negative
    1
    """
    if not before.shape == after.shape == labels.shape:
        shapes = ", ".join(str(list(each.shape)) for each in (before, after, labels))
        raise InputError(f"Flips need predictions of two models and labels of the same images. Got {shapes}.")
    if not len(labels):
        raise DataError("Flips need at least one image. There is none.")
    was, now = before == labels, after == labels
    negative, positive = int((was & ~now).sum()), int((~was & now).sum())
    return Flips(len(labels), int((before != after).sum()), negative, positive, mcnemar(negative, positive))


def mcnemar(negative: int, positive: int) -> float:
    """The exact two-sided p-value for two kinds of disagreement being equally likely; 1 where there is none.

    >>> mcnemar(5, 0)
    0.0625
    """
    from scipy.stats import binomtest

    return float(binomtest(negative, negative + positive).pvalue) if negative + positive else 1.0


def worst(before: Tensor, after: Tensor, labels: Tensor, sure: Tensor, number: int) -> list[int]:
    """The images that were right before and are wrong after, those first of which `after` is surest (`sure`)."""
    broken = torch.nonzero((before == labels) & (after != labels)).flatten()
    order = torch.argsort(sure[broken], descending=True, stable=True)
    return [int(index) for index in broken[order[:number]]]
