"""Which classes pay for a cut: recall of every class before and after, tested for all classes together.

Of two models, the images of each class are compared in pairs (McNemar's exact test). Of two populations of models, the
recall of a class less the model's accuracy is compared by Welch's t-test, as in Hooker et al., "What Do Compressed Deep
Neural Networks Forget?" (arXiv 1911.05248). Both correct for the number of classes after Holm (1979): the chance that
any class is named without reason stays below the level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.measures.churn import mcnemar

LEVEL = 0.05


@dataclass(frozen=True)
class ClassDamage:
    """A class: its images, its recall before and after, and the p-value that it changed, corrected for all classes.

    A class without images has NaN as its recalls, and a p-value of 1.
    """

    label: int
    images: int
    before: float
    after: float
    p_value: float

    @property
    def change(self) -> float:
        """Recall after less recall before."""
        return self.after - self.before

    @property
    def significant(self) -> bool:
        """Whether the change is more than chance, at the level 0.05 over all classes together."""
        return self.p_value < LEVEL


def class_damage(before: Tensor, after: Tensor, labels: Tensor, classes: int) -> list[ClassDamage]:
    """One row a class, from two models' predictions and the labels of the same images, int64 [images].

    >>> [row.change for row in class_damage(dense, pruned, labels, classes=10) if row.significant]
    """
    was, now = before == labels, after == labels
    number = torch.bincount(labels, minlength=classes)
    if len(number) > classes:
        raise InputError(f"Labels must lie in [0, {classes}). Got {int(labels.max())}.")
    hits = [torch.bincount(labels[each], minlength=classes).tolist() for each in (was, now, was & ~now, ~was & now)]
    p_values = holm([mcnemar(lost, won) for lost, won in zip(hits[2], hits[3], strict=True)])
    return [
        ClassDamage(c, int(n), hits[0][c] / n if n else torch.nan, hits[1][c] / n if n else torch.nan, p_values[c])
        for c, n in enumerate(number.tolist())
    ]


def class_damage_over(
    before: Sequence[Tensor], after: Sequence[Tensor], labels: Tensor, classes: int
) -> list[ClassDamage]:
    """One row a class from populations of models: mean recalls, and the test on recall less the model's accuracy.

    `before` and `after` hold the predictions of at least two models each, int64 [images].
    """
    from scipy.stats import ttest_ind

    if min(len(before), len(after)) < 2:
        raise InputError(
            f"A test over models needs at least two before and two after. Got {len(before)} and {len(after)}; "
            "class_damage compares one with one."
        )
    number = torch.bincount(labels, minlength=classes).double()
    recalls = [torch.stack([_recalls(one, labels, classes) / number for one in models]) for models in (before, after)]
    overall = [torch.stack([(one == labels).double().mean() for one in models]) for models in (before, after)]
    found = [
        float(
            ttest_ind(*((r[:, c] - a).numpy() for r, a in zip(recalls, overall, strict=True)), equal_var=False).pvalue
        )
        if number[c]
        else 1.0
        for c in range(classes)
    ]
    p_values = holm([1.0 if math.isnan(p) else p for p in found])  # NaN: all models of both sides agree
    means = [each.mean(dim=0).tolist() for each in recalls]
    return [ClassDamage(c, int(number[c]), means[0][c], means[1][c], p_values[c]) for c in range(classes)]


def _recalls(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    return torch.bincount(labels[predictions == labels], minlength=classes).double()


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number by Holm's step-down procedure, in the given order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = least
    return corrected
