from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.data import load
from secateur.data.augment import Crop, Cutout, Mixup
from secateur.data.splits import stratified_order
from secateur.errors import InputError


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=80), st.integers(0, 3))
def test_every_beginning_of_a_stratified_order_keeps_the_shares(labels: list[int], seed: int) -> None:
    classes = torch.tensor(labels)
    order = stratified_order(classes, seed)
    assert torch.equal(order.sort().values, torch.arange(len(labels)))
    share = torch.bincount(classes) / len(labels)
    present = int((share > 0).sum())
    for count in range(1, len(labels) + 1):
        found = torch.bincount(classes[order[:count]], minlength=len(share))
        assert bool(((found - share * count).abs() <= 0.5 + share * present / 2 + 1e-5).all())


def test_digits_need_no_files() -> None:
    digits = load("digits", batch_size=64)
    assert (digits.name, digits.classes, digits.shape) == ("digits", 10, (1, 8, 8))
    assert digits.validation is not None
    assert (digits.train.samples, digits.validation.samples, digits.test.samples) == (1293, 144, 360)
    inputs, targets = next(iter(digits.train))
    assert inputs.shape == (64, 1, 8, 8)
    assert targets.dtype == torch.int64


def test_digits_are_normalised_by_their_own_statistics() -> None:
    everything = torch.cat([inputs for inputs, _ in load("digits", validation=0).train])
    assert abs(float(everything.mean())) < 2e-3
    assert abs(float(everything.std()) - 1) < 2e-3


def images(loader: Any) -> set[bytes]:
    return {image.numpy().tobytes() for image in loader.images}


def test_splits_are_disjoint_and_stratified() -> None:
    digits = load("digits", validation=0.2)
    train, validation, test = images(digits.train), images(digits.validation), images(digits.test)
    assert not train & validation
    assert not train & test
    assert not validation & test
    assert digits.validation is not None
    for split in (digits.train, digits.validation, digits.test):
        share = torch.bincount(split.targets) / split.samples
        assert float((share - 0.1).abs().max()) < 0.01


def test_the_seed_moves_the_validation_split_and_never_the_test_split() -> None:
    one, again, other = (load("digits", seed=seed) for seed in (0, 0, 1))
    assert images(one.validation) == images(again.validation) != images(other.validation)
    assert torch.equal(one.test.images, other.test.images)


def test_no_validation_leaves_all_to_training() -> None:
    digits = load("digits", validation=0)
    assert digits.validation is None
    assert digits.train.samples == 1437


def test_a_limit_is_stratified_nested_and_leaves_validation_whole() -> None:
    small, larger, whole = (load("digits", limit=limit) for limit in (100, 300, None))
    assert small.train.samples == 100
    assert images(small.train) < images(larger.train) < images(whole.train)
    assert images(small.validation) == images(whole.validation)
    assert torch.bincount(small.train.targets).tolist() == pytest.approx([10] * 10, abs=1)
    assert load("digits", limit=10**6).train.samples == whole.train.samples


def test_only_training_shuffles_and_augments(tiny_mnist: Path) -> None:
    data = load("mnist", tiny_mnist, batch_size=9, eval_batch_size=4)
    assert data.train.shuffle
    assert data.train.augment == (Crop(2),)
    assert data.train.batch_size == 9
    assert load("mnist", tiny_mnist, augment=False).train.augment == ()
    assert load("mnist", tiny_mnist, augment="cutout crop").train.augment == (Crop(2), Cutout(0.5))
    assert data.validation is not None
    for split in (data.validation, data.test):
        assert not split.shuffle
        assert split.augment == ()
        assert split.batch_size == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation": 1.0}, r"'validation' parameter of load must be a float in \[0, 1\). Got 1.0"),
        ({"validation": -0.1}, "'validation' parameter"),
        ({"validation": 0.9999}, "leaves no training image of 1437"),
        ({"limit": 0}, "'limit' parameter of load must be a positive int or None. Got 0"),
        ({"seed": -1}, "'seed' parameter of load must be an int of at least 0. Got -1"),
        ({"batch_size": 0}, "batch sizes of load must be positive ints. Got 0"),
        ({"eval_batch_size": -5}, "batch sizes of load must be positive ints. Got -5"),
        ({"mean": (0.5, 0.5, 0.5)}, "'mean' parameter of load must have 1 numbers, one a channel"),
        ({"std": (0.0,)}, "'std' parameter of load must be positive"),
        ({"augment": "crop flop"}, "no augmentation named 'flop'. Nearest: flip"),
        ({"size": 64}, "'size' parameter of load belongs to a folder. Got 64 for digits"),
        ({"workers": 2}, "'workers' parameter of load belongs to a folder. Got 2 for digits"),
        ({"device": "abacus"}, "'device' parameter of load must be a device .* Got 'abacus'"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load("digits", **arguments)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no data set named 'cifar-10'. Nearest: cifar10, cifar100"):
        load("cifar-10")
    with pytest.raises(
        InputError,
        match="Nearest: digits, mnist, fashion, cifar10, cifar100, breast_cancer, wine, diabetes, toy, folder",
    ):
        load("xyz")


def test_mixed_labels_are_shares_of_all_classes() -> None:
    data = load("digits", augment=[Mixup(0.2)], batch_size=32)
    inputs, targets = data.train.batch(0)
    assert inputs.shape == (32, 1, 8, 8)
    assert (targets.shape, targets.dtype) == ((32, 10), torch.float32)
    torch.testing.assert_close(targets.sum(1), torch.ones(32))
    assert data.test.batch(0)[1].dtype == torch.int64


def test_statistics_can_be_those_of_the_weights() -> None:
    data = load("digits", mean=[0.0], std=[1.0])
    assert (data.mean, data.std) == ((0.0,), (1.0,))
    inputs, _ = data.test.batch(0)
    assert (float(inputs.min()), float(inputs.max())) == (0.0, 1.0)
