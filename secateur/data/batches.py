"""What all loaders do alike, and the one whose batches are cut on the device from a data set that lives there whole."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from math import prod
from typing import TypeVar

import torch
from torch import Tensor

from secateur.data.augment import Augmentation
from secateur.data.order import Order, generator
from secateur.data.prepare import Batch, Drawn, Preparation, taken, to_device
from secateur.errors import DataError, InputError

Self = TypeVar("Self", bound="Batches")

_AT_ONCE = 2**23
"""Values of images that are made worse at once, 2,730 images of CIFAR."""


class Batches(ABC):
    """A sized iterable of `(inputs, targets)`: float32 [batch, channels, height, width], int64 [batch].

    Augmentations that mix labels make the targets float32 [batch, classes]. Order and augmentation are pure functions
    of (`seed`, epoch, batch): iterating twice gives the same batches until `set_epoch` is called, and `batch(i)` gives
    any of them without the ones before. Loaders that do not shuffle keep the order of the images and every last one;
    loaders that shuffle leave out a last batch of a single image, on which batch norm cannot train.

    >>> loader.set_epoch(3)
    >>> for inputs, targets in loader: ...
    """

    batch_size: int
    seed: int
    shuffle: bool
    mean: Sequence[float]
    std: Sequence[float]
    peak: int = 255
    epoch: int
    rank: int = 0
    ranks: int = 1

    @property
    @abstractmethod
    def samples(self) -> int:
        """How many images the split has, in all shards together."""

    @abstractmethod
    def labels(self) -> Tensor:
        """The labels of all images in the order of the files, int64 [samples]."""

    @abstractmethod
    def pixels(self, chosen: Tensor) -> Batch:
        """Images of the split as bytes, neither augmented nor normalised, and their labels, by their places."""

    @abstractmethod
    def _cut(self, epoch: int, index: int) -> Batch:
        """Batch `index` of `epoch`."""

    def __len__(self) -> int:
        return len(self._order())

    def __iter__(self) -> Iterator[Batch]:
        return self.since(0)

    def since(self, start: int) -> Iterator[Batch]:
        """The batches of the current epoch from `start` on: what is left of one that was interrupted."""
        epoch = self.epoch
        for index in range(start, len(self)):
            yield self._cut(epoch, index)

    def set_epoch(self, epoch: int) -> None:
        """From now on give the order and the augmentation of `epoch`."""
        self.epoch = epoch

    def batch(self, index: int) -> Batch:
        """Batch `index` of the current epoch."""
        if not 0 <= index < len(self):
            raise IndexError(f"There is no batch {index}: the loader has {len(self)}.")
        return self._cut(self.epoch, index)

    def shard(self: Self, rank: int, ranks: int) -> Self:
        """The loader of one of `ranks` processes, which share the images among them.

        The batches i of all ranks, each of `batch_size`, are together the batch i of one loader with `ranks` times the
        batch size. All ranks have as many batches, and as many images in each (see `Order` for the last one).

        >>> loader.shard(rank=0, ranks=2)
        """
        part = copy(self)
        part.rank, part.ranks = rank, ranks
        part._order()
        return part

    def _order(self) -> Order:
        return Order(self.samples, self.batch_size, self.seed, self.shuffle, self.rank, self.ranks)


@dataclass(eq=False)
class Loader(Batches):
    """Batches of images held whole: `images` is uint8 [samples, channels, height, width], `targets` int64 [samples].

    `peak` is the largest value of a pixel, `mean` and `std` are per channel on the scale [0, 1]; augmentations that mix
    labels need to know the number of `classes`. A shard holds all images, so that each is augmented, and mixed, as it
    would be in the whole batch. Nothing here waits for the device.
    """

    images: Tensor = field(repr=False)
    targets: Tensor = field(repr=False)
    batch_size: int
    mean: Sequence[float]
    std: Sequence[float]
    peak: int = 255
    seed: int = 0
    shuffle: bool = False
    augment: Sequence[Augmentation] = ()
    classes: int | None = None
    channels_last: bool = False
    epoch: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if len(self.images) != len(self.targets):
            raise InputError(
                f"A loader needs one target an image. Got {len(self.images)} images, {len(self.targets)} targets."
            )
        if self.channels_last:
            self.images = self.images.contiguous(memory_format=torch.channels_last)
        self._prepare = Preparation(
            self.images.shape[1:],
            self.mean,
            self.std,
            self.images.device,
            peak=self.peak,
            augment=self.augment,
            classes=self.classes,
            channels_last=self.channels_last,
        )
        self._order()
        self._permutation: tuple[int, Tensor] | None = None

    @property
    def samples(self) -> int:
        """How many images the split has, in all shards together."""
        return len(self.images)

    def labels(self) -> Tensor:
        """The labels of all images."""
        return self.targets

    def pixels(self, chosen: Tensor) -> Batch:
        """Images as bytes and their labels, by their places."""
        chosen = chosen.to(self.images.device)
        return self.images.index_select(0, chosen).contiguous(), self.targets.index_select(0, chosen)

    def since(self, start: int) -> Iterator[Batch]:
        """The batches of the current epoch from `start` on."""
        epoch, end = self.epoch, len(self)
        values = self.batch_size * prod(self.images.shape[1:])
        together = max(1, _AT_ONCE // values) if self._prepare.spoils else 1
        for first in range(start, end, together):
            yield from self._several(epoch, range(first, min(first + together, end)))

    def _cut(self, epoch: int, index: int) -> Batch:
        return next(self._several(epoch, [index]))

    def _several(self, epoch: int, indices: Sequence[int]) -> Iterator[Batch]:
        """Some batches of `epoch`."""
        made = self._prepare.several([self._taken(epoch, index) for index in indices])
        for index, (inputs, targets) in zip(indices, made, strict=True):
            share = self._order().share(index)
            yield (inputs[share], targets[share]) if self._prepare.mixes else (inputs, targets)

    def _taken(self, epoch: int, index: int) -> tuple[Tensor, Tensor, Drawn]:
        """Batch `index` as bytes, its labels and what was drawn for it; the batch of all ranks where images mix."""
        order = self._order()
        whole, share = order.whole(index), order.share(index)
        drawn: Drawn = []
        if self.augment:
            drawn = self._prepare.draw(whole.stop - whole.start, generator(self.seed, 1, epoch, index))
        if not self._prepare.mixes:  # an image is then what it is without the others
            if self.ranks > 1:
                drawn = [(step, tuple(draw[..., share] for draw in draws)) for step, draws in drawn]
            whole = slice(whole.start + share.start, whole.start + share.stop)
        if not self.shuffle:
            return self.images[whole], self.targets[whole], drawn
        chosen = self._shuffled(order, epoch)[whole]
        return taken(self.images, chosen, self.channels_last), self.targets.index_select(0, chosen), drawn

    def _shuffled(self, order: Order, epoch: int) -> Tensor:
        """The order of the images in `epoch`, kept on the device until another epoch is asked for."""
        if self._permutation is None or self._permutation[0] != epoch:
            self._permutation = (epoch, to_device(order.permutation(epoch), self.images.device))
        return self._permutation[1]


class Absent(Loader):
    """The loader of a split whose files are not there; it is false, and asking it for batches raises `reason`."""

    def __init__(self, reason: DataError, like: Loader) -> None:
        super().__init__(like.images[:0], like.targets[:0], like.batch_size, like.mean, like.std)
        self.reason = reason

    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        raise self.reason

    def labels(self) -> Tensor:
        """Nothing: raises `reason`."""
        raise self.reason

    def pixels(self, chosen: Tensor) -> Batch:  # noqa: ARG002
        """Nothing: raises `reason`."""
        raise self.reason
