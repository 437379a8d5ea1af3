"""`corrupt`: a batch of images under one corruption at one severity."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from secateur.data.corruptions import blur, colour, digits, noise, weather
from secateur.data.corruptions.draws import Draws
from secateur.data.corruptions.strengths import STRENGTHS, Severities
from secateur.data.corruptions.values import to_bytes
from secateur.errors import InputError

_SMALLEST = 8
_AT_ONCE = 2**18
"""Values of images that a thread of a CPU computes at once: so few that temporaries stay in its cache."""
_MANY_AT_ONCE = 2**21
"""Elsewhere, and where very many small steps are taken: temporaries stay below about 200 MB."""
_MANY_STEPS = ("glass_blur", "frost", "fog")

_FUNCTIONS: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {
        name: getattr(module, name)
        for module, names in (
            (noise, "gaussian_noise shot_noise impulse_noise speckle_noise"),
            (blur, "defocus_blur glass_blur motion_blur zoom_blur gaussian_blur elastic_transform"),
            (weather, "snow frost fog spatter"),
            (colour, "brightness contrast pixelate jpeg_compression saturate"),
            (digits, "shear scale rotate translate stripe dotted_line zigzag canny_edges"),
        )
        for name in names.split()
    }
)


def kinds(strengths: str = "cifar") -> tuple[str, ...]:
    """The corruptions that have these strengths, in the published order."""
    return tuple(_table(strengths))


def severities(kind: str, strengths: str = "cifar") -> range:
    """The severities of a corruption, from 1 up."""
    return range(1, len(_severities(kind, strengths)) + 1)


def corrupt(
    images: Tensor,
    kind: str,
    severity: int = 1,
    *,
    strengths: str = "cifar",
    seed: int = 0,
    indices: Tensor | None = None,
) -> Tensor:
    """`images` corrupted, uint8 [batch, channels, height, width] in and out, on their device.

    What is drawn for an image is a function of `seed`, `kind`, `severity` and its own index alone, so that neither the
    batch nor the device changes it. `indices`, int64 [batch], says which images of a data set these are; without it
    they count from 0. Raises `InputError` where corruption, severity or images are not what they must be.

    >>> corrupt(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "brightness", 5)[0, 0, 0, 0]
    tensor(76, dtype=torch.uint8)
    """
    known = _severities(kind, strengths)
    if severity not in range(1, len(known) + 1):
        raise InputError(
            f"The 'severity' parameter of corrupt must be an int in [1, {len(known)}] for {kind} of strengths "
            f"{strengths!r}. Got {severity!r} instead."
        )
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f"The 'seed' parameter of corrupt must be an int of at least 0. Got {seed!r} instead.")
    _check(images, indices)
    if not len(images):
        return images.clone()
    where = torch.arange(len(images)) if indices is None else indices
    many = images.device.type != "cpu" or kind in _MANY_STEPS
    values = _MANY_AT_ONCE if many else _AT_ONCE * torch.get_num_threads()
    size = max(1, values // images[0].numel())
    parts = zip(images.split(size), where.to(images.device).split(size), strict=True)
    function, arguments = _FUNCTIONS[kind], known[severity - 1]
    done = []
    for part, numbers in parts:
        draws = Draws.of(seed, kind, severity, numbers)
        done.append(to_bytes(function(part.float().div_(255), draws, *arguments)))
    return torch.cat(done)


def _table(strengths: str) -> Mapping[str, Severities]:
    if strengths not in STRENGTHS:
        raise InputError(
            f"The 'strengths' parameter of corrupt must be one of {', '.join(STRENGTHS)}. Got {strengths!r} instead."
        )
    return STRENGTHS[strengths]


def _severities(kind: str, strengths: str) -> Severities:
    table = _table(strengths)
    if kind not in table:
        near = difflib.get_close_matches(kind, table, n=2, cutoff=0.5) or list(table)
        raise InputError(f"There is no corruption {kind!r} of strengths {strengths!r}. Nearest: {', '.join(near)}.")
    return table[kind]


def _check(images: Tensor, indices: Tensor | None) -> None:
    """Raise `InputError` for what no corruption can take."""
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (1, 3):
        raise InputError(
            "The 'images' parameter of corrupt must be uint8 of shape [batch, 1 or 3, height, width]. "
            f"Got {images.dtype} of shape {list(images.shape)} instead."
        )
    if min(images.shape[2:]) < _SMALLEST:
        raise InputError(
            f"The 'images' parameter of corrupt must have at least {_SMALLEST} rows and columns. "
            f"Got {images.shape[2]} x {images.shape[3]} instead."
        )
    if indices is not None and (indices.shape != images.shape[:1] or indices.dtype != torch.int64):
        raise InputError(
            f"The 'indices' parameter of corrupt must be int64 of shape [{len(images)}], one for each image. "
            f"Got {indices.dtype} of shape {list(indices.shape)} instead."
        )
