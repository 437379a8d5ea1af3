from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from secateur.data.corruptions import cifar10_1, cifar10_c, official
from secateur.errors import DataError, InputError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files as published, but of four images to a severity and of three new ones."""
    monkeypatch.setattr(official, "_PER_SEVERITY", 4)
    monkeypatch.setattr(official, "_NEW", {"v6": 3})
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    pixels = np.arange(20 * 32 * 32 * 3).reshape(20, 32, 32, 3) % 251
    np.save(folder / "fog.npy", pixels.astype(np.uint8))
    np.save(folder / "labels.npy", np.tile(np.arange(4, dtype=np.uint8), 5))
    np.save(tmp_path / "cifar10.1_v6_data.npy", pixels[:3].astype(np.uint8))
    np.save(tmp_path / "cifar10.1_v6_labels.npy", np.array([9, 0, 5], dtype=np.int32))
    return tmp_path


def test_a_severity_is_its_block_of_the_file(root: Path) -> None:
    images = cifar10_c(root, "fog", 3)
    whole = np.load(root / "CIFAR-10-C" / "fog.npy")
    assert images.pixels.shape == (4, 3, 32, 32)
    assert torch.equal(images.pixels, torch.from_numpy(whole[8:12]).permute(0, 3, 1, 2))
    assert images.labels.tolist() == [0, 1, 2, 3]
    assert images.labels.dtype == torch.int64


def test_the_new_test_images_are_read(root: Path) -> None:
    images = cifar10_1(root)
    assert images.pixels.shape == (3, 3, 32, 32)
    assert images.labels.tolist() == [9, 0, 5]


def test_what_is_missing_or_damaged_is_told(root: Path) -> None:
    with pytest.raises(DataError, match=r"snow.npy is missing. Looked in .*CIFAR-10-C"):
        cifar10_c(root, "snow", 1)
    with pytest.raises(InputError, match="no corruption 'rain'"):
        cifar10_c(root, "rain", 1)
    with pytest.raises(InputError, match=r"\[1, 5\]. Got 6"):
        cifar10_c(root, "fog", 6)
    with pytest.raises(InputError, match="Got 'v5'"):
        cifar10_1(root, "v5")
    path = root / "CIFAR-10-C" / "fog.npy"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"cannot be read as \.npy"):
        cifar10_c(root, "fog", 1)
    np.save(path, np.zeros((20, 32, 32, 3), dtype=np.float32))
    with pytest.raises(DataError, match=r"expected uint8 of shape \[20, 32, 32, 3\], found float32"):
        cifar10_c(root, "fog", 1)
    np.save(root / "cifar10.1_v6_labels.npy", np.array([9, 0, 10]))
    with pytest.raises(DataError, match=r"labels must lie in \[0, 9\]"):
        cifar10_1(root)


def test_a_pickle_is_refused(root: Path) -> None:
    np.save(root / "CIFAR-10-C" / "fog.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"cannot be read as \.npy"):
        cifar10_c(root, "fog", 1)
