"""The images that pruning treats differently as a rule, and not by the accident of one training.

Hooker et al., "What Do Compressed Deep Neural Networks Forget?" (arXiv 1911.05248): over a population of dense and one
of pruned models, an image is identified if the most frequent prediction of the two differ. Fewer than about five models
a side say little; the paper has thirty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import InputError


@dataclass(frozen=True)
class Exemplars:
    """`images` that were identified; mean accuracy of dense and pruned models on them and on the `rest`.

    Each accuracy is (dense, pruned), NaN where there is no such image.
    """

    images: tuple[int, ...]
    identified: tuple[float, float]
    rest: tuple[float, float]


def identified_exemplars(dense: Sequence[Tensor], pruned: Sequence[Tensor], labels: Tensor) -> Exemplars:
    """The images on which the modal predictions differ; each side holds predictions of its models, int64 [images].

    Ties between labels go to the smaller one.
    """
    if not dense or not pruned:
        raise InputError("Identified exemplars need at least one dense and one pruned model. One side is empty.")
    sides = [torch.stack(list(side)) for side in (dense, pruned)]
    differ = _modal(sides[0]) != _modal(sides[1])
    right = [(side == labels).double().mean(dim=0) for side in sides]

    def accuracies(which: Tensor) -> tuple[float, float]:
        return float(right[0][which].mean()), float(right[1][which].mean())

    return Exemplars(tuple(torch.nonzero(differ).flatten().tolist()), accuracies(differ), accuracies(~differ))


def _modal(predictions: Tensor) -> Tensor:
    """The most frequent prediction of every image, from [models, images]."""
    return predictions.mode(dim=0).values
