"""Linear maps of images: blurs, zooms and changes of size as one matrix for the rows and one for the columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from math import ceil
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Matrix = NDArray[np.float64]


def separable(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Every channel as rows @ channel @ columns.T: float32 [batch, channels, len(rows), len(columns)]."""
    return rows @ (images @ columns.mT)


def like(images: Tensor, build: Callable[..., Matrix], *each: tuple[Any, ...]) -> list[Tensor]:
    """What `build` makes of each tuple of arguments, in the type and on the device of the images; made once."""
    return [_held(build, arguments, images.dtype, images.device) for arguments in each]


@lru_cache(maxsize=512)
def _held(build: Callable[..., Matrix], arguments: tuple[Any, ...], kind: torch.dtype, device: torch.device) -> Tensor:
    return torch.from_numpy(build(*arguments)).to(device, kind)


def blurred(images: Tensor, sigma: float, border: str = "nearest", truncate: float = 4.0) -> Tensor:
    """A Gaussian blur of every channel, its kernel cut off at `truncate` deviations (those of scikit-image)."""
    return separable(images, *like(images, gaussian, *((size, sigma, border, truncate) for size in images.shape[-2:])))


def zoomed(images: Tensor, factor: float) -> Tensor:
    """The middle of every image, `factor` times as large, at the size of the image, interpolated linearly."""
    return separable(images, *like(images, zoom, *((size, factor) for size in images.shape[-2:])))


def filtered(images: Tensor, kernel: Matrix) -> Tensor:
    """Every channel correlated with `kernel`, mirrored at the border."""
    parts = []
    for taps in _factors(kernel.tobytes(), len(kernel)):
        sizes = zip(images.shape[-2:], taps, strict=True)
        parts.append(separable(images, *like(images, banded, *((size, each, "mirror") for size, each in sizes))))
    return reduce(Tensor.add_, parts)


@lru_cache(maxsize=64)
def _factors(kernel: bytes, side: int) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    """A kernel as a sum of products of a column and a row, by its singular values: seven for the largest disk."""
    left, strength, right = np.linalg.svd(np.frombuffer(kernel).reshape(side, side))
    count = int((strength > 1e-9 * strength[0]).sum())
    return [(tuple((left[:, i] * strength[i]).tolist()), tuple(right[i].tolist())) for i in range(count)]


def folded(places: NDArray[np.int64], size: int, border: str) -> NDArray[np.int64]:
    """The places inside [0, size) that stand for `places`, by the rule of the border.

    "nearest" aaa|abc|ccc, "reflect" cba|abc|cba, "mirror" cb|abc|ba; they repeat as often as needed. A blur also
    knows "none": what lies outside has no weight.
    """
    if border == "nearest":
        return places.clip(0, size - 1)
    period = 2 * size if border == "reflect" else max(1, 2 * size - 2)
    places = places % period
    return np.where(places < size, places, period - (1 if border == "reflect" else 0) - places)


def banded(size: int, weights: Sequence[float], border: str) -> Matrix:
    """The matrix [size, size] that correlates along one axis with `weights`, an odd number of them."""
    reach = len(weights) // 2
    out = np.zeros((size, size))
    here = np.arange(size)
    for tap, weight in enumerate(weights, -reach):
        inside = (here + tap >= 0) & (here + tap < size) if border == "none" else np.full(size, fill_value=True)
        out[here[inside], folded(here + tap, size, border)[inside]] += weight
    return out


def gaussian(size: int, sigma: float, border: str = "nearest", truncate: float = 4.0) -> Matrix:
    """The matrix [size, size] of a blur along one axis; the identity where the kernel has one tap."""
    reach = int(truncate * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2) if reach else np.ones(1)
    out = banded(size, weights / weights.sum(), border)
    return np.asarray(out / out.sum(1, keepdims=True))


def zoom(size: int, factor: float) -> Matrix:
    """The matrix [size, size] of a zoom along one axis: the outermost pixels of the crop stay outermost."""
    crop = ceil(size / factor)
    whole = round(crop * factor)
    here = np.arange(size) + (whole - size) // 2
    at = here * ((crop - 1) / max(1, whole - 1))
    low = np.minimum(at.astype(int), max(0, crop - 2))
    out = np.zeros((size, size + 1))  # a column more, which gets a weight of nothing where the crop is one pixel
    first = (size - crop) // 2
    out[np.arange(size), first + low] += 1 - (at - low)
    out[np.arange(size), first + low + 1] += at - low
    return out[:, :size]


def box(size: int, to: int) -> Matrix:
    """The matrix [to, size] of Pillow's BOX filter: the mean of the pixels whose centres lie in the new pixel."""
    scale = size / to
    centres = (np.arange(to) + 0.5)[:, None] * scale
    # in Pillow's own order: where a pixel's centre lies on a border, rounding decides
    reach = 0.5 * max(scale, 1)
    places = np.arange(size)[None, :]
    apart = (places - centres + 0.5) * (1 / max(scale, 1))
    near = (places >= (centres - reach + 0.5).astype(int)) & (places < (centres + reach + 0.5).astype(int))
    inside = (near & (apart > -0.5) & (apart <= 0.5)).astype(float)
    return np.asarray(inside / inside.sum(1, keepdims=True))


@lru_cache(maxsize=64)
def disk(radius: float, alias: float) -> Matrix:
    """The kernel of a lens out of focus: a disk smoothed by a Gaussian of deviation `alias`, without empty borders."""
    reach, half = (8, 1) if radius <= 8 else (int(radius), 2)
    axis = np.arange(-reach, reach + 1)
    inside = (axis[:, None] ** 2 + axis[None, :] ** 2 <= radius**2).astype(float)
    smooth = gaussian(len(axis), alias, "mirror", half / alias)  # so that its reach is `half`
    kernel = smooth @ (inside / inside.sum()) @ smooth.T
    used = np.flatnonzero(kernel.sum(0) > 1e-9)
    return np.asarray(kernel[used[0] : used[-1] + 1, used[0] : used[-1] + 1])


def sampled(images: Tensor, down: Tensor, across: Tensor, border: str) -> Tensor:
    """The images read at rows `down` and columns `across`, [batch, height, width], interpolated linearly.

    Outside is black where `border` is "zeros", else folded as `folded` says of "mirror" and "reflect".
    """
    height, width = images.shape[-2:]
    corners = border != "reflect"
    places = []
    for at, size in ((across, width), (down, height)):
        places.append(2 * at / max(1, size - 1) - 1 if corners else (2 * at + 1) / size - 1)
    grid = torch.stack(places, dim=-1).to(images)
    padding = "zeros" if border == "zeros" else "reflection"
    read: Tensor = F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=corners)
    return read
