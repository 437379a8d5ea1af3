"""Values of pixels: bytes and shares of white, colours, grey."""

from __future__ import annotations

import torch
from torch import Tensor

_SLACK = 2.0**-13
"""Added before rounding down, so that a value whose float32 fell just short of a byte is that byte."""


def to_bytes(images: Tensor) -> Tensor:
    """uint8 from [0, 1], rounded down as the published data were; what lies outside is cut off."""
    return images.clamp(0, 1).mul_(255).add_(_SLACK).to(torch.uint8)


def floored(images: Tensor) -> Tensor:
    """`images` as if stored in bytes and read again."""
    return to_bytes(images).to(images.dtype).div_(255)


def grey(images: Tensor) -> Tensor:
    """The luma 0.299 R + 0.587 G + 0.114 B of colours, [batch, 1, height, width]; grey images as they are."""
    if images.shape[1] == 1:
        return images
    weights = images.new_tensor([0.299, 0.587, 0.114])
    return torch.einsum("bchw,c->bhw", images, weights).unsqueeze(1)


def painted(images: Tensor, cover: Tensor, colour: tuple[int, int, int], keep: Tensor | float) -> Tensor:
    """The images x as keep x + cover * colour, the colour out of 255; `cover` is [batch, 1, height, width].

    A grey image takes the first value of the colour, as in MNIST-C.
    """
    paint = images.new_tensor(colour[: images.shape[1]]).view(1, -1, 1, 1) / 255
    return keep * images + cover * paint
