from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from secateur.data import Data, load
from secateur.data.augment import Flip, Mixup
from secateur.data.folder import FolderLoader, ResizedCrop
from secateur.data.pictures import Pictures
from secateur.errors import DataError, InputError
from secateur.training import fit

CLASSES = ("ash", "birch", "cedar")


@pytest.fixture
def forest(tmp_path: Path) -> Path:
    """A folder of PNGs of several sizes, train and val, in three classes; red tells the class, green the image."""
    for split, count in (("train", 10), ("val", 4)):
        for label, name in enumerate(CLASSES):
            folder = tmp_path / "forest" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                image = Image.new("RGB", (20 + index, 24), (80 * label, 10 * index, 0))
                image.paste((255, 255, 255), (0, 0, 5, 24))  # a white edge on the left
                image.save(folder / f"{index}.png")
    return tmp_path / "forest"


def loaded(root: Path, **options: Any) -> Data:
    settings: dict[str, Any] = {"size": 16, "workers": 0, "batch_size": 8, "eval_batch_size": 5, "validation": 0.2}
    return load("folder", root, **settings | options)


def same(one: Any, other: Any) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)


def bytes_of(data: Data, inputs: Tensor) -> Tensor:
    """Normalised inputs on the scale of bytes again."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (data.mean, data.std))
    return ((inputs * std + mean) * 255).round()


def test_a_folder_gives_data_like_any_other(forest: Path) -> None:
    data = loaded(forest)
    assert (data.name, data.classes, data.class_names, data.shape) == ("folder", 3, CLASSES, (3, 16, 16))
    assert data.validation is not None
    assert (data.train.samples, data.validation.samples, data.test.samples) == (24, 6, 12)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [3, 2, 3]
    for split in (data.train, data.validation, data.test):
        batches = list(split)
        assert len(batches) == len(split)
        assert sum(len(y) for _, y in batches) == split.samples
        assert all(x.shape[1:] == (3, 16, 16) and x.dtype == torch.float32 for x, _ in batches)
    share = torch.bincount(torch.cat([y for _, y in data.validation]))
    assert share.tolist() == [2, 2, 2]


def test_labels_are_those_of_the_folders_and_pixels_are_normalised(forest: Path) -> None:
    data = loaded(forest)
    for inputs, targets in data.test:
        red = bytes_of(data, inputs)[:, 0, 8, 12]
        assert torch.equal(red, 80.0 * targets)


def test_evaluation_takes_the_middle_of_the_whole_image(forest: Path) -> None:
    data = loaded(forest, size=20)
    one, again = data.test.batch(0), data.test.batch(0)
    assert torch.equal(one[0], again[0])
    assert not data.test.augment  # type: ignore[attr-defined]
    green = bytes_of(data, one[0])[:, 1, 10, 12]
    assert green[:4].tolist() == [0, 10, 20, 30]


def test_training_crops_and_mirrors_by_draws_of_its_own(forest: Path) -> None:
    data = loaded(forest)
    assert isinstance(data.train, FolderLoader)
    assert data.train.augment == (ResizedCrop(0.08), Flip())
    plain = loaded(forest, augment=False)
    assert same(plain.train, plain.train)
    assert not torch.equal(plain.train.batch(0)[0], data.train.batch(0)[0])
    mirrored = loaded(forest, augment="flip", batch_size=24)
    edges = bytes_of(mirrored, mirrored.train.batch(0)[0])[:, :, 8, [0, -1]].mean(1) == 255
    assert 4 < int(edges[:, 1].sum()) < 20  # the white edge came to the right
    assert torch.equal(edges.sum(1), torch.ones(24, dtype=torch.long))


def test_order_and_draws_are_functions_of_seed_and_epoch(forest: Path) -> None:
    one, other = loaded(forest).train, loaded(forest).train
    list(one)
    torch.manual_seed(7)  # nothing of the caller's streams gets in, and none is moved
    before = torch.get_rng_state()
    assert same(one, other)
    assert torch.equal(before, torch.get_rng_state())
    one.set_epoch(1)
    assert not same(one, other)
    other.set_epoch(1)
    assert same(one, other)
    assert same(list(one)[2:], one.since(2))
    assert torch.equal(one.batch(1)[0], list(other)[1][0])


def test_workers_change_nothing(forest: Path) -> None:
    alone, helped = (
        loaded(forest, augment="crop flip cutout").train,
        loaded(forest, augment="crop flip cutout", workers=2).train,
    )
    before = torch.get_rng_state()
    assert same(alone, helped)
    assert torch.equal(before, torch.get_rng_state())


def test_an_image_is_read_alike_in_any_shard(forest: Path) -> None:
    whole = loaded(forest).train
    halves = [loaded(forest, batch_size=4).train.shard(rank, 2) for rank in range(2)]
    for index, (inputs, targets) in enumerate(whole):
        parts = [half.batch(index) for half in halves]
        assert torch.equal(torch.cat([x for x, _ in parts]), inputs)
        assert torch.equal(torch.cat([y for _, y in parts]), targets)


def test_labels_can_be_mixed(forest: Path) -> None:
    data = loaded(forest, augment="crop mixup=0.4")
    assert data.train.augment == (ResizedCrop(), Mixup(0.4))  # type: ignore[attr-defined]
    inputs, targets = data.train.batch(0)
    assert (targets.shape, targets.dtype) == ((8, 3), torch.float32)
    first, second = (data.train.shard(rank, 2).batch(0)[1] for rank in range(2))
    assert not torch.equal(first, second)
    assert inputs.isfinite().all()


def test_layout_and_limit_are_as_asked(forest: Path) -> None:
    data = loaded(forest, channels_last=True, limit=9)
    assert data.train.samples == 9
    assert data.train.batch(0)[0].is_contiguous(memory_format=torch.channels_last)


def test_a_folder_with_val_and_test_validates_on_val(forest: Path) -> None:
    shutil.copytree(forest / "val", forest / "test")
    (forest / "test" / "ash" / "3.png").unlink()
    data = loaded(forest)
    assert data.validation is not None
    assert (data.train.samples, data.validation.samples, data.test.samples) == (30, 12, 11)
    assert loaded(forest, validation=0).validation is None


def test_a_network_trains_on_a_folder(forest: Path) -> None:
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, 3))
    history = fit(model, loaded(forest), epochs=2, progress=False)
    assert history.rows[-1].val_accuracy is not None


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (".", r"forest does not exist. Name the one that holds train and val"),
        ("train", r"forest must hold the folders train and val or test, .* It holds val"),
        ("val", r"forest must hold the folders train and val or test, .* It holds train"),
        ("val/birch", r"forest/train and \S+forest/val must have the same classes. In only one of them: birch"),
        ("train/cedar", r"must have the same classes. In only one of them: cedar"),
    ],
)
def test_a_folder_that_is_not_whole_tells_what_it_lacks(missing: str, message: str, forest: Path) -> None:
    remove(forest / missing)
    with pytest.raises(DataError, match=message):
        loaded(forest)


def test_a_class_without_images_is_named(forest: Path) -> None:
    for path in (forest / "train" / "birch").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"forest/train must hold a folder of images for every class. .* birch"):
        loaded(forest)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("content", [b"no image", b""])
def test_an_image_that_cannot_be_read_is_named(workers: int, content: bytes, forest: Path) -> None:
    path = forest / "val" / "birch" / "2.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"^The image \S+forest/val/birch/2.png cannot be read: .* put a whole file"):
        list(loaded(forest, workers=workers).test)


def test_a_cut_off_image_is_named(forest: Path) -> None:
    path = forest / "train" / "ash" / "1.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"ash/1.png cannot be read: image file is truncated"):
        list(loaded(forest).train)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"root": None}, "'root' parameter of load must name the folder with train and val"),
        ({"size": 0}, "'size' parameter of load must be an int of at least 1. Got 0"),
        ({"workers": -1}, "'workers' parameter of load must be an int of at least 0. Got -1"),
        ({"augment": "crop=2"}, r"'smallest' of crop must be a share of the area in \(0, 1\]. Got 2.0"),
        ({"mean": (0.5,)}, "'mean' parameter of load must have 3 numbers"),
        ({"device": "abacus"}, "'device' parameter of load must be a device .* Got 'abacus'"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, Any], message: str, forest: Path) -> None:
    with pytest.raises(InputError, match=message):
        loaded(**{"root": forest, **arguments})


def test_pictures_are_the_bytes_that_the_loader_normalises(forest: Path) -> None:
    data = loaded(forest)
    pictures = Pictures.of(data.test, names=data.class_names)
    inputs, labels = (torch.cat(each) for each in zip(*data.test, strict=True))
    assert torch.equal(pictures.images.float(), bytes_of(data, inputs))
    assert torch.equal(pictures.labels, labels)
    assert torch.allclose(pictures.normalised(pictures.shares(pictures.images)), inputs, atol=1e-5)


def test_some_of_the_pictures_keep_their_places_and_the_classes(forest: Path) -> None:
    data = loaded(forest)
    some = Pictures.of(data.test, limit=6)
    assert torch.bincount(some.labels).tolist() == [2, 2, 2]
    assert torch.equal(some.images, Pictures.of(data.test).images[some.numbers])
    assert torch.equal(some.some(3).numbers, some.numbers[[n in some.some(3).numbers for n in some.numbers]])


def test_a_broken_picture_is_named(forest: Path) -> None:
    (forest / "val" / "birch" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1\.png cannot be read"):
        Pictures.of(loaded(forest).test)
