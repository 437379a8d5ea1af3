"""Augmentations of a whole batch at once, on the device of the images; nothing runs per image.

An augmentation takes uint8 images [batch, channels, height, width] and a generator, and returns as many of the same
shape. Draws are made on the CPU, so that every device sees the same ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Augment = Callable[[Tensor, torch.Generator], Tensor]


def shift(images: Tensor, generator: torch.Generator, padding: int = 2) -> Tensor:
    """Every image moved by up to `padding` pixels along both axes, each by its own offset.

    What comes in from outside is black: the same as a random crop out of the image padded by `padding`.
    """
    batch, _, height, width = images.shape
    down, across = torch.randint(0, 2 * padding + 1, (2, batch), generator=generator).to(images.device)
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)  # a view on every possible crop
    return windows[torch.arange(batch, device=images.device), :, down, across]


def crop_and_flip(images: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """A random crop out of every image padded by `padding`, half of them mirrored: the usual recipe for CIFAR."""
    cropped = shift(images, generator, padding)
    mirrored = torch.randint(0, 2, (len(images), 1, 1, 1), generator=generator, dtype=torch.bool).to(images.device)
    return torch.where(mirrored, cropped.flip(-1), cropped)
