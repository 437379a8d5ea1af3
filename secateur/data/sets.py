"""The data sets by name: where their published files lie, what they must hold, and how to fetch them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from secateur.data.augment import Augmentation, Crop, Flip
from secateur.data.layouts import check_labels, read_idx, read_records
from secateur.data.splits import stratified_order
from secateur.data.tables import TABLES, parts
from secateur.errors import DataError

WHERE = "name another folder with root (--data-root) or SECATEUR_DATA, or fetch it with download=True"


@dataclass(frozen=True, eq=False)
class Images:
    """One part of a data set: `pixels` uint8 [images, channels, height, width], `labels` int64 [images].

    Of a table, `pixels` are float32 [samples, features, 1, 1]; outcomes that are numbers are float32 `labels`
    [samples, outcomes].
    """

    pixels: Tensor
    labels: Tensor


class Layout(ABC):
    """How a data set lies on disk."""

    classes: int

    @abstractmethod
    def read(self, root: Path) -> tuple[Images | DataError, Images]:
        """Train and test part from below `root`; or, for a train part that may be absent and is, its error."""

    @abstractmethod
    def download(self, root: Path) -> None:
        """Fetch the published files to below `root`; files that are there and whole are not fetched again."""

    def _fetch_failed(self, what: str, root: Path, error: Exception) -> DataError:
        return DataError(
            f"{what} could not be downloaded to {root}: {type(error).__name__}: {error}. "
            "Put the published files there by hand."
        )


@dataclass(frozen=True)
class Bundled(Layout):
    """Handwritten digits as scikit-learn ships them; a fifth, stratified and always the same, is the test part."""

    classes: int = 10

    def read(self, root: Path) -> tuple[Images, Images]:  # noqa: ARG002 - there is nothing on disk
        """1,437 and 360 images of 8x8 with values 0 to 16."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        pixels = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)
        labels = torch.from_numpy(bunch.target).long()
        order = stratified_order(labels, seed=0)
        held_out = -(-len(order) // 5)
        test, train = (part.sort().values for part in (order[:held_out], order[held_out:]))
        return Images(pixels[train], labels[train]), Images(pixels[test], labels[test])

    def download(self, root: Path) -> None:
        """Nothing: the images come with scikit-learn."""


@dataclass(frozen=True)
class Tabular(Layout):
    """A table that needs no file: one of `tables.TABLES`."""

    table: str
    classes: int

    def read(self, root: Path) -> tuple[Images, Images]:  # noqa: ARG002 - there is nothing on disk
        """Both parts, their features as they are."""
        train, test = parts(TABLES[self.table]())
        return Images(*train), Images(*test)

    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Those of the features and of the classes or outcomes."""
        made = TABLES[self.table]()
        return made.features, made.classes

    def download(self, root: Path) -> None:
        """Nothing: tables are computed, or come with scikit-learn."""


@dataclass(frozen=True)
class Idx(Layout):
    """Four idx files, plain or gzipped, in `folder`/raw below the root, in `folder`, or in the root itself."""

    folder: str
    classes: int
    size: tuple[int, int] = (28, 28)
    train: int = 60_000
    test: int = 10_000
    train_optional: bool = False

    def read(self, root: Path) -> tuple[Images | DataError, Images]:
        """Both parts; `DataError` for what is missing or damaged."""
        folder = self._folder(root)
        test = self._part(folder, "t10k", self.test)
        if self.train_optional and _either(folder / "train-images-idx3-ubyte") is None:
            return self._missing(folder / "train-images-idx3-ubyte"), test
        return self._part(folder, "train", self.train), test

    def _folder(self, root: Path) -> Path:
        """The one folder all files are read from, so that those of two data sets of this layout never mix."""
        folders = [root / self.folder / "raw", root / self.folder, root]
        for folder in folders:
            if any(folder.glob("*-idx?-ubyte*")):
                return folder
        looked = ", ".join(str(folder) for folder in folders)
        raise DataError(f"There are no idx files of {self.folder} in {looked}. Put the published files there, {WHERE}.")

    def _part(self, folder: Path, prefix: str, count: int) -> Images:
        """One part out of its file of images and its file of labels."""
        images, labels = (folder / f"{prefix}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1"))
        pixels = read_idx(self._there(images), (count, *self.size)).unsqueeze(1)
        path = self._there(labels)
        classes = read_idx(path, (count,)).long()
        check_labels(classes, self.classes, path)
        return Images(pixels, classes)

    def _there(self, path: Path) -> Path:
        found = _either(path)
        if found is None:
            raise self._missing(path)
        return found

    def _missing(self, path: Path) -> DataError:
        return DataError(
            f"The file {path} (or {path.name}.gz) of {self.folder} is missing. Put the published file there, {WHERE}."
        )

    def download(self, root: Path) -> None:
        """The raw files, through torchvision, which checks their md5."""
        from torchvision import datasets

        try:
            getattr(datasets, self.folder)(root, download=True)
        except (OSError, RuntimeError) as error:
            raise self._fetch_failed(self.folder, root, error) from error


def _either(path: Path) -> Path | None:
    """`path`, or the gzipped file beside it, whichever is there."""
    return next((found for found in (path, path.with_name(f"{path.name}.gz")) if found.is_file()), None)


@dataclass(frozen=True)
class Binary(Layout):
    """The binary version of CIFAR: files of fixed-size records in `folder` below the root, or in the root itself."""

    folder: str
    pickled: str  # the folder of the version that is not read
    classes: int
    train: tuple[str, ...]
    test: tuple[str, ...]
    records: tuple[int, int]  # in one file of train, of test
    label_bytes: int
    archive: str
    md5: str

    def read(self, root: Path) -> tuple[Images, Images]:
        """Both parts; `DataError` for what is missing or damaged."""
        parts = ((self.train, self.records[0]), (self.test, self.records[1]))
        train, test = (self._part(root, names, records) for names, records in parts)
        return train, test

    def _part(self, root: Path, names: tuple[str, ...], records: int) -> Images:
        pixels, labels = [], []
        for name in names:
            path = self._find(root, name)
            images, classes = read_records(path, records, self.label_bytes)
            check_labels(classes, self.classes, path)
            pixels.append(images)
            labels.append(classes)
        return Images(torch.cat(pixels), torch.cat(labels))

    def _find(self, root: Path, name: str) -> Path:
        folders = [root / self.folder, root]
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
        refused = ""
        if (root / self.pickled).exists():
            refused = f" The folder {self.pickled} is not read: it is made of pickles, which can run any code."
        raise DataError(
            f"The file {name} of the binary version is missing. Looked in {folders[0]} and {root}.{refused} "
            f"Unpack {self.archive.rpartition('/')[2]} there, {WHERE}."
        )

    def download(self, root: Path) -> None:
        """The archive of the binary version (about 165 MB), checked by its md5 and unpacked."""
        from torchvision.datasets.utils import download_and_extract_archive

        try:
            download_and_extract_archive(self.archive, str(root), md5=self.md5)
        except (OSError, RuntimeError) as error:
            raise self._fetch_failed(self.archive, root, error) from error


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set: its layout, the mean and deviation of its training images on the scale [0, 1].

    `peak` is the largest value of a pixel; `augment` is what is usual in training; `names` are those of the classes.
    Where `mean` and `std` are left empty they are those of every channel of the training part.
    """

    layout: Layout
    shape: tuple[int, int, int]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    augment: tuple[Augmentation, ...] = ()
    peak: int = 255
    names: tuple[str, ...] | None = None

    @property
    def classes(self) -> int:
        """How many classes its labels name."""
        return self.layout.classes

    def statistics(self, train: Images | DataError) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation, one number a channel each."""
        if self.mean or isinstance(train, DataError):
            return self.mean, self.std
        values = train.pixels.double().transpose(0, 1).flatten(1) / self.peak
        return tuple(values.mean(1).tolist()), tuple(values.std(1, correction=0).tolist())


_KRIZHEVSKY = "https://www.cs.toronto.edu/~kriz"  # the data sets' own page, with the md5 sums
_CIFAR10 = Binary(
    folder="cifar-10-batches-bin",
    pickled="cifar-10-batches-py",
    classes=10,
    train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    test=("test_batch.bin",),
    records=(10_000, 10_000),
    label_bytes=1,
    archive=f"{_KRIZHEVSKY}/cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
)
_CIFAR100 = Binary(
    folder="cifar-100-binary",
    pickled="cifar-100-python",
    classes=100,
    train=("train.bin",),
    test=("test.bin",),
    records=(50_000, 10_000),
    label_bytes=2,
    archive=f"{_KRIZHEVSKY}/cifar-100-binary.tar.gz",
    md5="03b5dce01913d631647c71ecec9e9cb8",
)

_WORN = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

SETS: Mapping[str, DataSet] = {
    "digits": DataSet(Bundled(), (1, 8, 8), (0.3054,), (0.3763,), peak=16),
    "mnist": DataSet(Idx("MNIST", 10), (1, 28, 28), (0.1307,), (0.3081,), (Crop(2),)),
    "fashion": DataSet(
        Idx("FashionMNIST", 10, train_optional=True), (1, 28, 28), (0.2860,), (0.3530,), (Crop(2),), names=_WORN
    ),
    "cifar10": DataSet(
        _CIFAR10, (3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), (Crop(4), Flip()), names=_THINGS
    ),
    "cifar100": DataSet(_CIFAR100, (3, 32, 32), (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), (Crop(4), Flip())),
    "breast_cancer": DataSet(Tabular("breast_cancer", 2), (30, 1, 1), peak=1),
    "wine": DataSet(Tabular("wine", 3), (13, 1, 1), peak=1),
    "diabetes": DataSet(Tabular("diabetes", 2), (10, 1, 1), peak=1),
    "toy": DataSet(Tabular("toy", 2), (4, 1, 1), (0.0,) * 4, (1.0,) * 4, peak=1),
}
"""Name -> data set: UCI (digits), LeCun and Cortes (MNIST), Zalando SE (Fashion-MNIST), Krizhevsky 2009 (CIFAR).

The others are tables, see there."""
