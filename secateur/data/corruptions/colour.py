"""Changes of brightness, contrast and saturation, and what storing an image costs.

Images are float32 [batch, channels, height, width] in [0, 1]; results may leave that range.
"""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.data.corruptions.draws import Draws
from secateur.data.corruptions.jpeg import compressed
from secateur.data.corruptions.linear import box, like, separable
from secateur.data.corruptions.values import to_bytes


def brightness(images: Tensor, draws: Draws, more: float) -> Tensor:  # noqa: ARG001 - nothing here is random
    """The value of HSV raised by `more`, at most to 1; hue and saturation stay, so colours are multiplied."""
    value = images.amax(1, keepdim=True)
    raised = (value + more).clamp(0, 1)
    return torch.where(value > 0, images * (raised / value.clamp(min=1e-6)), raised)


def contrast(images: Tensor, draws: Draws, share: float) -> Tensor:  # noqa: ARG001
    """Distances from the mean of each channel of the image, times `share`."""
    mean = images.mean((2, 3), keepdim=True)
    return torch.lerp(mean, images, share)


def saturate(images: Tensor, draws: Draws, factor: float, more: float) -> Tensor:  # noqa: ARG001
    """The saturation of HSV times `factor` plus `more`, within [0, 1]; what has no hue turns red, grey images stay."""
    if images.shape[1] == 1:
        return images
    value, least = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    spread = value - least
    saturation = spread / value.clamp(min=1e-6)
    wanted = (saturation * factor + more).clamp(0, 1)
    red = images.new_tensor([0, 1, 1]).view(1, 3, 1, 1)
    below = torch.where(spread > 0, (value - images) / spread.clamp(min=1e-6), red)
    return value * (1 - wanted * below)


def pixelate(images: Tensor, draws: Draws, share: float) -> Tensor:  # noqa: ARG001
    """Shrunk to `share` of the size and enlarged again, both by Pillow's BOX filter, which enlarges by repeating."""
    height, width = images.shape[-2:]
    low = max(1, int(height * share)), max(1, int(width * share))
    # Pillow rounds to bytes after the columns and after the rows
    rows, columns = like(images, box, (height, low[0]), (width, low[1]))
    small = _rounded(rows @ _rounded(images @ columns.mT))
    return separable(small, *like(images, box, (low[0], height), (low[1], width)))


def _rounded(images: Tensor) -> Tensor:
    """To the nearest byte, in place; a half goes up even where float32 fell just short of it."""
    return images.mul_(255).add_(0.5 + 1e-4).floor_().div_(255)


def jpeg_compression(images: Tensor, draws: Draws, quality: int) -> Tensor:  # noqa: ARG001
    """Stored as JPEG of `quality` and read again."""
    return compressed(to_bytes(images).to(images), quality).div_(255)
