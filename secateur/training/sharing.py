"""Sharing: the part that each rank has of the batches of any loader.

What fetches batches draws from random streams that are the same on all ranks, so all of them see the same order and
take different parts of it. Accelerate's own loaders fetch ahead and start from the caller's streams, so that a training
which was killed would go on with other batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, Sampler

from secateur.errors import InputError
from secateur.ranks import same_on_all_ranks, world
from secateur.training.batches import announce_epoch
from secateur.training.streams import derive, seed_streams

_COPIED = (
    "dataset", "num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context",
    "generator", "prefetch_factor", "persistent_workers",
)  # fmt: skip


def share(loader: Iterable[Any]) -> Iterable[Any]:
    """The share that this rank has of a loader's batches: as many on every rank.

    A loader with `shard(rank, ranks)` is asked for it; one that is shared out already (by a `DistributedSampler`, by
    Accelerate) is left as it is. Of any other, rank `r` of `R` gets the batches number `r`, `r + R`, ..., and an
    incomplete round at the end is left out; a DataLoader reads those alone.
    """
    rank, ranks = world()
    if ranks == 1:
        return loader
    if callable(getattr(loader, "shard", None)):
        return loader.shard(rank, ranks)  # type: ignore[attr-defined, no-any-return]
    if isinstance(getattr(loader, "sampler", None), DistributedSampler) or hasattr(loader, "_is_accelerate_prepared"):
        return loader
    if type(loader) is DataLoader and not isinstance(loader.dataset, IterableDataset):
        return _with_rounds(loader, rank, ranks)
    return EveryNth(loader, rank, ranks)


class EveryNth:
    """The batches `rank`, `rank + ranks`, ... of an iterable, rounds that are complete alone."""

    def __init__(self, loader: Iterable[Any], rank: int, ranks: int) -> None:
        self._loader, self._rank, self._ranks = loader, rank, ranks

    def __len__(self) -> int:
        length = len(self._loader)  # type: ignore[arg-type]
        if length < self._ranks:
            raise InputError(
                f"The training data must hold a batch for each of the {self._ranks} ranks. Got {length} instead."
            )
        return length // self._ranks

    def __iter__(self) -> Iterator[Any]:
        for batches in self._rounds():
            yield batches[self._rank]

    def _rounds(self) -> Iterator[list[Any]]:
        source = iter(self._loader)
        while len(batches := list(islice(source, self._ranks))) == self._ranks:
            yield batches

    def set_epoch(self, epoch: int) -> None:
        """Tell the loader underneath, where it wants to know."""
        announce_epoch(self._loader, epoch)


class Rounds(EveryNth, Sampler[Any]):
    """The same of the batches of indices that a sampler draws: only these are then read.

    What reading draws is the rank's own again.
    """

    @property
    def generator(self) -> torch.Generator | None:
        """The sampler's own generator, whose state goes on from epoch to epoch."""
        return getattr(getattr(self._loader, "sampler", None), "generator", None)

    def __iter__(self) -> Iterator[Any]:
        for batches in self._rounds():
            if self._rank:
                seed_streams(derive(int(torch.randint(2**62, ())), self._rank), torch.device("cpu"))
            yield batches[self._rank]


def _with_rounds(loader: DataLoader[Any], rank: int, ranks: int) -> Iterable[Any]:
    """The loader with the batches of one rank; without a batch sampler (`batch_size=None`) its items are batches."""
    if loader.batch_sampler is None:
        return EveryNth(loader, rank, ranks)
    rounds = Rounds(loader.batch_sampler, rank, ranks)
    for generator in (loader.generator, rounds.generator):
        if generator is not None:
            generator.set_state(same_on_all_ranks(generator.get_state()))
    return DataLoader(batch_sampler=rounds, **{name: getattr(loader, name) for name in _COPIED})


def part(loader: Iterable[Any]) -> Iterator[Any]:
    """The part that this rank has of batches that are only measured: together the ranks see each once."""
    rank, ranks = world()
    if ranks > 1 and callable(getattr(loader, "shard", None)):
        return iter(loader.shard(rank, ranks))  # type: ignore[attr-defined]
    return islice(iter(loader), rank, None, ranks)
