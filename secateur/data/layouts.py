"""Published binary layouts read into tensors: idx files (of MNIST) and the records of CIFAR's binary version.

Sizes are published, so anything else is a damaged file: every reader says what it expected and what it found.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from secateur.errors import DataError

CIFAR_SHAPE = (3, 32, 32)
REPAIR = "Delete it and fetch the published file again."


def read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """The uint8 tensor of `shape` in an idx file, plain or gzipped (told apart by their first bytes, not by name).

    Raises `DataError` with expected and found sizes where the file is cut off, is no idx file, or holds another shape.
    """
    header = 4 + 4 * len(shape)
    expected = header + int(np.prod(shape))
    raw = _bytes(path, expected)
    magic = bytes((0, 0, 8, len(shape)))  # two zeros, type unsigned byte, number of dimensions
    if raw[:4] != magic:
        raise DataError(
            f"The file {path} is not an idx file of {len(shape)}-dimensional bytes: expected it to begin with "
            f"{magic.hex()}, found {raw[:4].hex() or 'nothing'}. {REPAIR}"
        )
    if len(raw) >= header and (found := np.frombuffer(raw[4:header], dtype=">u4").tolist()) != list(shape):
        raise DataError(f"The file {path} has another shape: expected {list(shape)}, found {found}. {REPAIR}")
    if len(raw) != expected:
        raise DataError(
            f"The file {path} is damaged: expected {expected:,} bytes unpacked, found {len(raw):,}. {REPAIR}"
        )
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8, offset=header).reshape(shape)


def _bytes(path: Path, expected: int) -> bytes:
    """What the file holds, unpacked where it is gzipped; `expected` bytes, if it is whole."""
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except EOFError as error:
        found = len(zlib.decompressobj(31).decompress(raw))  # 31: with the header of gzip
        raise DataError(
            f"The gzip file {path} is cut off ({len(raw):,} bytes): expected {expected:,} bytes unpacked, "
            f"found {found:,}. {REPAIR}"
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"The gzip file {path} is damaged ({path.stat().st_size:,} bytes): {error}. {REPAIR}"
        ) from error
    except OSError as error:
        raise DataError(f"The file {path} cannot be read: {error.strerror}. Check its permissions.") from error


def read_records(path: Path, records: int, label_bytes: int) -> tuple[Tensor, Tensor]:
    """Images uint8 [records, 3, 32, 32] and labels int64 [records] of one file of CIFAR's binary version.

    A record is `label_bytes` labels, of which the last is the finest, and 3,072 bytes of red, green and blue planes.
    Raises `DataError` where the file has not exactly `records` of them.
    """
    size = label_bytes + int(np.prod(CIFAR_SHAPE))
    raw = _bytes(path, records * size)
    if len(raw) != records * size:
        raise DataError(
            f"The file {path} is damaged: expected {records * size:,} bytes ({records:,} records of {size:,}), "
            f"found {len(raw):,}. {REPAIR}"
        )
    table = torch.frombuffer(bytearray(raw), dtype=torch.uint8).reshape(records, size)
    images = table[:, label_bytes:].reshape(records, *CIFAR_SHAPE)
    return images, table[:, label_bytes - 1].long()


def check_labels(labels: Tensor, classes: int, path: Path) -> None:
    """Raise `DataError` where a label is not one of `classes`."""
    wrong = torch.nonzero(labels >= classes).flatten()
    if len(wrong):
        index = int(wrong[0])
        raise DataError(
            f"The file {path} is damaged: labels must lie in [0, {classes - 1}], but {len(wrong):,} do not; "
            f"the first is {int(labels[index])} at image {index}. {REPAIR}"
        )
