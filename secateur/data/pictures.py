"""Labelled images as bytes in memory, and how a network is fed them: what shifts are made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.data.batches import Batches
from secateur.data.prepare import WHITE
from secateur.data.splits import stratified_order
from secateur.errors import DataError, InputError


@dataclass(eq=False)
class Pictures:
    """`images` are uint8 [images, channels, height, width]; `labels` int64 [images], or None where none are known.

    A network is fed (image / peak - mean) / std, one mean and std a channel. `numbers` are the images' places in the
    data set, which decide what a corruption draws for them; they count from 0 if left out. `names` are those of the
    classes.

    >>> Pictures(images, labels, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    """

    images: Tensor = field(repr=False)
    labels: Tensor | None = field(repr=False)
    mean: Sequence[float]
    std: Sequence[float]
    peak: int = WHITE
    numbers: Tensor | None = field(default=None, repr=False)
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise InputError(
                "Pictures must be uint8 of shape [images, channels, height, width]. "
                f"Got {images.dtype} of shape {list(images.shape)} instead."
            )
        if not len(images):
            raise DataError("Pictures must hold at least one image. They are empty.")
        if labels is not None and (labels.shape != images.shape[:1] or labels.is_floating_point()):
            raise InputError(
                f"The labels of pictures must be integers of shape [{len(images)}]. "
                f"Got {labels.dtype} of shape {list(labels.shape)} instead."
            )
        if not len(self.mean) == len(self.std) == images.shape[1]:
            raise InputError(
                f"Pictures of {images.shape[1]} channels need as many numbers in mean and std. "
                f"Got {len(self.mean)} and {len(self.std)}."
            )
        if self.numbers is None:
            self.numbers = torch.arange(len(images))

    @classmethod
    def of(
        cls, loader: Batches, limit: int | None = None, seed: int = 0, names: tuple[str, ...] | None = None
    ) -> Pictures:
        """The images of a loader that does not shuffle; at most `limit` of them, stratified by class, by `seed`."""
        chosen = torch.arange(loader.samples)
        if limit is not None and limit < loader.samples:
            chosen = stratified_order(loader.labels(), seed)[:limit].sort().values
        images, labels = loader.pixels(chosen)
        return cls(images, labels, loader.mean, loader.std, loader.peak, chosen, names)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def some(self, number: int, seed: int = 0) -> Pictures:
        """At most `number` of the images, drawn by `seed`, in their order."""
        if number >= len(self):
            return self
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(self), generator=generator)[:number].sort().values
        assert self.numbers is not None
        labels = None if self.labels is None else self.labels[chosen]
        return Pictures(self.images[chosen], labels, self.mean, self.std, self.peak, self.numbers[chosen], self.names)

    def to(self, device: torch.device) -> Pictures:
        """The same pictures on `device`; the numbers stay where they are."""
        labels = None if self.labels is None else self.labels.to(device)
        return Pictures(self.images.to(device), labels, self.mean, self.std, self.peak, self.numbers, self.names)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
        """Bytes, labels and numbers of `size` images after the other."""
        assert self.numbers is not None
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield self.images[part], None if self.labels is None else self.labels[part], self.numbers[part]

    def white(self, images: Tensor) -> Tensor:
        """Bytes whose largest value is 255, as corruptions and screens want them."""
        if self.peak == WHITE:
            return images
        return (images.float() * (WHITE / self.peak)).round().clamp(0, WHITE).to(torch.uint8)

    def shares(self, images: Tensor, peak: int | None = None) -> Tensor:
        """The images in [0, 1], float32; `peak` is that of the bytes, the pictures' own if left out."""
        return images.float().div_(self.peak if peak is None else peak)

    def normalised(self, shares: Tensor) -> Tensor:
        """What a network is fed for images in [0, 1]."""
        mean, std = (torch.tensor(list(v), device=shares.device).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (shares - mean).div_(std)
