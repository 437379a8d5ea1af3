"""Noise of sensors and of transmission: every value of an image changes on its own.

Images are float32 [batch, channels, height, width] in [0, 1]; results may leave that range.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from scipy.stats import poisson
from torch import Tensor

from secateur.data.corruptions.draws import Draws

_CELLS = 12
"""Bits of a chance that are looked up in `_counts`; about one in a hundred needs the rest as well."""


def gaussian_noise(images: Tensor, draws: Draws, deviation: float) -> Tensor:
    """The images x plus N(0, deviation²)."""
    return draws.normal(*images.shape[1:]).mul_(deviation).add_(images)


def speckle_noise(images: Tensor, draws: Draws, deviation: float) -> Tensor:
    """The images x plus x N(0, deviation²)."""
    return draws.normal(*images.shape[1:]).mul_(deviation).mul_(images).add_(images)


def impulse_noise(images: Tensor, draws: Draws, share: float) -> Tensor:
    """The `share` of all values replaced, half of them by black and half by white."""
    chance = draws.uniform(0, 1, *images.shape[1:])
    # comparisons that stay float32, and a step out of [0, 1] for a fill: both are several times as fast
    black = torch.lt(chance, share / 2, out=torch.empty_like(chance))
    return chance.lt_(share).sub_(black, alpha=2).add_(images)


def shot_noise(images: Tensor, draws: Draws, photons: int) -> Tensor:
    """Poisson(photons x) / photons, where x is one of the 256 values of a byte; what exceeds 1 is 1.

    By inversion: the count is the number of values of the distribution function up to a uniform number.
    """
    bits = draws.halves(*images.shape[1:]).flatten()
    levels = images.flatten().mul(255).round_().int()
    cells = (bits >> 32 - _CELLS).bitwise_and_((1 << _CELLS) - 1).add_(levels << _CELLS)
    counts = _counts(photons).to(images.device).index_select(0, cells)
    rest = counts.lt(0).nonzero().flatten()
    level, chance = levels[rest].long(), bits[rest].long() & 0xFFFFFFFF
    found = torch.searchsorted(_steps(photons).to(images.device), (level << 32) + chance, right=True)
    counts[rest] = (found - level * photons).to(counts)
    return counts.to(images).div_(photons).view_as(images)


@lru_cache(maxsize=16)
def _steps(photons: int) -> Tensor:
    """The distribution functions of all 256 rates in one ascending row, int64 [256 * photons].

    Level v takes the numbers from v << 32 up: its n-th is where n events turn into n + 1, in 2**-32 of a chance.
    """
    events = np.arange(photons)
    below = poisson.cdf(events[None, :], np.arange(256)[:, None] * (photons / 255))
    steps = np.floor(below * 2.0**32).astype(np.int64)
    return torch.from_numpy((steps + (np.arange(256)[:, None] << 32)).ravel())


@lru_cache(maxsize=16)
def _counts(photons: int) -> Tensor:
    """The events of each level in each of 2**_CELLS equal cells of the chance, int16 [256 << _CELLS].

    -1 where a step lies in the cell, so that the whole chance must decide.
    """
    number = 256 << _CELLS
    inside = (_steps(photons) >> 32 - _CELLS).bincount(minlength=number)[:number]
    before = (inside.cumsum(0) - inside).view(256, -1) - torch.arange(256).unsqueeze(1) * photons
    return before.flatten().masked_fill_(inside > 0, -1).short()
