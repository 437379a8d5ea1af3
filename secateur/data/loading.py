"""A data set by name, split and ready to be iterated on a device."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from secateur.data.batches import Absent, Loader
from secateur.data.sets import SETS, DataSet, Images
from secateur.data.splits import stratified_order
from secateur.errors import DataError, InputError


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in three splits.

    `classes`: how many; `shape`: (channels, height, width) of one input. `validation` is carved from train and is
    None where none was asked for; only it may choose epochs or thresholds. `mean` and `std` are what the inputs were
    normalised with.
    """

    name: str
    classes: int
    shape: tuple[int, int, int]
    train: Loader
    validation: Loader | None
    test: Loader
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load(
    name: str,
    root: str | Path | None = None,
    *,
    batch_size: int = 128,
    eval_batch_size: int = 500,
    validation: float = 0.1,
    seed: int = 0,
    device: str | torch.device = "cpu",
    augment: bool = True,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    limit: int | None = None,
    download: bool = False,
    channels_last: bool = False,
) -> Data:
    """The data set `name` (digits, mnist, fashion, cifar10, cifar100), held as a whole on `device`.

    `root`: the folder with the published files; SECATEUR_DATA where it is left out. digits needs none. `validation`:
    the share of train that is split off, stratified by class (0: none). `limit`: at most so many training images,
    stratified, after that split; validation and test stay whole. `seed` decides split, order and augmentation.
    `mean`, `std`: one number a channel on the scale [0, 1]; the defaults are the data set's own, but a network wants
    those its weights were trained with. `channels_last`: the memory format of the inputs.

    Raises `InputError` for a parameter out of range, `DataError` for files that are missing or damaged.

    >>> data = load("cifar10", "datasets", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    >>> for inputs, targets in data.train: ...
    """
    found = _named(name)
    _check(validation, limit, seed, batch_size, eval_batch_size)
    mean, std = _statistics("mean", mean, found.mean), _statistics("std", std, found.std)
    train, test = _read(found, root, download)
    make = partial(_loader, mean=mean, std=std, peak=found.peak, seed=seed, channels_last=channels_last, device=device)
    test_loader = make(test, batch_size=eval_batch_size)
    if isinstance(train, DataError):
        train_loader: Loader = Absent(train, like=test_loader)
        validation_loader: Loader | None = Absent(train, like=test_loader) if validation else None
    else:
        chosen, held_out = _split(train, validation, limit, seed)
        train_loader = make(chosen, batch_size=batch_size, shuffle=True, augment=found.augment if augment else None)
        validation_loader = make(held_out, batch_size=eval_batch_size) if held_out is not None else None
    return Data(name, found.classes, found.shape, train_loader, validation_loader, test_loader, mean, std)


def _named(name: str) -> DataSet:
    """The data set called `name`."""
    if name not in SETS:
        near = difflib.get_close_matches(name, SETS, n=2, cutoff=0.4) or list(SETS)
        raise InputError(f"There is no data set named {name!r}. Nearest: {', '.join(near)}.")
    return SETS[name]


def _check(validation: float, limit: int | None, seed: int, *sizes: int) -> None:
    """Raise `InputError` for numbers out of range; `sizes` are those of the batches."""
    if not 0 <= validation < 1:
        raise InputError(f"The 'validation' parameter of load must be a float in [0, 1). Got {validation!r} instead.")
    if limit is not None and limit < 1:
        raise InputError(f"The 'limit' parameter of load must be a positive int or None. Got {limit!r} instead.")
    if seed < 0:
        raise InputError(f"The 'seed' parameter of load must be an int of at least 0. Got {seed!r} instead.")
    for size in sizes:
        if size < 1:
            raise InputError(f"The batch sizes of load must be positive ints. Got {size!r} instead.")


def _statistics(which: str, given: Sequence[float] | None, own: tuple[float, ...]) -> tuple[float, ...]:
    """The numbers to normalise with: `given`, one a channel, or the data set's own."""
    if given is None:
        return own
    numbers = tuple(float(value) for value in given)
    if len(numbers) != len(own):
        raise InputError(
            f"The {which!r} parameter of load must have {len(own)} numbers, one a channel. Got {given!r} instead."
        )
    if which == "std" and min(numbers) <= 0:
        raise InputError(f"The 'std' parameter of load must be positive. Got {given!r} instead.")
    return numbers


def _read(found: DataSet, root: str | Path | None, download: bool) -> tuple[Images | DataError, Images]:
    """Train and test part; fetched first where something is missing and `download` allows it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "secateur"
    folder = Path(root or os.environ.get("SECATEUR_DATA") or cache).expanduser()
    try:
        train, test = found.layout.read(folder)
    except DataError:
        if not download:
            raise
    else:
        if not (download and isinstance(train, DataError)):
            return train, test
    found.layout.download(folder)
    return found.layout.read(folder)


def _split(train: Images, validation: float, limit: int | None, seed: int) -> tuple[Images, Images | None]:
    """Training and validation images (None for a share of 0), each in the order of the files."""
    order = stratified_order(train.labels, seed)
    count = max(1, round(validation * len(order))) if validation else 0
    chosen, held_out = (part.sort().values for part in (order[count:][:limit], order[:count]))
    if not len(chosen):
        raise InputError(
            f"The 'validation' parameter of load leaves no training image of {len(order)}. Got {validation!r}."
        )
    return _take(train, chosen), _take(train, held_out) if count else None


def _take(images: Images, index: torch.Tensor) -> Images:
    return Images(images.pixels[index], images.labels[index])


def _loader(images: Images, device: str | torch.device, **settings: Any) -> Loader:
    """The loader of `images`, which are moved to `device` as they are: one byte a pixel."""
    try:
        pixels, labels = images.pixels.to(device), images.labels.to(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"The 'device' parameter of load must be a device with room for the images. Got {device!r}: {error}"
        ) from error
    return Loader(pixels, labels, **settings)
