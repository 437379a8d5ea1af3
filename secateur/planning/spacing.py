"""Points at which a network that is pruned in rounds is retrained: shares of it that are left."""

from __future__ import annotations

from secateur.errors import InputError


def geometric(first: float, last: float, count: int) -> list[float]:
    """`count` shares from `first` to `last`, each the same part of the one before.

    >>> [round(100 * (1 - share), 1) for share in geometric(0.8, 0.1, 4)]  # prune ratios in percent
    [20.0, 60.0, 80.0, 90.0]
    """
    _check(first, last, count)
    return [first * (last / first) ** (i / max(1, count - 1)) for i in range(count)]


def linear(first: float, last: float, count: int) -> list[float]:
    """`count` shares from `first` to `last`, each the same amount below the one before."""
    _check(first, last, count)
    return [first + (last - first) * i / max(1, count - 1) for i in range(count)]


def _check(first: float, last: float, count: int) -> None:
    if not 0 < last <= first <= 1:
        raise InputError(f"The shares 'first' and 'last' must fall within (0, 1]. Got {first} and {last} instead.")
    if count < 1:
        raise InputError(f"The 'count' parameter must be a positive integer. Got {count} instead.")
