from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.data.augment import Augmentation, Corrupt, Crop, Cutmix, Cutout, Flip, Mixup
from secateur.data.batches import Absent, Loader
from secateur.data.order import Order, generator
from secateur.errors import DataError, InputError

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)


def loader(samples: int = 50, batch_size: int = 8, **others: object) -> Loader:
    """Random images whose target is their number."""
    images = torch.randint(0, 256, (samples, 3, 8, 8), dtype=torch.uint8, generator=generator(7))
    return Loader(images, torch.arange(samples), batch_size, MEAN, STD, **others)  # type: ignore[arg-type]


def training(
    samples: int = 50, batch_size: int = 8, seed: int = 0, augment: tuple[Augmentation, ...] = (Crop(4), Flip())
) -> Loader:
    return loader(samples, batch_size, seed=seed, shuffle=True, augment=augment, classes=samples)


def same(one: Loader, other: Loader) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)


def test_evaluation_keeps_order_and_every_image() -> None:
    plain = loader(49, 8)
    assert len(plain) == 7
    assert plain.samples == 49
    assert torch.equal(torch.cat([targets for _, targets in plain]), torch.arange(49))


def test_inputs_are_normalised_on_the_scale_of_one() -> None:
    plain = loader(10, 10)
    inputs, targets = plain.batch(0)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (MEAN, STD))
    assert inputs.dtype == torch.float32
    assert targets.dtype == torch.int64
    torch.testing.assert_close(inputs.double(), (plain.images / 255.0 - mean) / std, atol=1e-6, rtol=1e-5)


def test_peak_is_the_value_of_white() -> None:
    images = torch.tensor([0, 8, 16], dtype=torch.uint8).view(3, 1, 1, 1)
    inputs, _ = Loader(images, torch.zeros(3, dtype=torch.long), 3, (0.5,), (0.25,), peak=16).batch(0)
    assert inputs.flatten().tolist() == [-2.0, 0.0, 2.0]


def test_an_epoch_of_training_has_every_image_once_in_another_order() -> None:
    shuffled = training()
    targets = torch.cat([t for _, t in shuffled])
    assert torch.equal(targets.sort().values, torch.arange(50))
    assert not torch.equal(targets, torch.arange(50))


def test_batches_are_a_function_of_seed_and_epoch() -> None:
    assert same(training(), training())
    one, other = training(), training()
    list(one)  # having been iterated changes nothing
    assert same(one, other)
    one.set_epoch(1)
    assert not same(one, other)
    one.set_epoch(0)
    assert same(one, other)
    assert not same(training(seed=1), other)


def test_augmentation_changes_with_the_epoch_and_not_only_the_order() -> None:
    still = replace(training(batch_size=50), shuffle=False)
    first, _ = still.batch(0)
    still.set_epoch(1)
    assert not torch.equal(first, still.batch(0)[0])


def test_a_batch_comes_without_the_ones_before_it() -> None:
    whole = list(training())
    resumed = training()
    for index in (6, 2, 4):
        inputs, targets = resumed.batch(index)
        assert torch.equal(inputs, whole[index][0])
        assert torch.equal(targets, whole[index][1])
    with pytest.raises(IndexError, match="no batch 7: the loader has 7"):
        resumed.batch(7)


def test_an_iteration_under_way_keeps_its_epoch() -> None:
    expected = list(training())
    loading = training()
    batches = iter(loading)
    next(batches)
    loading.set_epoch(5)
    assert torch.equal(next(batches)[1], expected[1][1])


@pytest.mark.parametrize(
    ("samples", "batch_size", "batches", "seen"),
    [(49, 8, 6, 48), (50, 8, 7, 50), (48, 8, 6, 48), (1, 8, 1, 1), (3, 1, 3, 3), (8, 8, 1, 8)],
)
def test_training_leaves_out_a_last_batch_of_one(samples: int, batch_size: int, batches: int, seen: int) -> None:
    loading = training(samples, batch_size)
    assert len(loading) == batches
    assert sum(len(inputs) for inputs, _ in loading) == seen
    assert sum(len(inputs) for inputs, _ in loader(samples, batch_size)) == samples


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(training())
    assert torch.equal(before, torch.get_rng_state())


def test_channels_last_changes_the_layout_alone() -> None:
    last = replace(training(), channels_last=True)
    assert last.batch(0)[0].is_contiguous(memory_format=torch.channels_last)
    assert same(last, training())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_sees_the_batches_of_the_cpu() -> None:
    here = training()
    there = replace(here, images=here.images.cuda(), targets=here.targets.cuda())
    for (x, y), (u, v) in zip(here, there, strict=True):
        assert u.is_cuda
        assert v.is_cuda
        torch.testing.assert_close(u.cpu(), x)
        assert torch.equal(v.cpu(), y)


