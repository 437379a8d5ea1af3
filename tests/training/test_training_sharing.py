"""Any loader is shared out among ranks: together they see each batch once, in an order that can be repeated."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from secateur.errors import InputError
from secateur.training import sharing
from secateur.training.batches import announce_epoch, generators
from secateur.training.streams import seed_streams

NUMBERS = TensorDataset(torch.arange(22))


class Drawing(Dataset):
    """Items with a draw each."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> tuple[int, float]:
        return index, random.random()


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[int]:
        yield from range(12)


class Own(DataLoader):
    """A loader that does more than a DataLoader."""

    def __iter__(self) -> Iterator[int]:
        return (2 * batch[0] for batch in super().__iter__())


@pytest.fixture
def of_two(monkeypatch: pytest.MonkeyPatch):
    """What each of two ranks sees of a loader in one epoch."""

    def seen(make, *, seed: int = 3) -> list[list]:
        both = []
        for rank in (0, 1):
            monkeypatch.setattr(sharing, "world", lambda rank=rank: (rank, 2))
            loader = sharing.share(make())
            seed_streams(seed, torch.device("cpu"))
            both.append(list(loader))
        return both

    return seen


def flat(batches: list) -> list[int]:
    return [int(number) for batch in batches for number in (batch[0] if isinstance(batch, list) else batch)]


def shuffled(**options) -> DataLoader:
    return DataLoader(NUMBERS, batch_size=2, shuffle=True, **options)


def test_a_dataloader_is_read_in_complete_rounds(of_two) -> None:
    first, second = of_two(lambda: DataLoader(NUMBERS, batch_size=4))  # six batches, the last of two images
    assert flat(first) == [*range(4), *range(8, 12), *range(16, 20)]
    assert flat(second) == [*range(4, 8), *range(12, 16), 20, 21]
    assert [len(part) for part in of_two(lambda: DataLoader(NUMBERS, batch_size=8))] == [1, 1]


@pytest.mark.parametrize("workers", [0, 1])
def test_orders_drawn_anew_are_alike_on_both(of_two, workers: int) -> None:
    first, second = of_two(lambda: shuffled(num_workers=workers))
    assert len(flat(first) + flat(second)) == len(set(flat(first) + flat(second))) == 20
    again, _ = of_two(lambda: shuffled(num_workers=workers))
    other, _ = of_two(lambda: shuffled(num_workers=workers), seed=4)
    assert flat(again) == flat(first) != flat(other)


def test_samplers_that_draw_without_a_generator(of_two) -> None:
    def make() -> DataLoader:
        return DataLoader(NUMBERS, batch_size=2, sampler=WeightedRandomSampler([1.0] * 22, 22, replacement=False))

    first, second = of_two(make)
    assert not set(flat(first)) & set(flat(second))


def test_what_reading_draws_is_a_ranks_own(of_two) -> None:
    first, second = of_two(lambda: DataLoader(Drawing(), batch_size=4))
    assert first[0][1].tolist() != second[0][1].tolist()


def test_loaders_that_cannot_be_cut_by_their_sampler(of_two) -> None:
    first, second = of_two(lambda: DataLoader(Stream(), batch_size=3))
    assert (flat(first), flat(second)) == ([0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11])
    first, second = of_two(lambda: DataLoader(Drawing(), batch_size=None))
    assert ([index for index, _ in first], [index for index, _ in second]) == ([*range(0, 16, 2)], [*range(1, 16, 2)])
    first, second = of_two(lambda: Own(NUMBERS, batch_size=11))
    assert (flat(first), flat(second)) == ([2 * n for n in range(11)], [2 * n for n in range(11, 22)])


def test_what_is_shared_out_already_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "world", lambda: (1, 2))
    loader = DataLoader(NUMBERS, sampler=DistributedSampler(NUMBERS, num_replicas=2, rank=1))
    assert sharing.share(loader) is loader


def test_the_generator_of_the_sampler_is_found_and_it_is_told_of_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "world", lambda: (1, 2))
    monkeypatch.setattr(sharing, "same_on_all_ranks", lambda value: value)
    generator, told = torch.Generator().manual_seed(1), []
    assert generators(sharing.share(shuffled(generator=generator))) == [generator]
    sampler = SequentialSampler(NUMBERS)
    sampler.set_epoch = told.append
    announce_epoch(sharing.share(DataLoader(NUMBERS, sampler=sampler)), 7)
    assert told == [7]


def test_fewer_batches_than_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "world", lambda: (0, 2))
    with pytest.raises(InputError, match=r"a batch for each of the 2 ranks. Got 1 instead"):
        len(sharing.share(DataLoader(NUMBERS, batch_size=22)))
