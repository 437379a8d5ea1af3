from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from secateur.data.layouts import check_labels, read_idx, read_records
from secateur.errors import DataError

VALUES = torch.arange(2 * 3 * 4, dtype=torch.uint8).view(2, 3, 4)
Write = Callable[[Path, Tensor], Path]


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_idx_reads_back_what_was_written(name: str, tmp_path: Path, write_idx: Write) -> None:
    assert torch.equal(read_idx(write_idx(tmp_path / name, VALUES), (2, 3, 4)), VALUES)


def test_a_gzipped_idx_file_is_known_by_its_bytes(tmp_path: Path, write_idx: Write) -> None:
    write_idx(tmp_path / "a.gz", VALUES).rename(tmp_path / "a")
    assert torch.equal(read_idx(tmp_path / "a", (2, 3, 4)), VALUES)


def test_idx_with_another_shape_names_both(tmp_path: Path, write_idx: Write) -> None:
    path = write_idx(tmp_path / "images", VALUES)
    with pytest.raises(DataError, match=r"images has another shape: expected \[5, 3, 4\], found \[2, 3, 4\]"):
        read_idx(path, (5, 3, 4))


@pytest.mark.parametrize("cut", [5, 16, 39])
def test_a_cut_off_idx_file_names_both_sizes(cut: int, tmp_path: Path, write_idx: Write) -> None:
    path = write_idx(tmp_path / "images", VALUES)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=rf"images is damaged: expected 40 bytes unpacked, found {cut}. Delete it"):
        read_idx(path, (2, 3, 4))


def test_a_file_too_long_is_damaged(tmp_path: Path, write_idx: Write) -> None:
    path = write_idx(tmp_path / "images", VALUES)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DataError, match="expected 40 bytes unpacked, found 41"):
        read_idx(path, (2, 3, 4))


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", bytes((0, 0, 8, 1, 0, 0, 0, 2, 1, 2))])
def test_what_is_no_idx_file_of_that_rank_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(
        DataError, match="images is not an idx file of 3-dimensional bytes: expected it to begin with 00000803"
    ):
        read_idx(tmp_path / "images", (2, 3, 4))


def test_a_cut_off_gzip_file_names_both_sizes(tmp_path: Path, write_idx: Write) -> None:
    path = write_idx(tmp_path / "images.gz", VALUES)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(
        DataError,
        match=r"images.gz is cut off \(\d+ bytes\): expected 40 bytes unpacked, found \d\d. Delete it and fetch",
    ):
        read_idx(path, (2, 3, 4))


def test_a_flipped_byte_in_a_gzip_file_is_found(tmp_path: Path) -> None:
    raw = bytearray(gzip.compress(bytes(range(256)) * 4))
    raw[40] ^= 0xFF
    (tmp_path / "a.gz").write_bytes(raw)
    with pytest.raises(DataError, match=r"a.gz is damaged"):
        read_idx(tmp_path / "a.gz", (2,))


@pytest.mark.parametrize("label_bytes", [1, 2])
def test_records_give_planes_and_the_finest_label(label_bytes: int, tmp_path: Path) -> None:
    table = torch.randint(0, 256, (3, label_bytes + 3072), dtype=torch.uint8)
    (tmp_path / "a.bin").write_bytes(table.numpy().tobytes())
    images, labels = read_records(tmp_path / "a.bin", 3, label_bytes)
    assert images.shape == (3, 3, 32, 32)
    assert labels.dtype == torch.int64
    assert torch.equal(labels, table[:, label_bytes - 1].long())
    assert images[1, 2, 5, 7] == table[1, label_bytes + 2 * 1024 + 5 * 32 + 7]


@pytest.mark.parametrize("size", [0, 3073 * 2, 3073 * 3 - 1])
def test_records_that_are_not_all_there_name_both_sizes(size: int, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(size))
    with pytest.raises(DataError, match=rf"expected 9,219 bytes \(3 records of 3,073\), found {size:,}"):
        read_records(tmp_path / "a.bin", 3, 1)


def test_labels_out_of_range_are_named() -> None:
    check_labels(torch.tensor([0, 9]), 10, Path("labels"))
    with pytest.raises(DataError, match=r"labels must lie in \[0, 9\], but 2 do not; the first is 10 at image 1"):
        check_labels(torch.tensor([9, 10, 255]), 10, Path("labels"))
