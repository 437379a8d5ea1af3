"""What a classifier is worth that may say "I do not know": its risk when it answers only where it is surest.

El-Yaniv and Wiener (JMLR 2010); AURC and its excess: Geifman, Uziel and El-Yaniv (arXiv 1805.08206).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import DataError


@dataclass(frozen=True)
class Selective:
    """`aurc`: mean share of errors over all coverages; `excess`: less that of the best order of the same answers.

    `risk` maps coverages to the share of errors among so many surest answers.
    """

    aurc: float
    excess: float
    risk: tuple[tuple[float, float], ...]


def selective(
    confidence: Tensor, right: Tensor, coverages: tuple[float, ...] = (0.5, 0.8, 0.9, 0.95, 1.0)
) -> Selective:
    """How the errors of answers fall where the least sure ones are withheld; both [images].

    >>> selective(torch.tensor([0.9, 0.8, 0.6]), torch.tensor([True, False, True])).aurc
    0.2777777777777778
    """
    if not len(right):
        raise DataError("Selective prediction needs at least one answer. There is none.")
    order = torch.argsort(confidence, descending=True, stable=True)
    wrong = (~right[order]).double()
    answered = torch.arange(1, len(wrong) + 1, dtype=torch.float64)
    risks = wrong.cumsum(0) / answered
    best = wrong.sort().values.cumsum(0) / answered
    kept = [max(1, round(coverage * len(wrong))) for coverage in coverages]
    risk = tuple((coverage, float(risks[number - 1])) for coverage, number in zip(coverages, kept, strict=True))
    return Selective(float(risks.mean()), float((risks - best).mean()), risk)
