from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.data.augment import (
    AUGMENTATIONS,
    SEEN,
    UNSEEN,
    Augmentation,
    Corrupt,
    Crop,
    Cutmix,
    Cutout,
    Flip,
    Mixup,
    augmentations,
)
from secateur.data.batches import Loader
from secateur.data.corruptions import corrupt, kinds
from secateur.data.prepare import Preparation
from secateur.errors import InputError

LAYOUTS = pytest.mark.parametrize("channels_last", [False, True])


def prepared(
    images: Tensor, *augment: Augmentation, seed: int = 0, channels_last: bool = False, classes: int = 4
) -> tuple[Tensor, Tensor]:
    """Images after augmentation on the scale of bytes, and their targets, which are their numbers modulo `classes`."""
    shape = images.shape[1:]
    nothing, one = (0.0,) * len(images[0]), (1.0,) * len(images[0])
    preparation = Preparation(
        shape, nothing, one, images.device, peak=1, augment=augment, classes=classes, channels_last=channels_last
    )
    drawn = preparation.draw(len(images), torch.Generator().manual_seed(seed))
    return preparation(images, torch.arange(len(images)) % classes, drawn)


def numbered(batch: int, channels: int, height: int, width: int) -> Tensor:
    """Images whose pixels tell channel and place; 0 is kept for what comes in from outside."""
    pixels = torch.arange(1, channels * height * width + 1, dtype=torch.uint8)
    return pixels.view(1, channels, height, width).repeat(batch, 1, 1, 1)


def crops(image: Tensor, padding: int) -> dict[bytes, tuple[int, int]]:
    """Every crop of one image and where it was cut, by a plain loop."""
    _, height, width = image.shape
    padded = F.pad(image, (padding,) * 4)
    places = [(y, x) for y in range(2 * padding + 1) for x in range(2 * padding + 1)]
    return {padded[:, y : y + height, x : x + width].numpy().tobytes(): (y, x) for y, x in places}


def content(image: Tensor) -> bytes:
    return image.byte().contiguous().numpy().tobytes()


@LAYOUTS
@pytest.mark.parametrize("channels", [1, 3])
def test_crop_draws_from_all_crops_of_the_padded_image(channels: int, channels_last: bool) -> None:
    images = numbered(400, channels, 6, 7)
    known = crops(images[0], 2)
    moved, _ = prepared(images, Crop(2), channels_last=channels_last)
    seen = [known[content(image)] for image in moved]  # a KeyError would be an image that is no crop
    assert moved.shape == images.shape
    assert set(seen) == set(known.values())


@LAYOUTS
def test_crop_and_flip_mirror_about_half_of_the_crops(channels_last: bool) -> None:
    images = numbered(600, 3, 5, 6)
    straight = crops(images[0], 1)
    mirrored = 0
    for image in prepared(images, Crop(1), Flip(), channels_last=channels_last)[0]:
        if content(image) not in straight:
            assert content(image.flip(-1)) in straight
            mirrored += 1
    assert 0.4 < mirrored / len(images) < 0.6


