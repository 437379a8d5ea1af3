from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from secateur.data.augment import Crop
from secateur.data.sets import SETS, Binary, DataSet, Idx


@pytest.fixture
def data_root() -> Path:
    """The folder of the published data sets."""
    if not os.environ.get("SECATEUR_DATA"):
        pytest.skip("SECATEUR_DATA names no folder with the published data sets")
    return Path(os.environ["SECATEUR_DATA"])


@pytest.fixture
def write_idx() -> Callable[[Path, Tensor], Path]:
    """Writes a uint8 tensor as an idx file, gzipped where the name says so."""

    def write(path: Path, values: Tensor) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = bytes((0, 0, 8, values.dim())) + np.array(values.shape, dtype=">u4").tobytes() + values.numpy().tobytes()
        path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
        return path

    return write


@pytest.fixture
def tiny_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_idx: Callable[[Path, Tensor], Path]) -> Path:
    """A root with MNIST of 40 training and 10 test images; `mnist` and `fashion` are shrunk to fit."""
    for name, folder in (("mnist", "MNIST"), ("fashion", "FashionMNIST")):
        layout = Idx(folder, 10, train=40, test=10, train_optional=name == "fashion")
        monkeypatch.setitem(SETS, name, DataSet(layout, (1, 28, 28), (0.5,), (0.5,), (Crop(2),)))  # type: ignore[arg-type]
    for prefix, count in (("train", 40), ("t10k", 10)):
        images = torch.arange(count * 784).remainder(251).to(torch.uint8).view(count, 28, 28)
        write_idx(tmp_path / "MNIST" / "raw" / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / "MNIST" / "raw" / f"{prefix}-labels-idx1-ubyte", torch.arange(count).remainder(10).byte())
    return tmp_path


@pytest.fixture
def tiny_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with a CIFAR-100 of 20 training and 10 test records; `cifar100` is shrunk to fit."""
    published = SETS["cifar100"].layout
    assert isinstance(published, Binary)
    layout = Binary(**{**vars(published), "records": (20, 10)})
    monkeypatch.setitem(SETS, "cifar100", DataSet(layout, (3, 32, 32), (0.5,) * 3, (0.5,) * 3))  # type: ignore[arg-type]
    for name, count in (("train.bin", 20), ("test.bin", 10)):
        table = torch.arange(count * 3074).remainder(253).to(torch.uint8).view(count, 3074)
        table[:, 0] = 19
        table[:, 1] = torch.arange(count).remainder(5) + 90
        path = tmp_path / "cifar-100-binary" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(table.numpy().tobytes())
    return tmp_path
