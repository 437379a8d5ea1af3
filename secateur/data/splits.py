"""Splits that keep the shares of the classes."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.data.order import generator


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """A random order of the samples, int64 [samples], whose every beginning holds the classes in their overall shares.

    Of C classes, one with share p is within 1/2 + pC/2 samples of its share (1, where all are equally frequent), so a
    validation split or a small training set is simply cut off the front, and a smaller one is part of a larger one.
    """
    draws = generator(seed, 2)
    samples = len(labels)
    shuffled = torch.randperm(samples, generator=draws)
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    classes = labels[by_class]
    counts = torch.bincount(labels)
    rank = torch.arange(samples) - (counts.cumsum(0) - counts)[classes]
    share = (rank + 0.5) / counts[classes].double()  # when, on the way from 0 to 1, this sample of its class is due
    ties = torch.randperm(samples, generator=draws)
    return by_class[ties[torch.argsort(share[ties], stable=True)]]