@LAYOUTS
def test_placing_is_what_a_loop_over_the_images_makes_of_the_same_draws(channels_last: bool) -> None:
    images = torch.randint(0, 256, (40, 3, 8, 9), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(3)
    ((down, across),) = Crop(4).draw(40, 8, 9, generator)
    (mirrored,) = Flip().draw(40, 8, 9, generator)
    padded = F.pad(images, (4,) * 4)
    expected = [padded[i, :, y : y + 8, x : x + 9] for i, (y, x) in enumerate(zip(down, across, strict=True))]
    expected = [image.flip(-1) if flip else image for image, flip in zip(expected, mirrored, strict=True)]
    found, _ = prepared(images, Crop(4), Flip(), seed=3, channels_last=channels_last)
    assert torch.equal(found, torch.stack(expected).float())
    assert found.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def test_flip_alone_moves_nothing() -> None:
    images = numbered(50, 2, 4, 5)
    both = {content(images[0]), content(images[0].flip(-1))}
    assert {content(image) for image in prepared(images, Flip())[0]} == both


def test_no_image_takes_pixels_of_another() -> None:
    images = torch.arange(1, 101, dtype=torch.uint8).view(100, 1, 1, 1).expand(100, 3, 8, 8).contiguous()
    for index, image in enumerate(prepared(images, Crop(4), Flip())[0]):
        assert set(image.unique().tolist()) <= {0, index + 1}


@LAYOUTS
def test_cutout_hides_a_square_of_the_normalised_image_or_what_of_it_lies_inside(channels_last: bool) -> None:
    images = torch.full((300, 2, 8, 10), 7, dtype=torch.uint8)
    inputs, targets = prepared(images, Cutout(0.5), channels_last=channels_last)
    heights, widths = set(), set()
    for image in inputs:
        hidden = image[0] == 0
        assert torch.equal(hidden, image[1] == 0)
        rows, columns = hidden.any(1), hidden.any(0)
        assert torch.equal(hidden, rows.unsqueeze(1) & columns)  # a rectangle
        heights.add(int(rows.sum()))
        widths.add(int(columns.sum()))
    assert heights == widths == {2, 3, 4}  # the side is half of 8; a centre in the corner leaves half of that
    assert targets.dtype == torch.int64


def test_mixup_interpolates_images_and_labels_by_the_same_share() -> None:
    images = torch.tensor([0, 100], dtype=torch.uint8).repeat(100).view(200, 1, 1, 1).expand(200, 3, 4, 4)
    inputs, targets = prepared(images, Mixup(1.0), classes=2)
    assert targets.shape == (200, 2)
    torch.testing.assert_close(targets.sum(1), torch.ones(200))
    torch.testing.assert_close(inputs, (100 * targets[:, 1]).view(-1, 1, 1, 1).expand_as(inputs))
    shares = targets[:, 1]
    assert 0.2 < float(((shares > 0.1) & (shares < 0.9)).float().mean()) < 0.7  # half of the pairs differ in label


def test_small_alphas_mix_little() -> None:
    images = numbered(500, 1, 4, 4)
    strong, weak = (prepared(images, Mixup(alpha))[1].max(1).values.mean() for alpha in (1.0, 0.05))
    assert float(weak) > float(strong) + 0.1


@LAYOUTS
def test_cutmix_takes_a_rectangle_and_the_labels_by_its_area(channels_last: bool) -> None:
    images = torch.tensor([0, 100], dtype=torch.uint8).repeat(100).view(200, 1, 1, 1).expand(200, 3, 8, 8)
    inputs, targets = prepared(images, Cutmix(1.0), classes=2, channels_last=channels_last)
    assert set(inputs.unique().tolist()) == {0.0, 100.0}
    torch.testing.assert_close(inputs.mean((1, 2, 3)) / 100, targets[:, 1])
    for index, image in enumerate(inputs):
        foreign = image[0] != images[index, 0]
        assert torch.equal(foreign, foreign.any(1).unsqueeze(1) & foreign.any(0))
    assert inputs.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    assert len(targets[:, 1].unique()) > 10


def test_of_two_ways_to_mix_every_batch_draws_one() -> None:
    images = torch.tensor([0, 100], dtype=torch.uint8).repeat(20).view(40, 1, 1, 1).expand(40, 1, 8, 8)
    blended = [
        bool(((inputs > 0) & (inputs < 100)).any())
        for inputs, _ in (prepared(images, Mixup(), Cutmix(), seed=seed) for seed in range(30))
    ]
    assert 5 < sum(blended) < 25


def test_cross_entropy_takes_the_mixed_labels() -> None:
    loss = F.cross_entropy(torch.randn(20, 4), prepared(numbered(20, 1, 4, 4), Mixup())[1])
    assert loss.isfinite()


@pytest.mark.parametrize("step", [kind() for kind in AUGMENTATIONS.values()], ids=list(AUGMENTATIONS))
def test_draws_are_those_of_the_generator(step: Augmentation) -> None:
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    first, again, other = (prepared(images, step, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, images.float())


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (True, (Crop(2), Flip())),
        (False, ()),
        ("", ()),
        ("flip", (Flip(),)),
        ("mixup crop", (Crop(2), Mixup(1.0))),
        ("crop=3, flip,cutout=0.25", (Crop(3), Flip(), Cutout(0.25))),
        (["cutmix=0.5", "flip"], (Flip(), Cutmix(0.5))),
        ([Cutout(0.1), "crop"], (Crop(2), Cutout(0.1))),
    ],
)
def test_augmentations_have_names(asked: Any, expected: tuple[Augmentation, ...]) -> None:
    assert augmentations(asked, usual=(Crop(2), Flip())) == expected


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("crop cutot", "There is no augmentation named 'cutot'. Nearest: cutout"),
        (["rotate"], "no augmentation named 'rotate'. Nearest: corrupt, crop, flip, cutout, mixup, cutmix"),
        ("flip=2", "'flip' has no parameter. Got 'flip=2'"),
        ("crop=2.5", "'padding' of crop must be a number. Got 'crop=2.5'"),
        ("crop=0", "'padding' of crop must be a positive int. Got 0"),
        ("cutout=1.5", r"'share' of cutout must be a share of the shorter side in \(0, 1\]. Got 1.5"),
        ("mixup=0", "'alpha' of mixup must be a positive float. Got 0.0"),
        ("cutmix=nan", "'alpha' of cutmix must be a positive float. Got nan"),
        ("crop crop=2", "must name each augmentation once. Got 'crop crop=2'"),
        ([3], "must be a bool, or names out of corrupt, crop, flip, cutout, mixup, cutmix. Got 3"),
    ],
)
def test_what_is_no_augmentation_is_told(asked: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        augmentations(asked)


def test_mixing_needs_the_number_of_classes() -> None:
    with pytest.raises(InputError, match=r"must know their number. Give it 'classes'"):
        Preparation((1, 4, 4), (0.0,), (1.0,), torch.device("cpu"), augment=(Mixup(),))


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@LAYOUTS
def test_one_core_augments_more_than_30_000_images_a_second(channels_last: bool) -> None:
    images = torch.randint(0, 256, (2560, 3, 32, 32), dtype=torch.uint8)
    targets = torch.zeros(2560, dtype=torch.long)
    mean, std, steps = (0.5,) * 3, (0.5,) * 3, (Crop(), Flip())
    loader = Loader(images, targets, 128, mean, std, shuffle=True, augment=steps, channels_last=channels_last)
    rates = []
    for _ in range(5):
        start = time.process_time()  # seconds of this process: other work on the machine does not count
        count = sum(len(inputs) for inputs, _ in loader)
        rates.append(count / (time.process_time() - start))
    assert max(rates) > 30_000


def test_corrupted_images_are_those_of_the_data_set_of_corruptions() -> None:
    """An image that drew a kind, a severity and a stream is what `corrupt` gives for these three."""
    images = torch.randint(0, 256, (60, 3, 16, 16), dtype=torch.uint8)
    step = Corrupt()
    which, severity, stream = step.draw(60, 16, 16, torch.Generator().manual_seed(1))
    made = step.spoil(images, which, severity, stream)
    for i in range(60):
        expected = images[i : i + 1]
        if severity[i]:
            expected = corrupt(expected, step.kinds[which[i]], int(severity[i]), indices=stream[i : i + 1])
        assert torch.equal(made[i : i + 1], expected)


def test_a_sixth_stays_clean_and_severities_are_equally_likely() -> None:
    which, severity, _ = Corrupt().draw(12_000, 8, 8, torch.Generator().manual_seed(0))
    assert (torch.bincount(severity).double() / 12_000 - 1 / 6).abs().max() < 0.015
    assert (torch.bincount(which).double() / 12_000 - 1 / 9).abs().max() < 0.015


def test_noise_is_fresh_in_every_epoch_and_the_same_again() -> None:
    images = torch.full((8, 3, 16, 16), 128, dtype=torch.uint8)
    noisy = [Corrupt(5, ("gaussian_noise",))]
    loader = Loader(images, torch.zeros(8, dtype=torch.long), 8, (0.0,) * 3, (1.0,) * 3, augment=noisy)
    epochs = []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        epochs.append(loader.batch(0)[0])
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])