def test_what_is_left_of_an_interrupted_epoch_comes_as_it_would_have() -> None:
    whole, resumed = training(), training()
    for loading in (whole, resumed):
        loading.set_epoch(2)
    rest = list(resumed.since(4))
    assert len(rest) == 3
    for (x, y), (u, v) in zip(list(whole)[4:], rest, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)


@pytest.mark.parametrize("peak", [255, 16])
@pytest.mark.parametrize("others", [(Crop(2),), (Crop(2), Mixup(), Cutmix())], ids=["alone", "mixed"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_batches_that_are_corrupted_together_are_those_that_are_corrupted_alone(
    monkeypatch: pytest.MonkeyPatch, peak: int, others: tuple[Augmentation, ...], ranks: int
) -> None:
    monkeypatch.setattr("secateur.data.batches._AT_ONCE", 3 * 8 * 3 * 8 * 8)  # three of the seven batches, then one
    spoiled = replace(training(augment=(Corrupt(), *others)), peak=peak)
    spoiled.images.clamp_(max=peak)
    spoiled.set_epoch(1)
    part = spoiled.shard(ranks - 1, ranks)
    together = list(part.since(1))
    assert len(together) == len(part) - 1
    for index, (inputs, targets) in enumerate(together, 1):
        alone = part.batch(index)
        assert torch.equal(inputs, alone[0])
        assert torch.equal(targets, alone[1])


EVERY = (Crop(2), Flip(), Cutout(), Mixup(), Cutmix())


@pytest.mark.parametrize("augment", [(), EVERY[:2], EVERY[:3], EVERY], ids=len)
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_shards_are_together_the_loader_with_the_larger_batch(
    augment: tuple[Augmentation, ...], ranks: int, shuffle: bool
) -> None:
    samples = 4 * ranks * 6 + 2 * ranks  # the last batch is incomplete
    part = replace(training(samples, 4, augment=augment), shuffle=shuffle)
    whole = replace(part, batch_size=4 * ranks)
    for loading in (part, whole):
        loading.set_epoch(5)
    shards = [part.shard(rank, ranks) for rank in range(ranks)]
    assert [len(shard) for shard in shards] == [len(whole)] * ranks == [7] * ranks
    for index, (inputs, targets) in enumerate(whole):
        found = [shard.batch(index) for shard in shards]
        assert {len(x) for x, _ in found} == {4 if index < 6 else 2}
        assert torch.equal(torch.cat([x for x, _ in found]), inputs)
        assert torch.equal(torch.cat([y for _, y in found]), targets)


def test_a_shard_of_one_is_the_loader_itself() -> None:
    assert same(training().shard(0, 1), training())


@settings(max_examples=200, deadline=None)
@given(
    samples=st.integers(1, 60),
    batch_size=st.integers(1, 7),
    ranks=st.integers(1, 5),
    shuffle=st.booleans(),
)
def test_ranks_share_every_epoch_evenly(samples: int, batch_size: int, ranks: int, shuffle: bool) -> None:
    if samples < ranks:
        with pytest.raises(InputError, match=f"{samples} images cannot be shared out among {ranks} ranks"):
            Order(samples, batch_size, ranks=ranks)
        return
    orders = [Order(samples, batch_size, shuffle=shuffle, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert len({len(order) for order in orders}) == 1
    places = list(range(samples))
    seen = []
    for index in range(len(orders[0])):
        shares = [places[order.whole(index)][order.share(index)] for order in orders]
        sizes = {len(share) for share in shares}
        assert min(sizes) >= 1
        assert max(sizes) <= batch_size + (not shuffle)
        assert max(sizes) - min(sizes) <= (not shuffle)
        seen += [place for share in shares for place in share]
    assert len(seen) == len(set(seen))
    assert samples - len(seen) < 2 * ranks if shuffle else seen == places


@pytest.mark.parametrize(("rank", "ranks"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_that_is_none_is_named(rank: int, ranks: int) -> None:
    with pytest.raises(InputError, match=f"Got rank {rank} of {ranks} instead"):
        training().shard(rank, ranks)


def test_bad_settings_are_named() -> None:
    with pytest.raises(InputError, match=r"'batch_size' parameter of a loader must be a positive int. Got 0"):
        loader(batch_size=0)
    with pytest.raises(InputError, match="Got 2 images, 3 targets"):
        Loader(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.long), 2, (0.0,), (1.0,))


def test_an_absent_split_tells_why_when_it_is_asked() -> None:
    absent = Absent(DataError("the file is not there"), like=loader())
    assert not absent
    assert absent.samples == 0
    for ask in (len, list, lambda split: split.batch(0), lambda split: len(split.shard(0, 2))):
        with pytest.raises(DataError, match="the file is not there"):
            ask(absent)  # type: ignore[operator]


def test_streams_of_near_keys_differ() -> None:
    draws = {
        tuple(torch.randint(0, 2**40, (2,), generator=generator(s, e)).tolist()) for s in range(20) for e in range(20)
    }
    assert len(draws) == 400
