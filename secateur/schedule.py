"""How a value moves while a run goes on: pure functions from progress in [0, 1] to a number.

A schedule in use is one of these with its ends filled in: `partial(cubic, start=0.0, end=0.9)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from secateur.errors import InputError

Schedule = Callable[[float], float]


def constant(progress: float, value: float = 1.0) -> float:
    """`value`, whatever the progress."""
    _check(progress)
    return value


def linear(progress: float, start: float = 0.0, end: float = 1.0) -> float:
    """The straight line from `start` to `end`.

    >>> linear(0.25, start=0.0, end=0.8)
    0.2
    """
    return start + (end - start) * _check(progress)


def cosine(progress: float, start: float = 0.0, end: float = 1.0) -> float:
    """Half a cosine from `start` to `end`: slow at both ends."""
    return end + (start - end) * (1 + math.cos(math.pi * _check(progress))) / 2


def cubic(progress: float, start: float = 0.0, end: float = 1.0) -> float:
    """Fast at first and slower towards the end: `end + (start - end) (1 - progress)^3`.

    The sparsity schedule of Zhu & Gupta, To prune, or not to prune (arXiv 1710.01878, equation 1).
    """
    return end + (start - end) * (1 - _check(progress)) ** 3


def exponential(progress: float, start: float, end: float) -> float:
    """The same factor for every equal share of progress: `start (end / start)^progress`; both ends must be positive."""
    if not (start > 0 and end > 0):
        raise InputError(
            f"The ends of an exponential schedule must be positive. Got start={start} and end={end} instead."
        )
    return float(start * (end / start) ** _check(progress))


def steps(progress: float, values: Sequence[float]) -> float:
    """The values one after another, each for an equal share of progress; the last holds at 1.

    >>> [steps(p, (0.2, 0.5)) for p in (0.0, 0.49, 0.5, 1.0)]
    [0.2, 0.2, 0.5, 0.5]
    """
    if not values:
        raise InputError("The 'values' parameter of steps must hold at least one number. Got none.")
    return values[min(int(_check(progress) * len(values)), len(values) - 1)]


def _check(progress: float) -> float:
    if not 0.0 <= progress <= 1.0:
        raise InputError(f"The 'progress' of a schedule must be in [0, 1]. Got {progress} instead.")
    return progress
