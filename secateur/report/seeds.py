"""What several seeds of one recipe found, as a mean with its spread, and how two recipes differ on the same seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import t


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


@dataclass(frozen=True)
class Difference:
    """How much more one recipe found than another, a mean over seeds that both have, with the interval around it."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def told(self) -> bool:
        """Whether the interval leaves 0 out: the difference is larger than the noise."""
        return self.low > 0 or self.high < 0

    def words(self, scale: float = 100.0, digits: int = 2) -> str:
        """Mean and interval, in points of a percent unless said: "+0.12 [-0.03, +0.27]"."""
        mean, low, high = (f"{scale * value:+.{digits}f}" for value in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]"


def paired(first: Mapping[int, float], second: Mapping[int, float], *, confidence: float = 0.95) -> Difference | None:
    """The second minus the first over the seeds that both have; values by seed. None for fewer than two such seeds.

    The interval is Student's, of the differences: what a seed does to both falls out.

    >>> paired({0: 0.90, 1: 0.91}, {0: 0.92, 1: 0.93}).mean
    0.02
    """
    gains = [second[seed] - first[seed] for seed in sorted(first.keys() & second.keys())]
    if len(gains) < 2:
        return None
    mean = fmean(gains)
    half = float(t.ppf((1 + confidence) / 2, len(gains) - 1)) * stdev(gains) / len(gains) ** 0.5
    return Difference(mean, mean - half, mean + half, len(gains))
