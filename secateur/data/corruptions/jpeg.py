"""JPEG of a whole batch: what is left of images after they were stored and read again, to the last bit of Pillow's.

This is the arithmetic of libjpeg, on which Pillow stands: whole numbers all through, with its "slow" integer DCT, its
colours at half the size and its smooth enlargement of them. Float64 holds every sum of it exactly, so that neither the
batch nor the device changes a byte. What is lost is lost in rounding; the coding of what is left costs nothing here.
"""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from math import gcd

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from secateur.data.corruptions.linear import Matrix, like, separable

_TO_COLOUR = ((-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
"""Blue and red difference of red, green and blue; rounded to 16 bits, as all factors of colours are."""
_BITS = 13
"""Bits of the factors of the DCT behind the point."""
_KEPT = 2
"""Bits behind the point that are kept between its two passes."""


def compressed(pixels: Tensor, quality: int) -> Tensor:
    """Whole numbers from 0 to 255 after compression: float32 [batch, 1 or 3, height, width] in and out."""
    height, width = pixels.shape[-2:]
    if pixels.shape[1] == 1:
        return _transformed(pixels, quality, 0)[..., :height, :width]
    red, green, blue = pixels.unbind(1)
    luma = _weighted((red, green, blue), (0.299, 0.587, 0.114)).unsqueeze(1)
    # a hair less than 128, so that a half is rounded down
    colours = torch.stack([_weighted((red, green, blue), by, 128 - 2.0**-16) for by in _TO_COLOUR], dim=1)
    luma = _transformed(luma, quality, 0)[:, 0, :height, :width]
    half = (height + 1) // 2, (width + 1) // 2
    colours = _enlarged(_transformed(_halved(colours), quality, 1)[..., : half[0], : half[1]])
    colours = colours[..., :height, :width] - 128
    blueness, redness = colours.unbind(1)
    shifts = (
        _weighted((redness,), (1.402,)),
        _weighted((blueness, redness), (-0.34414, -0.71414)),
        _weighted((blueness,), (1.772,)),
    )
    return torch.stack([luma + shift for shift in shifts], dim=1).clamp_(0, 255)


def _weighted(planes: tuple[Tensor, ...], factors: tuple[float, ...], more: float = 0.0) -> Tensor:
    """The sum of the planes times `factors`, rounded to whole numbers; exact, for no sum reaches 2**24."""
    first, *others = (round(factor * 2**16) for factor in factors)
    total = planes[0] * first
    for plane, factor in zip(planes[1:], others, strict=True):
        total.add_(plane, alpha=factor)
    return total.add_((more + 0.5) * 2**16).mul_(2.0**-16).floor_()


def _halved(planes: Tensor) -> Tensor:
    """Means of two by two, rounded up and down by turns, at a width of whole blocks."""
    height, width = planes.shape[-2:]
    planes = F.pad(planes, (0, -width % 16, 0, height % 2), mode="replicate")
    rows = planes[..., ::2, :] + planes[..., 1::2, :]
    turns = torch.tensor([0.25, 0.5], device=planes.device).repeat(planes.shape[-1] // 4)
    return (rows[..., ::2] + rows[..., 1::2]).mul_(0.25).add_(turns).floor_()


def _enlarged(planes: Tensor) -> Tensor:
    """At twice the size: three parts of a pixel, one of its neighbour, along rows and columns; rounded by turns."""
    sums = separable(planes, *like(planes, _tent, *((size,) for size in planes.shape[-2:])))
    turns = torch.tensor([8 / 16, 7 / 16], device=planes.device).repeat(planes.shape[-1])
    return sums.mul_(1 / 16).add_(turns).floor_()


def _tent(size: int) -> Matrix:
    """The matrix [2 size, size] of parts in four."""
    here = np.arange(size)
    out = np.zeros((2 * size, size))
    for side in (0, 1):
        out[2 * here + side, here] += 3
        out[2 * here + side, (here + 2 * side - 1).clip(0, size - 1)] += 1
    return out


def _transformed(planes: Tensor, quality: int, table: int) -> Tensor:
    """The planes through the DCT, rounded to the steps of `quality`, and back; padded to whole blocks."""
    height, width = planes.shape[-2:]
    planes = F.pad(planes, (0, -width % 8, 0, -height % 8), mode="replicate").double() - 128
    sizes = planes.shape[-2:]
    (down,), (across,) = (like(planes, _dct, (gcd(size // 8, 4),)) for size in sizes)
    (steps,) = like(planes, _steps, (quality, table, *sizes))
    waves = _rows(_columns(planes, across.mT, _BITS - _KEPT), down, _BITS + _KEPT)
    # the DCT is scaled by 8; halves are rounded away from zero
    levels = waves.abs().div_(8 * steps).add_(0.5).floor_().copysign_(waves).mul_(steps)
    planes = _columns(_rows(levels, down.mT, _BITS - _KEPT), across, _BITS + _KEPT + 3)
    return planes.add_(128).clamp_(0, 255).float()


def _columns(planes: Tensor, matrix: Tensor, bits: int) -> Tensor:
    """Every row of some blocks times `matrix`, without its last bits."""
    return _short(planes.unflatten(-1, (-1, len(matrix))) @ matrix, bits).flatten(-2)


def _rows(planes: Tensor, matrix: Tensor, bits: int) -> Tensor:
    """`matrix` times every column of some blocks, without its last bits."""
    return _short(matrix @ planes.unflatten(-2, (-1, len(matrix))), bits).flatten(-3, -2)


def _short(numbers: Tensor, bits: int) -> Tensor:
    """Without the last `bits`, rounded half up, in place."""
    return numbers.mul_(2.0**-bits).add_(0.5).floor_()


def _dct(blocks: int) -> Matrix:
    """The DCT of `blocks` blocks side by side, in 2**-13: as libjpeg has it, its factors rounded before they are added.

    Loeffler, Ligtenberg and Moschytz (ICASSP 1989) share factors between outputs, so that those differ in the last bit
    from the rounded ones of the definition.
    """

    def fixed(factor: float) -> int:
        return round(factor * (1 << _BITS))

    x = np.eye(8)
    sums, gaps = x[:4] + x[:3:-1], (x[:4] - x[:3:-1])[::-1]
    outer, inner = sums[:2] - sums[:1:-1], sums[:2] + sums[:1:-1]
    turn = (outer[0] + outer[1]) * fixed(0.541196100)
    out = np.zeros((8, 8))
    out[0], out[4] = (inner[0] + inner[1]) * fixed(1), (inner[0] - inner[1]) * fixed(1)
    out[2], out[6] = turn + outer[0] * fixed(0.765366865), turn - outer[1] * fixed(1.847759065)
    pairs = [gaps[0] + gaps[3], gaps[1] + gaps[2], gaps[0] + gaps[2], gaps[1] + gaps[3]]
    both = (pairs[2] + pairs[3]) * fixed(1.175875602)
    one, two = pairs[0] * fixed(-0.899976223), pairs[1] * fixed(-2.562915447)
    three, four = both + pairs[2] * fixed(-1.961570560), both + pairs[3] * fixed(-0.390180644)
    out[7] = gaps[0] * fixed(0.298631336) + one + three
    out[5] = gaps[1] * fixed(2.053119869) + two + four
    out[3] = gaps[2] * fixed(3.072711026) + two + three
    out[1] = gaps[3] * fixed(1.501321110) + one + four
    return np.asarray(np.kron(np.eye(blocks), out))


def _steps(quality: int, table: int, height: int, width: int) -> Matrix:
    """The steps coefficients are rounded to, in all blocks: of brightness by `table` 0, of colour by 1."""
    steps = np.array(_tables(quality)[table], dtype=float).reshape(8, 8)
    return np.tile(steps, (height // 8, width // 8))


@lru_cache(maxsize=64)
def _tables(quality: int) -> dict[int, list[int]]:
    """The tables of steps that Pillow writes at `quality`."""
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return dict(image.quantization)  # type: ignore[attr-defined]  # of JPEG files alone
