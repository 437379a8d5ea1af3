"""Snow, frost, fog and spatter: layers laid over the image.

Images are float32 [batch, channels, height, width] in [0, 1]; results may leave that range.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from secateur.data.corruptions.blur import smeared
from secateur.data.corruptions.draws import Draws
from secateur.data.corruptions.edges import distances, edges
from secateur.data.corruptions.linear import blurred, filtered, zoomed
from secateur.data.corruptions.values import floored, grey, painted


def fog(images: Tensor, draws: Draws, amount: float, decay: float) -> Tensor:
    """A plasma on top, `amount` of it, darkened so that the brightest value of the image stays what it was."""
    height, width = images.shape[-2:]
    layer = plasma(draws, 1 << (max(height, width) - 1).bit_length(), decay)[:, None, :height, :width]
    most = images.amax((1, 2, 3), keepdim=True)
    return (images + amount * layer) * most / (most + amount)


def plasma(draws: Draws, size: int, decay: float) -> Tensor:
    """A fractal landscape by diamonds and squares on a torus: float32 [batch, size, size] from 0 to 1.

    Each point is a quarter of what its four neighbours sum to, plus a wobble uniform within ± 100² at first; `decay`
    divides the 100 from one scale to the next. `size` must be a power of two.
    """
    maps = torch.zeros(len(draws.keys), size, size, device=draws.keys.device)
    wobble, step = 100.0, size
    while step >= 2:
        half = step // 2
        corners = maps[:, ::step, ::step]

        def around(total: Tensor, amount: float = wobble**2) -> Tensor:
            return total / 4 + draws.uniform(-amount, amount, *total.shape[1:])

        pairs = corners + corners.roll(-1, 1)
        centres = around(pairs + pairs.roll(-1, 2))
        maps[:, half::step, half::step] = centres
        maps[:, ::step, half::step] = around(centres + centres.roll(1, 1) + corners + corners.roll(-1, 2))
        maps[:, half::step, ::step] = around(centres + centres.roll(1, 2) + corners + corners.roll(-1, 1))
        wobble, step = wobble / decay, half
    maps -= maps.amin((1, 2), keepdim=True)
    return maps / maps.amax((1, 2), keepdim=True)


def snow(
    images: Tensor,
    draws: Draws,
    mean: float,
    deviation: float,
    size: float,
    least: float,
    radius: int,
    sigma: float,
    keep: float,
) -> Tensor:
    """Flakes of `size`, falling both ways, over an image that is whitened but for the share `keep`."""
    layer = mean + deviation * draws.normal(1, *images.shape[-2:])
    layer = zoomed(layer, size)
    layer = floored(layer.masked_fill(layer < least, 0))
    layer = floored(smeared(layer, draws.uniform(-135, -45), radius, sigma))
    white = keep * images + (1 - keep) * torch.maximum(images, 1.5 * grey(images) + 0.5)
    return white + layer + layer.flip(2, 3)


def frost(images: Tensor, draws: Draws, keep: float, amount: float) -> Tensor:
    """The images x as keep x + amount * ice.

    The published corruption lays crops of five photographs over the image. Here the ice is computed, so that no
    picture is needed and no two images share one; errors under it stand beside the published ones, not for them.
    """
    return painted(images, amount * ice(draws, *images.shape[-2:]).unsqueeze(1), (214, 228, 242), keep)


def ice(draws: Draws, height: int, width: int) -> Tensor:
    """Frost on a pane: float32 [batch, height, width] in [0, 1], bright needles on a haze that thins out in places.

    The needles are the ridges of a rough fractal, along which it is near one half; the haze is a smooth one.
    """
    size = 1 << (max(height, width) - 1).bit_length()
    needles = 1 - (2 * plasma(draws, size, 1.6) - 1).abs()
    haze = plasma(draws, size, 2.2)
    return (needles**4 * (0.35 + 0.65 * haze) + 0.35 * haze)[:, :height, :width].clamp(0, 1)


def spatter(
    images: Tensor, draws: Draws, mean: float, deviation: float, sigma: float, least: float, amount: float, mud: bool
) -> Tensor:
    """Drops where blurred noise exceeds `least`: of mud, with soft edges, or of water, bright along its edges."""
    noise = mean + deviation * draws.normal(1, *images.shape[-2:])
    liquid = blurred(noise, sigma)
    wet = liquid > least
    if mud:
        cover = blurred(wet.to(images), amount)
        cover = cover.masked_fill(cover < 0.8, 0)
        return painted(images, cover, (63, 42, 20), 1 - cover)
    liquid = floored(liquid.masked_fill(~wet, 0))
    cover = liquid * _relief(liquid)
    peak = cover.amax((2, 3), keepdim=True).clamp(min=1e-6)
    return painted(images, amount * cover / peak, (175, 238, 238), 1.0)


def _relief(liquid: Tensor) -> Tensor:
    """How water catches the light: the distance from the edges of the drops, equalised and embossed, in bytes.

    float32 [batch, 1, height, width] from 0 to 255. Each operation rounds as its like in OpenCV does, but for the
    edges, whose gradient has its Euclidean length here, and for the distances, which are exact.
    """
    mean = np.full((3, 3), 1 / 9)
    near = filtered(distances(edges(liquid, 50 / 255, 150 / 255), 20), mean).add(1e-4).floor()
    embossed = filtered(_equalised(near, 21), np.array([[-2.0, -1, 0], [-1, 0, 1], [0, 1, 2]])).round().clamp(0, 255)
    return filtered(embossed, mean).round()


def _equalised(levels: Tensor, count: int) -> Tensor:
    """Levels 0 to count - 1 spread over 0 to 255, so that each step is as long as pixels are many; one alone stays."""
    flat = levels.flatten(1).long()
    sizes = torch.zeros(len(flat), count, device=levels.device).scatter_add_(1, flat, torch.ones_like(flat).float())
    below = sizes.cumsum(1)
    lowest = sizes.gather(1, flat.amin(1, keepdim=True))
    rest = flat.shape[1] - lowest
    spread = ((below - lowest) * (255 / rest.clamp(min=1))).round()
    return torch.where(rest > 0, spread.gather(1, flat), flat.float()).view_as(levels)
