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


def gaussian_noise(images: Tensor, draws: Draws, deviation: float) -> Tensor:
    """The images x plus N(0, deviation²)."""
    return images + deviation * draws.normal(*images.shape[1:])


def speckle_noise(images: Tensor, draws: Draws, deviation: float) -> Tensor:
    """The images x plus x N(0, deviation²)."""
    return images + images * (deviation * draws.normal(*images.shape[1:]))


def impulse_noise(images: Tensor, draws: Draws, share: float) -> Tensor:
    """The `share` of all values replaced, half of them by black and half by white."""
    chance = draws.uniform(0, 1, *images.shape[1:])
    return images.masked_fill(chance < share, 1).masked_fill(chance < share / 2, 0)


def shot_noise(images: Tensor, draws: Draws, photons: int) -> Tensor:
    """Poisson(photons x) / photons, where x is one of the 256 values of a byte; what exceeds 1 is 1."""
    steps = _steps(photons).to(images.device)
    levels = (images * 255).round().long()
    chance = draws.halves(*images.shape[1:]).long() & 0xFFFFFFFF
    found = torch.searchsorted(steps, (levels << 32) + chance, right=True)
    return (found - levels * photons).to(images) / photons


@lru_cache(maxsize=16)
def _steps(photons: int) -> Tensor:
    """The distribution functions of all 256 rates in one ascending row, int64 [256 * photons].

    Level v takes the numbers from v << 32 up: its n-th is where n events turn into n + 1, in 2**-32 of a chance.
    """
    events = np.arange(photons)
    below = poisson.cdf(events[None, :], np.arange(256)[:, None] * (photons / 255))
    steps = np.floor(below * 2.0**32).astype(np.int64)
    return torch.from_numpy((steps + (np.arange(256)[:, None] << 32)).ravel())
