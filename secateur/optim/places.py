"""Where the units of each parameter lie among all units of an optimizer, and their masks, piece by piece.

The index of an element is its position in row-major order within the *whole* parameter, behind all parameters before
it in the optimizer. Neither the memory layout nor the way a parameter is sharded changes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

from secateur.hashing import Draw, signed

Granularity = Literal["element", "row", "tensor"]
GRANULARITIES = ("element", "row", "tensor")
CHUNK = 1 << 16  # indices hashed at a time, at most: they and their scratch stay in a core's cache


@dataclass(frozen=True)
class Place:
    """The units of the local part of a parameter: a grid `shape`, which broadcasts over that part.

    The unit at grid position `x` has the index `start + sum(x * strides)`; its low 32 bits are hashed with the key of
    `high`, the bits above them in the index of the whole parameter's first element.
    """

    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    high: int = 0

    @property
    def units(self) -> int:
        """How many units there are here."""
        return prod(self.shape)

    @property
    def in_order(self) -> bool:
        """Whether the indices are `start`, `start + 1`, ..."""
        wanted = _row_major(self.shape)
        return all(n == 1 or own == other for n, own, other in zip(self.shape, self.strides, wanted, strict=True))

    def indices(self, rows: slice, device: torch.device) -> Tensor:
        """The indices of some rows of the grid, int64, of the shape of these rows."""
        index = torch.tensor(self.start, device=device)
        for axis, (size, stride) in enumerate(zip(self.shape, self.strides, strict=True)):
            span = range(size)[rows] if axis == 0 else range(size)
            steps = torch.arange(span.start, span.stop, device=device) * stride
            index = index + steps.view(-1, *(1,) * (len(self.shape) - axis - 1))
        return index


@dataclass(frozen=True)
class Piece:
    """Some rows of the grid of a place, the first of its units with index `start`; `rows` is None for all of them."""

    number: int
    rows: slice | None
    shape: tuple[int, ...]
    units: int
    start: int
    in_order: bool

    def of(self, tensor: Tensor) -> Tensor:
        """These rows of a tensor that is laid out as the grid, or that the grid broadcasts over."""
        return tensor if self.rows is None else tensor[self.rows]


@dataclass(frozen=True)
class Batch:
    """Pieces that are hashed at once.

    `runs` are stretches of their units, one behind the other: (index of the first, number of units), or for a piece
    whose units do not follow one another (that piece, number of units).
    """

    high: int
    units: int
    pieces: tuple[Piece, ...]
    runs: tuple[tuple[int | Piece, int], ...]


@dataclass(frozen=True)
class Grid:
    """The order of a tensor's memory: rows x places x columns, and what a row and a column add to an index."""

    shape: tuple[int, int, int]
    outer: int
    inner: int


def grid(p: Tensor) -> Grid | None:
    """The grid of a tensor that is row-major or, with four axes, channels-last; None for any other layout."""
    if p.is_contiguous():
        return Grid((1, 1, p.numel()), 0, 1)
    if p.dim() == 4 and p.is_contiguous(memory_format=torch.channels_last):
        rows, columns, height, width = p.shape
        places = height * width
        return Grid((rows, places, columns), columns * places, places)
    return None


