from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

from secateur.data.augment import crop_and_flip, shift
from secateur.data.batches import Loader


def numbered(batch: int, channels: int, size: int) -> torch.Tensor:
    """Images whose pixels tell channel and place; 0 is kept for what comes in from outside."""
    pixels = torch.arange(1, channels * size * size + 1, dtype=torch.uint8)
    return pixels.view(1, channels, size, size).repeat(batch, 1, 1, 1)


def crops(image: torch.Tensor, padding: int) -> dict[bytes, tuple[int, int]]:
    """Every crop of one image and where it was cut, by a plain loop."""
    size = image.shape[-1]
    padded = F.pad(image, (padding,) * 4)
    places = [(y, x) for y in range(2 * padding + 1) for x in range(2 * padding + 1)]
    return {padded[:, y : y + size, x : x + size].numpy().tobytes(): (y, x) for y, x in places}


@pytest.mark.parametrize("channels", [1, 3])
def test_shift_draws_from_all_crops_of_the_padded_image(channels: int) -> None:
    images = numbered(400, channels, 6)
    known = crops(images[0], 2)
    moved = shift(images, torch.Generator().manual_seed(0), padding=2)
    seen = [known[image.numpy().tobytes()] for image in moved]  # a KeyError would be an image that is no crop
    assert moved.shape == images.shape
    assert moved.dtype == torch.uint8
    assert set(seen) == set(known.values())


def test_crop_and_flip_mirrors_about_half() -> None:
    images = numbered(600, 3, 5)
    straight = crops(images[0], 1)
    changed = crop_and_flip(images, torch.Generator().manual_seed(0), padding=1)
    mirrored = 0
    for image in changed:
        if image.numpy().tobytes() not in straight:
            assert image.flip(-1).numpy().tobytes() in straight
            mirrored += 1
    assert 0.4 < mirrored / len(images) < 0.6


def test_draws_are_those_of_the_generator() -> None:
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    first, again, other = (crop_and_flip(images, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_image_takes_pixels_of_another() -> None:
    images = torch.arange(1, 101, dtype=torch.uint8).view(100, 1, 1, 1).expand(100, 3, 8, 8).contiguous()
    for index, image in enumerate(crop_and_flip(images, torch.Generator().manual_seed(0))):
        assert set(image.unique().tolist()) <= {0, index + 1}


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_one_core_augments_more_than_20_000_images_a_second() -> None:
    images = torch.randint(0, 256, (2560, 3, 32, 32), dtype=torch.uint8)
    targets = torch.zeros(2560, dtype=torch.long)
    loader = Loader(images, targets, 128, (0.5,) * 3, (0.5,) * 3, shuffle=True, augment=crop_and_flip)
    rates = []
    for _ in range(5):
        start = time.process_time()  # seconds of this process: other work on the machine does not count
        count = sum(len(inputs) for inputs, _ in loader)
        rates.append(count / (time.process_time() - start))
    assert max(rates) > 20_000
