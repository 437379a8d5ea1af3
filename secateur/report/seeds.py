"""What several seeds of one recipe found, as a mean with its spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class Spread:
    """Values of several runs: their mean, their sample standard deviation (None for a single one) and how many."""

    mean: float
    deviation: float | None
    count: int

    def words(self, scale: float = 100.0, digits: int = 2) -> str:
        """Mean and deviation, in percent unless said: "91.62 ± 0.12"; a single value stands alone."""
        mean = f"{scale * self.mean:.{digits}f}"
        return mean if self.deviation is None else f"{mean} ± {scale * self.deviation:.{digits}f}"


def spread(values: Sequence[float]) -> Spread | None:
    """The spread of some values; None for no value at all."""
    if not values:
        return None
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None, len(values))
