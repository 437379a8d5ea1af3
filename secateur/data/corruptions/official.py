"""The official files of CIFAR-10-C, CIFAR-10.1 and MNIST-C, read where the user has put them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from secateur.data.corruptions.corrupt import kinds
from secateur.data.layouts import REPAIR, check_labels
from secateur.data.sets import Images
from secateur.errors import DataError, InputError

_PER_SEVERITY = 10_000
_SEVERITIES = 5
_NEW = {"v4": 2_021, "v6": 2_000}


def cifar10_c(root: Path | str, kind: str, severity: int) -> Images:
    """The 10,000 test images of CIFAR-10 under one corruption, from `kind`.npy and labels.npy.

    The files lie in `root`/CIFAR-10-C or in `root`. Raises `DataError` where one is missing or damaged.
    """
    if kind not in kinds("cifar"):
        raise InputError(f"CIFAR-10-C has no corruption {kind!r}. It has {', '.join(kinds('cifar'))}.")
    if severity not in range(1, _SEVERITIES + 1):
        raise InputError(f"The 'severity' parameter of cifar10_c must be an int in [1, 5]. Got {severity!r} instead.")
    total = _PER_SEVERITY * _SEVERITIES
    folders = (Path(root) / "CIFAR-10-C", Path(root))
    block = slice((severity - 1) * _PER_SEVERITY, severity * _PER_SEVERITY)
    return _images(folders, f"{kind}.npy", "labels.npy", total, block)


def cifar10_1(root: Path | str, version: str = "v6") -> Images:
    """The new test images of Recht et al. (arXiv 1806.00451): 2,000 in version "v6", 2,021 in "v4".

    The files cifar10.1_*_data.npy and cifar10.1_*_labels.npy lie in `root`/CIFAR-10.1, in its folder datasets, or in
    `root`. Raises `DataError` where one is missing or damaged.
    """
    if version not in _NEW:
        raise InputError(f"The 'version' parameter of cifar10_1 must be 'v4' or 'v6'. Got {version!r} instead.")
    own = Path(root) / "CIFAR-10.1"
    data, labels = (f"cifar10.1_{version}_{part}.npy" for part in ("data", "labels"))
    return _images((own, own / "datasets", Path(root)), data, labels, _NEW[version], slice(None))


def mnist_c(root: Path | str, kind: str) -> Images:
    """The 10,000 test images of MNIST under one corruption, from `kind`/test_images.npy and test_labels.npy.

    The folders lie in `root`/mnist_c or in `root`. Raises `DataError` where a file is missing or damaged.
    """
    if kind not in kinds("mnist"):
        raise InputError(f"MNIST-C has no corruption {kind!r}. It has {', '.join(kinds('mnist'))}.")
    folders = (Path(root) / "mnist_c" / kind, Path(root) / kind)
    return _images(folders, "test_images.npy", "test_labels.npy", _PER_SEVERITY, slice(None), (28, 28, 1))


def _images(
    folders: Sequence[Path],
    pixels: str,
    labels: str,
    count: int,
    block: slice,
    shape: tuple[int, int, int] = (32, 32, 3),
) -> Images:
    """The images and labels at `block` of two files of `count` each."""
    path = _find(folders, labels)
    data = _array(_find(folders, pixels), (count, *shape))[block]
    classes = torch.from_numpy(_array(path, (count,))[block].astype(np.int64))
    check_labels(classes, 10, path)
    return Images(torch.from_numpy(np.array(data)).permute(0, 3, 1, 2).contiguous(), classes)


def _find(folders: Sequence[Path], name: str) -> Path:
    found = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if found is None:
        looked = ", ".join(map(str, folders))
        raise DataError(f"The file {name} is missing. Looked in {looked}. Put the published file there.")
    return found


def _array(path: Path, shape: tuple[int, ...]) -> NDArray[np.integer]:
    """The whole numbers in a .npy file, mapped and not read; pickles are refused, for they can run any code."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"The file {path} cannot be read as .npy: {error}. {REPAIR}") from error
    expected = "uint8" if len(shape) > 1 else "integers"
    if array.shape != shape or not (array.dtype == np.uint8 if len(shape) > 1 else array.dtype.kind in "ui"):
        raise DataError(
            f"The file {path} does not hold what was published: expected {expected} of shape {list(shape)}, found "
            f"{array.dtype} of shape {list(array.shape)}. {REPAIR}"
        )
    return np.asarray(array)
