"""How many examples a sensitivity must be the largest over, so that new ones rarely pass it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from secateur.errors import InputError

CONSTANT = 3.0
"""C of the papers: by how much a new input may pass the largest contribution seen, among all of them."""


def sample_size(outputs: Sequence[int], failure: float = 1e-16) -> int:
    """The number of examples, `|S| = ceil(C ln(8 eta* eta / delta))` with C = 3.

    `outputs` are how many activations each layer computes for one example: `eta` is their sum and `eta*` the largest;
    `failure` is delta, the probability that the bounds do not hold (SiPP, arXiv 1910.05422; PFP, arXiv 1911.07412).
    Raises `InputError` for no layer and a failure that is not above 0.

    >>> sample_size([300, 100, 10], failure=0.1)
    49
    """
    if not outputs:
        raise InputError("The 'outputs' parameter of sample_size must name at least one layer. Got none.")
    if not failure > 0:
        raise InputError(f"The 'failure' parameter must be a float above 0. Got {failure!r} instead.")
    return max(1, math.ceil(CONSTANT * math.log(8 * max(outputs) * sum(outputs) / failure)))


def spread(patches: int, taps: int, failure: float = 1e-16) -> float:
    """`2 C ln(8 (P + 1) kappa / delta)`: what a sum of sensitivities is multiplied by in the bounds of a layer."""
    return 2 * CONSTANT * math.log(8 * (patches + 1) * taps / failure)
