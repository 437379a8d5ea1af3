"""Which images come in which batch: a function of seed and epoch, shared out among the ranks of a training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from secateur.errors import InputError


def seed_of(*key: int) -> int:
    """A seed in [0, 2**63) that is a function of `key` alone; near keys give unrelated ones."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) >> 1


def generator(*key: int) -> torch.Generator:
    """A CPU generator whose stream is a function of `key` alone."""
    return torch.Generator().manual_seed(seed_of(*key))


@dataclass(frozen=True)
class Order:
    """The batches of one rank out of `ranks`; batch i of all ranks together is the *whole* batch i.

    Whole batches are what a single process with `ranks` times the batch size sees: `samples` in the epoch's order, cut
    every `ranks * batch_size`. All ranks have as many batches. Where the last whole batch is incomplete, an order that
    shuffles gives every rank as many images of it, leaves out the fewer than `ranks` that remain, and all of them if
    that were one each, on which batch norm cannot train. One that does not shuffle keeps every image: shares differ by
    at most one, and fewer than `ranks` left over are seen with the batch before.
    """

    samples: int
    batch_size: int
    seed: int = 0
    shuffle: bool = False
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(
                f"The 'batch_size' parameter of a loader must be a positive int. Got {self.batch_size} instead."
            )
        if self.ranks < 1 or not 0 <= self.rank < self.ranks:
            raise InputError(
                "The 'rank' parameter of shard must be an int in [0, ranks), with at least one of these. "
                f"Got rank {self.rank} of {self.ranks} instead."
            )
        if 0 < self.samples < self.ranks:
            raise InputError(f"A split of {self.samples} images cannot be shared out among {self.ranks} ranks.")

    def __len__(self) -> int:
        full, rest = divmod(self.samples, self.ranks * self.batch_size)
        least = 2 * self.ranks if self.shuffle and full else self.ranks
        return full + (rest >= least)

    def whole(self, index: int) -> slice:
        """The places in the epoch's order that the whole batch `index` takes."""
        size = self.ranks * self.batch_size
        last = not self.shuffle and index == len(self) - 1
        return slice(index * size, self.samples if last else min((index + 1) * size, self.samples))

    def share(self, index: int) -> slice:
        """The rank's rows of the whole batch `index`."""
        places = self.whole(index)
        count = places.stop - places.start
        if self.shuffle:
            count -= count % self.ranks
        return slice(count * self.rank // self.ranks, count * (self.rank + 1) // self.ranks)

    def permutation(self, epoch: int) -> Tensor:
        """The images in the order of `epoch`, int64 [samples] on the CPU."""
        if not self.shuffle:
            return torch.arange(self.samples)
        return torch.randperm(self.samples, generator=generator(self.seed, 0, epoch))
