"""Where the units of each parameter lie among all units of an optimizer, and their masks, piece by piece.

The index of an element is its position in row-major order within the *whole* parameter, behind all parameters before
it in the optimizer. Neither the memory layout nor the way a parameter is sharded changes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

from secateur.optim.hashing import Draw, signed

Granularity = Literal["element", "row", "tensor"]
GRANULARITIES = ("element", "row", "tensor")
CHUNK = 1 << 16  # indices hashed at a time, at most: they and their scratch stay in a core's cache
COMPILED_CHUNKS = (1 << 16, 1 << 18)  # by a compiled kernel, for few and for many units
MANY = 1 << 23


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
    """Some rows of the grid of a place; `rows` is None where they are all."""

    number: int
    rows: slice | None
    shape: tuple[int, ...]
    units: int


@dataclass(frozen=True)
class Batch:
    """Pieces that are hashed at once: their units follow one another from index `start`, if they are `in_order`."""

    start: int
    high: int
    units: int
    in_order: bool
    pieces: tuple[Piece, ...]


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


def pieces(
    places: Sequence[Place], draw: Draw, device: torch.device, *, compiled: bool = False
) -> Iterator[tuple[int, slice | None, Tensor]]:
    """The masks of all places: (which place, rows of its grid, int32 mask), chunk by chunk.

    A mask is -1, all bits set, where a unit is kept, and 0 elsewhere; it is overwritten as soon as the next is asked
    for. `rows` is None for a whole place. A chunk is a 32nd of all units, so that masks and their scratch weigh less
    than an eighth of gradients in float32; on the CPU it also fits into the cache. `compiled` masks have the same bits.
    """
    units = sum(p.units for p in places)
    chunk = max(1 << 12, units // 32) if device.type != "cpu" else min(CHUNK, max(1 << 12, units // 32))
    if compiled:
        chunk = COMPILED_CHUNKS[units >= MANY]
    batches = _batches(tuple(places), chunk)
    hasher = _Hasher(draw, device, batches, chunk if compiled else 0)
    for batch in batches:
        where = places[batch.pieces[0].number]
        rows = batch.pieces[0].rows
        indices = None if batch.in_order else where.indices(rows or slice(None), device)
        mask = hasher.mask(batch, indices)
        done = 0
        for piece in batch.pieces:
            yield piece.number, piece.rows, mask[done : done + piece.units].view(piece.shape)
            done += piece.units


@lru_cache(maxsize=64)
def _batches(places: tuple[Place, ...], chunk: int) -> tuple[Batch, ...]:
    """All places in batches of at most `chunk` units (or one row, if that is longer) that follow one another."""
    found: list[Batch] = []
    for number, where in enumerate(places):
        in_order = where.in_order
        for first, piece in _split(where, number, chunk):
            last = found[-1] if found else None
            if (
                last is not None
                and in_order
                and last.in_order
                and (first, where.high) == (last.start + last.units, last.high)
                and last.units + piece.units <= chunk
            ):
                found[-1] = replace(last, units=last.units + piece.units, pieces=(*last.pieces, piece))
            else:
                found.append(Batch(first, where.high, piece.units, in_order, (piece,)))
    return tuple(found)


def whole_mask(where: Place, draw: Draw, device: torch.device) -> Tensor:
    """The mask of one place in one tensor, bool, of the shape of its grid."""
    mask = torch.empty(where.shape, dtype=torch.bool, device=device)
    for _, rows, piece in pieces([where], draw, device):
        torch.ne(piece, 0, out=mask if rows is None else mask[rows])
    return mask


class _Hasher:
    """The memory for hashing a batch, used again for the next."""

    def __init__(self, draw: Draw, device: torch.device, batches: Sequence[Batch], compiled: int) -> None:
        """`compiled` is the number of units of a compiled kernel, 0 for none."""
        self.draw = draw
        self._hashed = torch.empty(compiled, dtype=torch.int32, device=device)
        most = max((b.units for b in batches if not self._by_kernel(b)), default=0)
        self._count = torch.arange(most, dtype=torch.int32, device=device)
        self._words = torch.empty(2, most, dtype=torch.int32, device=device)

    def _by_kernel(self, batch: Batch) -> bool:
        return batch.in_order and batch.units <= self._hashed.numel()

    def mask(self, batch: Batch, indices: Tensor | None) -> Tensor:
        """The mask of a batch, flat; `indices` are those of its units where they do not follow one another."""
        units = batch.units
        if self._by_kernel(batch):
            return self.draw.fill_(self._hashed, batch.start, batch.high)[:units]
        words, scratch = self._words[0, :units], self._words[1, :units]
        if indices is None:
            torch.add(self._count[:units], signed(batch.start), out=words)
        else:
            words.copy_(indices.reshape(-1))
        return self.draw.words_(words, scratch, batch.high)


def _split(where: Place, number: int, chunk: int) -> Iterator[tuple[int, Piece]]:
    """A place as runs of rows of at most `chunk` units, one row at least, with the index of their first unit."""
    if where.units == 0:
        return
    rows = where.shape[0] if where.shape else 1
    width = where.units // rows
    height = max(1, chunk // width)
    if height >= rows:
        yield where.start, Piece(number, None, where.shape, where.units)
        return
    for top in range(0, rows, height):
        bottom = min(rows, top + height)
        piece = Piece(number, slice(top, bottom), (bottom - top, *where.shape[1:]), (bottom - top) * width)
        yield where.start + top * where.strides[0], piece


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
