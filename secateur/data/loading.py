"""A data set by name, split and ready to be iterated on a device."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.data import folder
from secateur.data.augment import Augmentation, augmentations
from secateur.data.batches import Absent, Batches, Loader
from secateur.data.folder import FOLDER, FolderLoader
from secateur.data.sets import SETS, DataSet, Images, Tabular
from secateur.data.splits import stratified_order
from secateur.errors import DataError, InputError


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in three splits.

    `classes`: how many, and their names where they are known; `shape`: (channels, height, width) of one
    input, of a table (features, 1, 1). `validation` is None where none was asked for; only it may choose epochs or
    thresholds. `mean` and `std` are what the inputs were normalised with. `numbers`: the targets are as many numbers as
    there are `classes`, float32 [batch, outcomes].
    """

    name: str
    classes: int
    shape: tuple[int, int, int]
    train: Batches
    validation: Batches | None
    test: Batches
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] | None = None
    feature_names: tuple[str, ...] | None = None
    numbers: bool = False


def load(
    name: str,
    root: str | Path | None = None,
    *,
    batch_size: int = 128,
    eval_batch_size: int = 500,
    validation: float = 0.1,
    seed: int = 0,
    device: str | torch.device = "cpu",
    augment: bool | str | Sequence[str | Augmentation] = True,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    limit: int | None = None,
    download: bool = False,
    channels_last: bool = False,
    size: int | None = None,
    workers: int | None = None,
) -> Data:
    """The data set `name`: digits, mnist, fashion, cifar10 or cifar100, held as a whole on `device`, or a folder.

    Also tables: breast_cancer, wine and diabetes, with classes, and toy, whose two outcomes are numbers.

    `root`: the folder with the published files; SECATEUR_DATA where it is left out. digits and tables need none.
    "folder" is any `root` with the folders train, val and/or test, and in each of these a folder of image files for
    every class.
    `validation`: the share of train that is split off, stratified by class (0: none); a folder that has val *and* test
    has its own, and one that has val alone is tested on it. `limit`: at most so many training images, stratified, after
    that split; validation and test stay whole. `seed` decides split, order and augmentation. `augment`: True is what is
    usual for the data set, False is nothing, else names out of corrupt, crop, flip, cutout, mixup and cutmix, as one
    string or a list ("crop flip cutout=0.25"). `mean`, `std`: one number a channel on the scale [0, 1]; the defaults
    are the data set's own, for a folder ImageNet's, but a network wants those its weights were trained with.
    `channels_last`: the
    memory format of the inputs. For a folder: `size`, the side of the inputs (224), and `workers`, how many processes
    read images (one a core, at most 8).

    Raises `InputError` for a parameter out of range, `DataError` for files that are missing or damaged.

    >>> data = load("cifar10", "datasets", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    >>> data = load("folder", "photographs", size=128, augment="crop flip mixup=0.2")
    >>> for inputs, targets in data.train: ...
    """
    terms = _Terms(batch_size, eval_batch_size, validation, limit, seed, device, channels_last)
    if name == FOLDER:
        steps = augmentations(augment, folder.USUAL, folder.KNOWN)
        mean, std = _statistics("mean", mean, folder.MEAN), _statistics("std", std, folder.STD)
        return _of_files(terms, root, steps, mean=mean, std=std, size=size, workers=workers)
    for parameter, value in (("size", size), ("workers", workers)):
        if value is not None:
            raise InputError(f"The {parameter!r} parameter of load belongs to a folder. Got {value!r} for {name}.")
    found = _named(name)
    steps = augmentations(augment, found.augment)
    if steps and isinstance(found.layout, Tabular):
        raise InputError(f"The 'augment' parameter of load belongs to images. Got {augment!r} for {name}, a table.")
    parts = _read(found, root, download)
    own_mean, own_std = found.statistics(parts[0])
    mean, std = _statistics("mean", mean, own_mean), _statistics("std", std, own_std)
    return _held(terms, name, found, parts, steps, mean=mean, std=std)