def local(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor that this rank holds; any other tensor as it is."""
    whole: Any = tensor
    part: Tensor = whole.to_local() if hasattr(whole, "to_local") else tensor
    return part


def bases(groups: Iterable[dict[str, Any]]) -> dict[Tensor, int]:
    """Parameter -> index of its first element, over all parameters of an optimizer in their order."""
    found: dict[Tensor, int] = {}
    total = 0
    for group in groups:
        for parameter in group["params"]:
            found[parameter] = total
            total += parameter.numel()
    return found


def place(parameter: Any, base: int, granularity: Granularity) -> Place:
    """Where the units of `parameter`, a tensor, lie whose first element has the index `base`."""
    whole = tuple(parameter.shape)
    if not hasattr(parameter, "placements"):
        return _place(whole, whole, (0,) * len(whole), base, granularity)
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, offset = compute_local_shape_and_global_offset(whole, parameter.device_mesh, parameter.placements)
    return _place(whole, tuple(local(parameter).shape), tuple(offset), base, granularity)


@lru_cache(maxsize=1 << 14)
def _place(
    whole: tuple[int, ...], shape: tuple[int, ...], offset: tuple[int, ...], base: int, granularity: Granularity
) -> Place:
    """The part `shape` at `offset` of a parameter of shape `whole`."""
    strides = _row_major(whole)
    if granularity != "element":  # one unit along every axis but, for rows, the first
        first = 1 if granularity == "row" else 0
        shape = (*shape[:first], *(min(n, 1) for n in shape[first:]))
        strides = (*(1 for _ in shape[:first]), *(0 for _ in shape[first:]))
    start = base + sum(o * s for o, s in zip(offset, strides, strict=True))
    return Place(start, shape, strides, base >> 32)


def pieces(places: Sequence[Place], draw: Draw, device: torch.device) -> Iterator[tuple[int, slice | None, Tensor]]:
    """The masks of all places: (which place, rows of its grid, int32 mask), chunk by chunk.

    A mask is -1, all bits set, where a unit is kept, and 0 elsewhere; it is overwritten as soon as the next is asked
    for. `rows` is None for a whole place. A chunk is a 32nd of all units, so that masks and their scratch weigh less
    than an eighth of gradients in float32; on the CPU it also fits into the cache.
    """
    units = sum(p.units for p in places)
    found = batches(tuple(places), max(1 << 12, units // 32) if device.type != "cpu" else chunk_of(units))
    hasher = Hasher(draw, places, found, device)
    for batch in found:
        for piece, mask in hasher.masks(batch):
            yield piece.number, piece.rows, mask


def chunk_of(units: int) -> int:
    """How many of all units are hashed at a time on the CPU."""
    return min(CHUNK, max(1 << 12, units // 32))


@lru_cache(maxsize=64)
def batches(places: tuple[Place, ...], chunk: int) -> tuple[Batch, ...]:
    """All places, in order, in batches of at most `chunk` units (or one row, if that is longer)."""
    found: list[list[Piece]] = []
    room = 0
    for number, where in enumerate(places):
        for piece in split(where, number, chunk):
            if not found or piece.units > room or places[found[-1][0].number].high != where.high:
                found.append([])
                room = chunk
            found[-1].append(piece)
            room -= piece.units
    return tuple(_batch(some, places[some[0].number].high) for some in found)


def _batch(some: Sequence[Piece], high: int) -> Batch:
    runs: list[tuple[int | Piece, int]] = []
    end = None
    for piece in some:
        if runs and piece.in_order and piece.start == end:
            first, units = runs[-1]
            runs[-1] = (first, units + piece.units)
        else:
            runs.append((piece.start if piece.in_order else piece, piece.units))
        end = piece.start + piece.units if piece.in_order else None
    return Batch(high, sum(piece.units for piece in some), tuple(some), tuple(runs))


def whole_mask(where: Place, draw: Draw, device: torch.device) -> Tensor:
    """The mask of one place in one tensor, bool, of the shape of its grid."""
    mask = torch.empty(where.shape, dtype=torch.bool, device=device)
    for _, rows, piece in pieces([where], draw, device):
        torch.ne(piece, 0, out=mask if rows is None else mask[rows])
    return mask


class Hasher:
    """Makes the masks of one batch after another, in the same memory."""

    def __init__(self, draw: Draw, places: Sequence[Place], found: Sequence[Batch], device: torch.device) -> None:
        self.draw, self.places, self.device = draw, places, device
        most = max((batch.units for batch in found), default=0)
        self._count = torch.arange(most, dtype=torch.int32, device=device)
        self._words = torch.empty(2, most, dtype=torch.int32, device=device)

    def masks(self, batch: Batch) -> Iterator[tuple[Piece, Tensor]]:
        """The pieces of a batch with their int32 masks, which are overwritten by those of the next batch."""
        words, scratch = self._words[0, : batch.units], self._words[1, : batch.units]
        done = 0
        for first, units in batch.runs:
            part = words[done : done + units]
            if isinstance(first, Piece):
                part.copy_(self.places[first.number].indices(first.rows or slice(None), self.device).reshape(-1))
            else:
                torch.add(self._count[:units], signed(first), out=part)
            done += units
        self.draw.words_(words, scratch, batch.high)
        done = 0
        for piece in batch.pieces:
            yield piece, words[done : done + piece.units].view(piece.shape)
            done += piece.units


def split(where: Place, number: int, chunk: int) -> Iterator[Piece]:
    """A place as runs of rows of at most `chunk` units, one row at least; `number` is noted in each."""
    if where.units == 0:
        return
    in_order = where.in_order
    rows = where.shape[0] if where.shape else 1
    width = where.units // rows
    height = max(1, chunk // width)
    if height >= rows:
        yield Piece(number, None, where.shape, where.units, where.start, in_order)
        return
    for top in range(0, rows, height):
        bottom = min(rows, top + height)
        shape = (bottom - top, *where.shape[1:])
        start = where.start + top * where.strides[0]
        yield Piece(number, slice(top, bottom), shape, (bottom - top) * width, start, in_order)


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
