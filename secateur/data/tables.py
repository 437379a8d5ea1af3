"""Tables as data sets: those that ship with scikit-learn, and the toy on which topology was first learned.

A feature is a channel of one pixel, so that tables are normalised, held and cut into batches as images are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.data.order import generator
from secateur.data.splits import stratified_order


@dataclass(frozen=True, eq=False)
class Table:
    """`values` float32 [samples, features]; `targets` int64 [samples], or float32 [samples, outcomes].

    `test`: which samples are the test part, always the same; `classes` are the names of the targets.
    """

    values: Tensor
    targets: Tensor
    test: Tensor
    features: tuple[str, ...]
    classes: tuple[str, ...]


def bundled(name: str) -> Table:
    """A table of scikit-learn, "breast_cancer", "wine" or "diabetes"; a fifth, stratified, is the test part.

    The target of diabetes, how far it went in a year, is made two classes at the median of the training part.
    """
    from sklearn import datasets

    options = {"scaled": False} if name == "diabetes" else {}
    bunch = getattr(datasets, f"load_{name}")(**options)
    values = torch.from_numpy(bunch.data).float()
    targets = torch.from_numpy(bunch.target)
    labels = (targets > targets.median()).long() if name == "diabetes" else targets.long()
    order = stratified_order(labels, seed=0)
    test = order[: -(-len(order) // 5)].sort().values
    if name == "diabetes":
        classes: tuple[str, ...] = ("below the median", "above the median")
        labels = (targets > targets[_others(test, len(targets))].median()).long()
    else:
        classes = tuple(str(one) for one in bunch.target_names)
    return Table(values, labels, test, tuple(str(one) for one in bunch.feature_names), classes)


def toy() -> Table:
    """4 features, uniform in [-1, 1], and two outcomes, 3 sin((x1 - x2)^2) and (x3 + x4)^3; the last 1000 are the test.

    Source: the notebook beside Zhang, Tao & Zhang, "Neural Network Pruning by Gradient Descent", arXiv 2311.12526.
    """
    x = torch.rand(2000, 4, generator=generator(0, 3)) * 2 - 1
    y = torch.stack([3 * torch.sin((x[:, 0] - x[:, 1]) ** 2), (x[:, 2] + x[:, 3]) ** 3], dim=1)
    return Table(x, y, torch.arange(1000, 2000), ("x1", "x2", "x3", "x4"), ("y1", "y2"))


def _others(chosen: Tensor, count: int) -> Tensor:
    """All of `count` indices that are not among the chosen ones, in order."""
    left = torch.ones(count, dtype=torch.bool)
    left[chosen] = False
    return left.nonzero().flatten()


def parts(table: Table) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test part as (pixels [samples, features, 1, 1], targets)."""
    pixels = table.values[:, :, None, None]
    train = _others(table.test, len(pixels))
    return (pixels[train], table.targets[train]), (pixels[table.test], table.targets[table.test])


TABLES: dict[str, Callable[[], Table]] = {
    "breast_cancer": lambda: bundled("breast_cancer"),
    "wine": lambda: bundled("wine"),
    "diabetes": lambda: bundled("diabetes"),
    "toy": toy,
}
"""Name -> table: Wolberg, Street & Mangasarian 1995; Aeberhard & Forina 1991; Efron et al. 2004; the toy above."""
