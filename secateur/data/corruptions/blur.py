"""Blurs of lenses, of glass and of motion, and the elastic deformation.

Images are float32 [batch, channels, height, width] in [0, 1]; results may leave that range by rounding.
"""

from __future__ import annotations

from math import exp

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.data.corruptions.draws import Draws
from secateur.data.corruptions.linear import blurred, disk, filtered, sampled, zoomed
from secateur.data.corruptions.values import floored

_FAINT = 1e-5
"""Taps of a kernel that weigh less are left out: they cannot change a byte."""


def gaussian_blur(images: Tensor, draws: Draws, sigma: float) -> Tensor:  # noqa: ARG001 - nothing is random
    """Blurred by a Gaussian of deviation `sigma`."""
    return blurred(images, sigma)


def defocus_blur(images: Tensor, draws: Draws, radius: float, alias: float) -> Tensor:  # noqa: ARG001
    """Every point spread over a disk."""
    return filtered(images, disk(radius, alias))


def zoom_blur(images: Tensor, draws: Draws, stop: float, step: float) -> Tensor:  # noqa: ARG001
    """The mean of the image and of its zooms by 1, 1 + step, ... below `stop`, as NumPy counts them."""
    factors = np.arange(1, stop, step).tolist()
    total = images.clone()
    for factor in factors:
        total += zoomed(images, factor)
    return total / (len(factors) + 1)


def glass_blur(images: Tensor, draws: Draws, sigma: float, reach: int, rounds: int, chance: float = 1) -> Tensor:
    """Blurred, pixels shuffled by up to `reach` rows and columns, blurred again.

    `rounds` times, from the last row and column on, each pixel trades with one at a random offset in [-reach, reach),
    or, at `chance` < 1, may stay. That is what the released code does to grey images. On those of colour its
    exchange, made on NumPy views, only copies from the offset: so were the published files made, and so it is here.
    """
    images = floored(blurred(images, sigma))
    count, channels, height, width = images.shape
    flat = images.flatten(2)
    rows, columns = max(0, height - 2 * reach), max(0, width - 2 * reach)
    for _ in range(rounds):
        offsets = draws.integers(-reach, reach, 2, rows, columns)
        stays = draws.uniform(0, 1, rows, columns) >= chance
        offsets = offsets.masked_fill(stays.unsqueeze(1), 0)
        for down, across in _fronts(rows, columns, reach, images.device):
            here = (height - reach - down) * width + width - reach - across
            moved = offsets[:, :, down, across]
            there = here + moved[:, 0] * width + moved[:, 1]
            places = there.unsqueeze(1).expand(count, channels, -1)
            before = flat[:, :, here]
            flat[:, :, here] = flat.gather(2, places)
            if channels == 1:
                flat.scatter_(2, places, before)
    return blurred(flat.unflatten(2, (height, width)), sigma)


def _fronts(rows: int, columns: int, reach: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """The pixels of a scan in groups that touch nothing in common, counted from its start; earlier groups come first.

    An exchange touches up to `reach` rows and columns around, so a pixel of the next row may be dealt with as soon as
    the row before is 2 reach + 1 columns ahead: the fronts are the slanted lines between.
    """
    stride = 2 * reach + 1
    down, across = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    time = (stride * down + across).flatten()
    order = time.argsort(stable=True)
    sizes = time.bincount().tolist() if len(time) else []
    parts = zip(down.flatten()[order].split(sizes), across.flatten()[order].split(sizes), strict=True)
    return [(a.to(device), b.to(device)) for a, b in parts if len(a)]


def motion_blur(images: Tensor, draws: Draws, radius: int, sigma: float) -> Tensor:
    """Smeared along a direction within 45 degrees of the horizontal."""
    return smeared(images, draws.uniform(-45, 45), radius, sigma)


def smeared(images: Tensor, degrees: Tensor, radius: int, sigma: float) -> Tensor:
    """Half a Gaussian of deviation `sigma` along the direction of each image, over 2 radius + 1 whole pixels.

    This is the motion blur of ImageMagick: tap i reads ceil(i sin - 1/2) rows below, ceil(i cos - 1/2) columns to the
    right, and the edge repeats outside.
    """
    weights = [exp(-0.5 * (i / sigma) ** 2) for i in range(2 * radius + 1)]
    weights = [weight / sum(weights) for weight in weights if weight / sum(weights) >= _FAINT]
    radians = degrees.double() * (np.pi / 180)
    taps = torch.arange(len(weights), device=images.device).unsqueeze(1)
    down, across = (torch.ceil(taps * part - 0.5).long() for part in (radians.sin(), radians.cos()))
    (above, below), (left, right) = ((-int(by.amin()), int(by.amax())) for by in (down, across))
    count, channels, height, width = images.shape
    padded = F.pad(images, (left, right, above, below), mode="replicate")
    tall, wide = padded.shape[2:]
    # whatever starts anywhere and is as long as a row, without a copy: a tap moves every row of an image alike
    rows = padded.as_strided((padded.numel() - width + 1, width), (1, 1))
    starts = torch.arange(count * channels, device=images.device).view(count, channels, 1) * (tall * wide)
    starts = starts + torch.arange(height, device=images.device) * wide
    moves = (above + down) * wide + left + across
    out, read = images.new_zeros(starts.numel(), width), images.new_empty(starts.numel(), width)
    for weight, move in zip(weights, moves, strict=True):
        torch.index_select(rows, 0, (starts + move.view(-1, 1, 1)).flatten(), out=read)
        out.add_(read, alpha=weight)
    return out.view_as(images)


def elastic_transform(images: Tensor, draws: Draws, strength: float, sigma: float, jitter: float) -> Tensor:
    """An affine map that moves three points by up to `jitter`, then a smooth random displacement.

    The displacement is `strength` times uniform noise in [-1, 1) blurred by `sigma`. All three are shares of the
    shorter side of the image.
    """
    height, width = images.shape[-2:]
    side = min(height, width)
    moved = draws.uniform(-jitter * side, jitter * side, 3, 2)
    down, across = _affine(moved, height, width)
    images = sampled(images, down, across, "mirror")
    if not strength:
        return images
    noise = draws.uniform(-1, 1, 2, height, width)
    shifts = blurred(noise, sigma * side, "reflect", 3.0) * (strength * side)
    rows = torch.arange(height, device=images.device).unsqueeze(1)
    columns = torch.arange(width, device=images.device)
    return sampled(images, rows + shifts[:, 1], columns + shifts[:, 0], "reflect")


def _affine(moved: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The rows and columns pixels are read from, [batch, height, width], if three points move by `moved` (x, y)."""
    x, y, arm = width // 2, height // 2, min(height, width) // 3
    before = torch.tensor([[x + arm, y + arm], [x + arm, y - arm], [x - arm, y - arm]], dtype=torch.float64)
    after = moved.double().cpu() + before
    ones = torch.ones_like(after[..., :1])
    back = torch.linalg.solve(torch.cat([after, ones], dim=2), before).to(moved.device)  # [batch, x y 1, x y]
    rows = torch.arange(height, device=moved.device, dtype=torch.float64).view(1, -1, 1)
    columns = torch.arange(width, device=moved.device, dtype=torch.float64)
    to_x, to_y = (
        columns * back[:, 0, i, None, None] + rows * back[:, 1, i, None, None] + back[:, 2, i, None, None]
        for i in (0, 1)
    )
    return to_y, to_x
