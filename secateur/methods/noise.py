"""The logistic noise of gates: one number for every (seed, step, index), the same on every device and in every form.

L = log(u / (1 - u)) with u = a / 2^24, a odd and uniform, from the 23 highest bits of a hash (`secateur.hashing`). With
b = 2^24 - a and 2^e the power of two next to a / b,

    L = log(a / b) = e log 2 + 2 artanh(s),        s = (a - 2^e b) / (a + 2^e b),        |s| < 0.2004

and the series of artanh ends after its term in s^7, which leaves 2e-7. Each of these is an addition, a multiplication
or a division of float32, which all devices round alike; logarithms they do not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from secateur.hashing import Draw, hashed

EXPONENT = -1 << 23
"""The bits of a float32 above those of its mantissa; exponents stand there, as multiples of 2^23."""
LN2 = math.log(2) / 2**23
SERIES = tuple(2 / n for n in (1, 3, 5, 7))
"""What powers of s^2 are multiplied by, beside one s."""


def logistic_noise(indices: Tensor, draw: Draw) -> Tensor:
    """The logistic number of every index (int32), float32; chances are exact to 2^-24 and |L| is at most 16.7."""
    first, second = draw.keys()
    a = (hashed(indices, first, second) >> 7).bitwise_or_(1).float()
    b = 2.0**24 - a
    e = (a.view(torch.int32) - b.view(torch.int32)).add_(1 << 22).bitwise_and_(EXPONENT)
    c = (b.view(torch.int32) + e).view(torch.float32)
    s = (a - c).div_(a.add_(c))
    t, found = s * s, torch.full_like(s, SERIES[-1])
    for factor in reversed(SERIES[:-1]):
        found.mul_(t).add_(factor)
    return e.float().mul_(LN2).add_(found.mul_(s))
