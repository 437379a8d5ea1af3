"""Batches cut on the device from a data set that lives there whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from secateur.data.augment import Augment
from secateur.errors import DataError, InputError


def generator(*key: int) -> torch.Generator:
    """A CPU generator whose stream is a function of `key` alone; near keys give unrelated streams."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(seed >> 1)


@dataclass(eq=False)
class Loader:
    """A sized iterable of `(inputs, targets)`: float32 [batch, channels, height, width], int64 [batch].

    `images` is uint8 with values up to `peak`, `mean` and `std` are per channel on the scale [0, 1]. Order and
    augmentation are pure functions of (`seed`, epoch, batch): iterating twice gives the same batches until
    `set_epoch` is called, and `batch(i)` gives any of them without the ones before. Loaders that do not shuffle keep
    the order of the images and every last one; loaders that shuffle leave out a last batch of a single image, on
    which batch norm cannot train.

    >>> loader.set_epoch(3)
    >>> for inputs, targets in loader: ...
    """

    images: Tensor = field(repr=False)
    targets: Tensor = field(repr=False)
    batch_size: int
    mean: Sequence[float]
    std: Sequence[float]
    peak: int = 255
    seed: int = 0
    shuffle: bool = False
    augment: Augment | None = None
    channels_last: bool = False
    epoch: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(
                f"The 'batch_size' parameter of a loader must be a positive int. Got {self.batch_size} instead."
            )
        if len(self.images) != len(self.targets):
            raise InputError(
                f"A loader needs one target an image. Got {len(self.images)} images, {len(self.targets)} targets."
            )
        mean, std = (torch.tensor(list(v), device=self.images.device).view(1, -1, 1, 1) for v in (self.mean, self.std))
        self._scale = 1 / (self.peak * std)
        self._offset = mean / std
        self._order: tuple[int, Tensor] | None = None

    @property
    def samples(self) -> int:
        """How many images the split has."""
        return len(self.images)

    def __len__(self) -> int:
        full, rest = divmod(self.samples, self.batch_size)
        drop = self.shuffle and rest == 1 and full > 0
        return full + (rest > 0 and not drop)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = self.epoch
        for index in range(len(self)):
            yield self._cut(epoch, index)

    def set_epoch(self, epoch: int) -> None:
        """From now on give the order and the augmentation of `epoch`."""
        self.epoch = epoch

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Batch `index` of the current epoch."""
        if not 0 <= index < len(self):
            raise IndexError(f"There is no batch {index}: the loader has {len(self)}.")
        return self._cut(self.epoch, index)

    def _cut(self, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        start, stop = index * self.batch_size, (index + 1) * self.batch_size
        chosen = self._shuffled(epoch)[start:stop] if self.shuffle else slice(start, stop)
        images, targets = self.images[chosen], self.targets[chosen]
        if self.augment is not None:
            images = self.augment(images, generator(self.seed, 1, epoch, index))
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return images.to(torch.float32, memory_format=layout).mul_(self._scale).sub_(self._offset), targets

    def _shuffled(self, epoch: int) -> Tensor:
        """The order of the images in `epoch`, kept until another epoch is asked for."""
        if self._order is None or self._order[0] != epoch:
            order = torch.randperm(self.samples, generator=generator(self.seed, 0, epoch))
            self._order = (epoch, order.to(self.images.device))
        return self._order[1]


class Absent(Loader):
    """The loader of a split whose files are not there; it is false, and asking it for batches raises `reason`."""

    def __init__(self, reason: DataError, like: Loader) -> None:
        super().__init__(like.images[:0], like.targets[:0], like.batch_size, like.mean, like.std)
        self.reason = reason

    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        raise self.reason