@dataclass(frozen=True)
class _Terms:
    """What every data set is asked for."""

    batch_size: int
    eval_batch_size: int
    validation: float
    limit: int | None
    seed: int
    device: str | torch.device
    channels_last: bool

    def __post_init__(self) -> None:
        share, limit = self.validation, self.limit
        if not 0 <= share < 1:
            raise InputError(f"The 'validation' parameter of load must be a float in [0, 1). Got {share!r} instead.")
        if limit is not None and limit < 1:
            raise InputError(f"The 'limit' parameter of load must be a positive int or None. Got {limit!r} instead.")
        if self.seed < 0:
            raise InputError(f"The 'seed' parameter of load must be an int of at least 0. Got {self.seed!r} instead.")
        for size in (self.batch_size, self.eval_batch_size):
            if size < 1:
                raise InputError(f"The batch sizes of load must be positive ints. Got {size!r} instead.")

    def split(self, labels: Tensor, validation: float) -> tuple[Tensor, Tensor | None]:
        """Which images train and which validate (None for a share of 0), both in the order of the files."""
        known = labels if not labels.is_floating_point() else torch.zeros(len(labels), dtype=torch.int64)
        order = stratified_order(known, self.seed)
        count = max(1, round(validation * len(order))) if validation else 0
        chosen, held_out = (part.sort().values for part in (order[count:][: self.limit], order[:count]))
        if not len(chosen):
            raise InputError(
                f"The 'validation' parameter of load leaves no training image of {len(order)}. Got {validation!r}."
            )
        return chosen, held_out if count else None

    def moved(self, tensor: Tensor) -> Tensor:
        """The tensor on the device. Raises `InputError` where there is no such device, or no room."""
        try:
            return tensor.to(self.device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(
                "The 'device' parameter of load must be a device with room for the images. "
                f"Got {self.device!r}: {error}"
            ) from error


def _held(
    terms: _Terms,
    name: str,
    found: DataSet,
    parts: tuple[Images | DataError, Images],
    steps: tuple[Augmentation, ...],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Data:
    """A data set that is held on the device as it is: one byte a pixel."""

    def made(images: Images, chosen: Tensor | slice, batch_size: int, **settings: Any) -> Loader:
        pixels, labels = (terms.moved(tensor[chosen]) for tensor in (images.pixels, images.labels))
        common: dict[str, Any] = {"peak": found.peak, "seed": terms.seed, "channels_last": terms.channels_last}
        return Loader(pixels, labels, batch_size, mean, std, **common, **settings)

    train, test = parts
    test_loader = made(test, slice(None), terms.eval_batch_size)
    validation: Loader | None
    if isinstance(train, DataError):
        train_loader: Loader = Absent(train, like=test_loader)
        validation = Absent(train, like=test_loader) if terms.validation else None
    else:
        chosen, held_out = terms.split(train.labels, terms.validation)
        train_loader = made(train, chosen, terms.batch_size, shuffle=True, augment=steps, classes=found.classes)
        validation = made(train, held_out, terms.eval_batch_size) if held_out is not None else None
    features, classes = found.layout.names() if isinstance(found.layout, Tabular) else (None, found.names)
    numbers = test.labels.is_floating_point()
    loaders = (train_loader, validation, test_loader)
    return Data(name, found.classes, found.shape, *loaders, mean, std, classes, features, numbers)


def _of_files(
    terms: _Terms,
    root: str | Path | None,
    steps: tuple[Augmentation, ...],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    size: int | None,
    workers: int | None,
) -> Data:
    """A folder of image files, read anew in every epoch."""
    if root is None:
        raise InputError("The 'root' parameter of load must name the folder with train and val (or test). It is None.")
    for parameter, value, least in (("size", size, 1), ("workers", workers, 0)):
        if value is not None and value < least:
            raise InputError(f"The {parameter!r} parameter of load must be an int of at least {least}. Got {value!r}.")
    size = folder.SIZE if size is None else size
    workers = min(8, os.cpu_count() or 1) if workers is None else workers
    device = terms.moved(torch.empty(0)).device
    splits = folder.splits(Path(root).expanduser())
    classes = tuple(splits["train"].classes)

    def made(split: str, chosen: Tensor | None, batch_size: int, **settings: Any) -> FolderLoader:
        files = splits[split].samples
        files = files if chosen is None else [files[index] for index in chosen.tolist()]
        common: dict[str, Any] = {"seed": terms.seed, "channels_last": terms.channels_last, "device": device}
        return FolderLoader(files, batch_size, mean, std, size, workers=workers, **common, **settings)

    own = "val" in splits and "test" in splits
    chosen, held_out = terms.split(torch.tensor(splits["train"].targets), 0 if own else terms.validation)
    train = made("train", chosen, terms.batch_size, shuffle=True, augment=steps, classes=len(classes))
    validation = made("train", held_out, terms.eval_batch_size) if held_out is not None else None
    if own and terms.validation:
        validation = made("val", None, terms.eval_batch_size)
    test = made("test" if "test" in splits else "val", None, terms.eval_batch_size)
    return Data(FOLDER, len(classes), (3, size, size), train, validation, test, mean, std, classes)


def _named(name: str) -> DataSet:
    """The data set called `name`."""
    if name not in SETS:
        known = [*SETS, FOLDER]
        near = difflib.get_close_matches(name, known, n=2, cutoff=0.4) or known
        raise InputError(f"There is no data set named {name!r}. Nearest: {', '.join(near)}.")
    return SETS[name]


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
