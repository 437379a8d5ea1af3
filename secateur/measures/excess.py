"""What a shift costs a pruned network more than it costs the dense one: the difference in excess error.

Liebenwein et al., "Lost in Pruning" (arXiv 2103.03014): with e = (error on shifted data) - (error on data as they
were), the difference is e(pruned) - e(dense). 0 says that pruning costs nothing extra under the shift. Over the prune
ratio it is drawn with a straight line through the origin, where the dense network lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from secateur.errors import InputError


@dataclass(frozen=True)
class Slope:
    """Error per prune ratio: `value` at ratio 1 on the line through the origin, with its interval [`low`, `high`]."""

    value: float
    low: float
    high: float
    confidence: float


def excess_difference(
    dense: float, pruned: float, dense_shifted: Sequence[float], pruned_shifted: Sequence[float]
) -> float:
    """The difference in excess error: mean errors on shifted data less errors on data as they were, pruned less dense.

    >>> excess_difference(0.10, 0.11, [0.30, 0.20], [0.34, 0.22])
    0.02
    """
    if not dense_shifted or len(dense_shifted) != len(pruned_shifted):
        raise InputError(
            "Excess errors need the same shifts of both networks, at least one. "
            f"Got {len(dense_shifted)} and {len(pruned_shifted)}."
        )
    shifts = len(dense_shifted)
    return (sum(pruned_shifted) / shifts - pruned) - (sum(dense_shifted) / shifts - dense)


def excess_slope(
    ratios: Sequence[float], differences: Sequence[float], *, draws: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Slope:
    """The line of least squares through the origin, with a bootstrap interval over the points (all nets and ratios).

    >>> excess_slope([0.5, 1.0], [0.01, 0.02]).value
    0.02
    """
    if len(ratios) != len(differences) or not any(ratios):
        raise InputError(
            "A slope needs one difference a ratio, and a ratio above 0. "
            f"Got {len(ratios)} ratios and {len(differences)} differences."
        )
    x, y = (torch.tensor(list(each), dtype=torch.float64) for each in (ratios, differences))
    chosen = torch.randint(0, len(x), (draws, len(x)), generator=torch.Generator().manual_seed(seed))
    squares = x[chosen].square().sum(dim=1)
    slopes = (x[chosen] * y[chosen]).sum(dim=1)[squares > 0] / squares[squares > 0]
    tail = (1 - confidence) / 2
    low, high = slopes.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Slope(float((x * y).sum() / x.square().sum()), low, high, confidence)
