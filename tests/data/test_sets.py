from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision.datasets
import torchvision.datasets.utils
from torch import Tensor

from secateur.data import load
from secateur.data.sets import SETS
from secateur.errors import DataError


def test_idx_files_are_read_from_the_folder_of_the_set(tiny_mnist: Path) -> None:
    data = load("mnist", tiny_mnist, validation=0)
    assert (data.train.samples, data.test.samples) == (40, 10)
    assert data.train.images.shape == (40, 1, 28, 28)
    assert torch.equal(data.test.targets, torch.arange(10))
    assert data.test.images[1, 0, 0, 0] == 784 % 251


@pytest.mark.parametrize("below", ["MNIST", "."])
def test_idx_files_may_lie_in_the_folder_or_the_root(below: str, tiny_mnist: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_mnist / "MNIST" / "raw", tmp_path / "other" / below, dirs_exist_ok=True)
    assert load("mnist", tmp_path / "other").train.samples == 36


def test_the_environment_names_the_root(tiny_mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_DATA", str(tiny_mnist))
    assert load("mnist").test.samples == 10
    with pytest.raises(DataError, match="elsewhere"):
        load("mnist", tiny_mnist / "elsewhere")


def test_a_set_that_is_not_there_says_where_it_looked_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load("mnist", tmp_path)
    for part in (str(tmp_path / "MNIST" / "raw"), "--data-root", "SECATEUR_DATA", "download=True"):
        assert part in str(caught.value)


def test_one_missing_file_is_named(tiny_mnist: Path) -> None:
    (tiny_mnist / "MNIST" / "raw" / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(
        DataError, match=r"train-labels-idx1-ubyte \(or train-labels-idx1-ubyte.gz\) of MNIST is missing"
    ):
        load("mnist", tiny_mnist)


def test_labels_out_of_range_are_damage(tiny_mnist: Path, write_idx: Callable[[Path, Tensor], Path]) -> None:
    path = write_idx(tiny_mnist / "MNIST" / "raw" / "t10k-labels-idx1-ubyte", torch.full((10,), 17, dtype=torch.uint8))
    with pytest.raises(DataError, match=r"labels must lie in \[0, 9\], but 10 do not") as caught:
        load("mnist", tiny_mnist)
    assert str(path) in str(caught.value)


def test_fashion_without_its_training_files_serves_the_test_part(tiny_mnist: Path) -> None:
    raw = tiny_mnist / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (tiny_mnist / "MNIST" / "raw").glob("t10k-*"):
        shutil.copy(path, raw)
    data = load("fashion", tiny_mnist)
    assert data.test.samples == 10
    assert data.train.samples == 0
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte .* of FashionMNIST is missing"):
        next(iter(data.train))


def test_files_of_two_sets_in_different_folders_never_mix(tiny_mnist: Path, tmp_path: Path) -> None:
    """The test files of Fashion-MNIST are in their folder, the training files of MNIST in the root."""
    root = tmp_path / "mixed"
    shutil.copytree(tiny_mnist / "MNIST" / "raw", root)
    shutil.copytree(
        tiny_mnist / "MNIST" / "raw", root / "FashionMNIST" / "raw", ignore=shutil.ignore_patterns("train-*")
    )
    assert load("fashion", root).train.samples == 0


def test_records_of_cifar100_carry_the_fine_label(tiny_cifar: Path) -> None:
    data = load("cifar100", tiny_cifar, validation=0)
    assert (data.train.samples, data.test.samples) == (20, 10)
    assert sorted(data.train.targets.unique().tolist()) == [90, 91, 92, 93, 94]
    assert data.train.images[0, 0, 0, 0] == 2


def test_records_may_lie_in_the_root(tiny_cifar: Path) -> None:
    assert load("cifar100", tiny_cifar / "cifar-100-binary").test.samples == 10


def test_a_truncated_file_of_records_names_its_path(tiny_cifar: Path) -> None:
    path = tiny_cifar / "cifar-100-binary" / "train.bin"
    path.write_bytes(path.read_bytes()[:-3074])
    with pytest.raises(DataError, match=r"expected 61,480 bytes .* found 58,406") as caught:
        load("cifar100", tiny_cifar)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("name", "folder"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
def test_pickled_cifar_is_refused_and_the_reason_given(name: str, folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    with pytest.raises(DataError, match=rf"{folder} is not read: it is made of pickles.* Unpack \S+-binary.tar.gz"):
        load(name, tmp_path)


def test_download_fetches_the_binary_version_with_its_md5(
    tiny_cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fetch(url: str, root: str, md5: str) -> None:
        calls.append((url.rpartition("/")[2], md5))
        shutil.copytree(tiny_cifar / "cifar-100-binary", Path(root) / "cifar-100-binary")

    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", fetch)
    for _ in range(2):  # the second time the files are there
        assert load("cifar100", tmp_path / "fresh", download=True).test.samples == 10
    assert calls == [("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8")]


def test_download_of_idx_files_is_torchvisions(
    tiny_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(root: Path, download: bool) -> None:
        assert download
        shutil.copytree(tiny_mnist / "MNIST", root / "MNIST")

    monkeypatch.setattr(torchvision.datasets, "MNIST", fetch)
    assert load("mnist", tmp_path / "fresh", download=True).test.samples == 10


def test_download_fetches_a_training_part_that_is_absent(tiny_mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = tiny_mnist / "MNIST" / "raw"
    raw = tiny_mnist / "FashionMNIST" / "raw"
    shutil.copytree(published, raw, ignore=shutil.ignore_patterns("train-*"))

    def fetch(root: Path, download: bool) -> None:
        shutil.copytree(published, root / "FashionMNIST" / "raw", dirs_exist_ok=True)

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fetch)
    assert load("fashion", tiny_mnist, download=True).train.samples == 36


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_download_that_fails_is_an_error_of_the_data(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets, "MNIST", refuse)
    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", refuse)
    with pytest.raises(DataError, match=r"could not be downloaded .* no network"):
        load(name, tmp_path, download=True)


def test_without_any_root_the_cache_folder_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECATEUR_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataError) as caught:
        load("cifar10")
    assert str(tmp_path / "secateur") in str(caught.value)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
def test_published_files_have_the_published_statistics(name: str, data_root: Path) -> None:
    data = load(name, data_root, validation=0)
    assert (data.train.samples, data.test.samples) == (60_000 if name == "mnist" else 50_000, 10_000)
    assert torch.bincount(data.test.targets, minlength=data.classes).min() > 0
    pixels = data.train.images.float().div_(255)
    deviation, mean = torch.std_mean(pixels, dim=(0, 2, 3))
    assert mean.tolist() == pytest.approx(SETS[name].mean, abs=1e-4)
    assert deviation.tolist() == pytest.approx(SETS[name].std, abs=1e-4)


def test_published_fashion_files_are_read_without_train(data_root: Path) -> None:
    data = load("fashion", data_root)
    assert data.test.samples == 10_000
    assert torch.bincount(data.test.targets).tolist() == [1000] * 10


def test_a_damaged_download_of_a_real_file_is_found(data_root: Path, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    shutil.copytree(data_root / "MNIST" / "raw", raw)
    path = raw / "t10k-images-idx3-ubyte.gz"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        DataError, match=r"t10k-images-idx3-ubyte.gz is cut off .* expected 7,840,016 bytes unpacked, found"
    ):
        load("mnist", tmp_path)
    path.with_suffix("").write_bytes(gzip.decompress((data_root / "MNIST" / "raw" / path.name).read_bytes()))
    assert load("mnist", tmp_path).test.samples == 10_000  # the plain file stands in for the damaged one


@pytest.mark.parametrize("name", [name for name, known in SETS.items() if known.names])
def test_every_class_has_a_name_of_its_own(name: str) -> None:
    names = SETS[name].names
    assert names is not None
    assert len(set(names)) == SETS[name].classes
