"""Gradual magnitude pruning: the smallest weights leave in many small rounds, fast at first and slower in the end.

M. Zhu & S. Gupta, To prune, or not to prune: exploring the efficacy of pruning for model compression (arXiv
1710.01878), equation 1. After round n of N, with the share k of the budget,

    share kept = k + (1 - k) (1 - n / N)^3

Difference from the paper: one threshold over all layers unless `planning` says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from secateur.methods.iterative import Iterative


@dataclass(eq=False, kw_only=True)
class GradualMagnitude(Iterative):
    """`Iterative` with the paper's schedule; the other fields are its own.

    start    0
    stop     0.75
    rounds   100

    >>> fit(model, data, epochs=60, methods=[GradualMagnitude(groups=elements(model), budget="5% weights")])
    """

    start: float = 0.0
    stop: float = 0.75
    rounds: int = 100

    def share(self, number: int) -> float:
        """What the budget leaves after a round, as a share of the dense model."""
        return self._final_share + (1 - self._final_share) * (1 - number / self.rounds) ** 3
