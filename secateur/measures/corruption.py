"""The error of a network under corruptions, in one number: mean corruption error.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations" (arXiv
1903.12261): per corruption the errors of all severities are added and divided by those of a reference network; then the
mean over corruptions. On CIFAR the plain mean is usual.
"""

from __future__ import annotations

from collections.abc import Mapping

from secateur.errors import InputError

Errors = Mapping[tuple[str, int], float]
"""The error, a share, by corruption and severity."""


def mean_corruption_error(errors: Errors, reference: Errors | None = None) -> float:
    """mCE: the mean over corruptions of error sums over severities, over those of `reference`; without it, of means.

    >>> mean_corruption_error({("fog", 1): 0.1, ("fog", 2): 0.3, ("snow", 1): 0.4})
    0.3
    """
    if not errors or (reference is not None and not errors.keys() <= reference.keys()):
        raise InputError("A mean corruption error needs errors, and those of the reference at the same corruptions.")
    kinds = dict.fromkeys(kind for kind, _ in errors)
    found = []
    for kind in kinds:
        own = [place for place in errors if place[0] == kind]
        below = sum(reference[place] for place in own) if reference is not None else len(own)
        if not below:
            raise InputError(f"The reference must make errors under {kind!r} to be divided by. It makes none.")
        found.append(sum(errors[place] for place in own) / below)
    return sum(found) / len(found)