def test_the_published_split_is_all_corruptions_once() -> None:
    assert sorted(SEEN + UNSEEN) == sorted(kinds())
    assert len(SEEN) == 9


def test_corruption_comes_before_the_crop_and_on_any_scale() -> None:
    images = torch.full((4, 1, 16, 16), 8, dtype=torch.uint8)
    preparation = Preparation((1, 16, 16), (0.0,), (1.0,), torch.device("cpu"), peak=16,
                              augment=[Corrupt(1, ("brightness",))])  # fmt: skip
    draws = (torch.zeros(4, dtype=torch.long), torch.tensor([0, 1, 1, 0]), torch.zeros(4, dtype=torch.long))
    found, _ = preparation(images, torch.zeros(4), [(preparation.augment[0], draws)])
    bright = round(
        int(corrupt(torch.full((1, 1, 16, 16), 128, dtype=torch.uint8), "brightness")[0, 0, 0, 0]) * 16 / 255
    )
    assert (found[:, 0, 0, 0] * 16).tolist() == pytest.approx([8, bright, bright, 8])


@pytest.mark.parametrize("bad", [{"highest": 6}, {"highest": 0}, {"kinds": ()}, {"kinds": ("rain",)}])
def test_a_bad_corruption_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="corrupt"):
        Corrupt(**bad)
