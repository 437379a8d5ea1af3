"""Augmentations of a whole batch at once, on the device of the images; nothing runs per image.

There are four kinds, which act in this order whatever the order they are named in:

spoiling   changes the bytes of an image as a bad camera would (corrupt)
placing    says from where an image is cut, and whether it is read backwards (crop, flip); all together are one copy
covering   sets a part of every normalised image to zero (cutout)
mixing     joins two images and their labels (mixup, cutmix); targets become float32 [batch, classes]. Where several
           are asked for, every batch draws one of them

Random numbers are drawn on the CPU, so that every device sees the same ones.
"""

from __future__ import annotations

import difflib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import isfinite
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.errors import InputError

Draws = tuple[Tensor, ...]

SEEN = (
    "contrast", "elastic_transform", "gaussian_blur", "impulse_noise", "motion_blur", "pixelate", "shot_noise", "snow",
    "zoom_blur",
)  # fmt: skip
"""The corruptions that robust training sees, as published."""
UNSEEN = (
    "brightness", "defocus_blur", "fog", "frost", "gaussian_noise", "glass_blur", "jpeg_compression", "saturate",
    "spatter", "speckle_noise",
)  # fmt: skip
"""Those kept for the test."""


class Augmentation(ABC):
    """A random change of images that leaves their meaning; one of the four kinds below."""

    @abstractmethod
    def draw(self, batch: int, height: int, width: int, generator: torch.Generator) -> Draws:
        """The random numbers for `batch` images, on the CPU; the last dimension of each tensor is the batch."""


class Spoiling(Augmentation):
    """Makes images worse before anything else happens to them."""

    @abstractmethod
    def spoil(self, images: Tensor, *draws: Tensor) -> Tensor:
        """The images, uint8 [batch, channels, height, width] up to 255, made worse."""


class Placing(Augmentation):
    """Moves or mirrors every image as a whole: pixel (y, x) comes from (y + down, x + across), black from outside."""

    margin: int = 0
    """The largest |down| and |across|."""
    mirrors: bool = False
    """Whether any image is ever mirrored."""

    @abstractmethod
    def place(self, offsets: Tensor, mirrored: Tensor, *draws: Tensor) -> tuple[Tensor, Tensor]:
        """Down and across, int64 [2, batch], and what is then mirrored, bool [batch], given both so far; on the CPU."""


class Covering(Augmentation):
    """Hides a part of every image."""

    @abstractmethod
    def cover(self, inputs: Tensor, *draws: Tensor) -> Tensor:
        """The normalised inputs, float32 [batch, channels, height, width], with a part of each at zero; in place."""


class Mixing(Augmentation):
    """Joins every image with another one of its batch."""

    @abstractmethod
    def mix(self, inputs: Tensor, targets: Tensor, *draws: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed inputs and mixed targets, the latter float32 [batch, classes] before and after."""


@dataclass(frozen=True)
class Corrupt(Spoiling):
    """Every image under one of `kinds` at a severity of 0 (as it is) to `highest`, all equally likely.

    Robust training of Liebenwein et al., "Lost in Pruning" (arXiv 2103.03014): nine corruptions are seen in training,
    `UNSEEN` are kept for the test. Differences from the published code: noise is fresh in every epoch, and the
    `strengths` are those of the test, where the code trains on ImageNet-C's and tests on CIFAR-10-C's.
    """

    highest: int = 5
    kinds: tuple[str, ...] = SEEN
    strengths: str = "cifar"

    def __post_init__(self) -> None:
        from secateur.data.corruptions import severities

        most = min(severities(kind, self.strengths).stop - 1 for kind in self.kinds) if self.kinds else 0
        what = f"an int in [1, {most}] with at least one kind" if most else "used with at least one kind"
        _require("corrupt", self, isinstance(self.highest, int) and 1 <= self.highest <= most, what)

    def draw(self, batch: int, height: int, width: int, generator: torch.Generator) -> Draws:  # noqa: ARG002
        """Which kind, which severity, and the number of the stream of each image, int64 [batch]."""
        which = torch.randint(0, len(self.kinds), (batch,), generator=generator)
        severity = torch.randint(0, self.highest + 1, (batch,), generator=generator)
        return which, severity, torch.randint(0, 2**62, (batch,), generator=generator)

    def spoil(self, images: Tensor, *draws: Tensor) -> Tensor:
        """Corrupted as drawn."""
        from secateur.data.corruptions import corrupt  # its package reads data sets, which name augmentations

        which, severity, stream = draws
        made = images.clone(memory_format=torch.contiguous_format)
        for place, level in sorted(set(zip(which.tolist(), severity.tolist(), strict=True))):
            if level:
                chosen = ((which == place) & (severity == level)).nonzero().flatten()
                there = chosen.to(images.device)
                made[there] = corrupt(
                    made[there], self.kinds[place], level, strengths=self.strengths, indices=stream[chosen]
                )
        return made


@dataclass(frozen=True)
class Crop(Placing):
    """A random crop out of the image padded with `padding` black pixels: moves it by up to so many along both axes."""

    padding: int = 4

    def __post_init__(self) -> None:
        _require("crop", self, isinstance(self.padding, int) and self.padding >= 1, "a positive int")

    @property
    def margin(self) -> int:  # type: ignore[override]
        """The padding."""
        return self.padding

    def draw(self, batch: int, height: int, width: int, generator: torch.Generator) -> Draws:  # noqa: ARG002
        """Offsets down and across, int64 [2, batch]."""
        return (torch.randint(0, 2 * self.padding + 1, (2, batch), generator=generator),)

    def place(self, offsets: Tensor, mirrored: Tensor, *draws: Tensor) -> tuple[Tensor, Tensor]:
        """Moved by what was drawn."""
        return offsets + draws[0] - self.padding, mirrored


@dataclass(frozen=True)
class Flip(Placing):
    """Half of the images mirrored, left to right."""

    mirrors = True

    def draw(self, batch: int, height: int, width: int, generator: torch.Generator) -> Draws:  # noqa: ARG002
        """Which ones, bool [batch]."""
        return (torch.randint(0, 2, (batch,), generator=generator, dtype=torch.bool),)

    def place(self, offsets: Tensor, mirrored: Tensor, *draws: Tensor) -> tuple[Tensor, Tensor]:
        """Mirrored where drawn."""
        return offsets, mirrored ^ draws[0]


@dataclass(frozen=True)
class Cutout(Covering):
    """A square at a random place set to zero, the mean (DeVries and Taylor, arXiv 1708.04552).

    Its centre is uniform over the image, so that part of it may lie outside. `share` is its side over the image's
    shorter one: the paper takes 0.5 for CIFAR-10 and 0.25 for CIFAR-100.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        _require("cutout", self, 0 < self.share <= 1, "a share of the shorter side in (0, 1]")

    def draw(self, batch: int, height: int, width: int, generator: torch.Generator) -> Draws:
        """First and last row and column, int64 [4, batch], the last ones excluded."""
        side = max(1, round(self.share * min(height, width)))
        top, left = (torch.randint(0, size, (batch,), generator=generator) - side // 2 for size in (height, width))
        return (torch.stack([top, top + side, left, left + side]),)

    def cover(self, inputs: Tensor, *draws: Tensor) -> Tensor:
        """Zeros inside the squares."""
        return inputs.masked_fill_(_inside(draws[0], inputs), 0)


@dataclass(frozen=True)
class Mixup(Mixing):
    """lam x + (1 - lam) x', for images and labels, x' another image of the batch (Zhang et al., arXiv 1710.09412).

    lam ~ Beta(alpha, alpha), drawn for every image; alpha is 1 for the paper's CIFAR networks, 0.2 for ImageNet.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        _require("mixup", self, self.alpha > 0 and isfinite(self.alpha), "a positive float")

    def draw(self, batch: int, height: int, width: int, generator: torch.Generator) -> Draws:  # noqa: ARG002
        """lam, float32 [batch], and the partners, int64 [batch]."""
        return _beta(self.alpha, batch, generator).float(), torch.randperm(batch, generator=generator)

    def mix(self, inputs: Tensor, targets: Tensor, *draws: Tensor) -> tuple[Tensor, Tensor]:
        """Both interpolated."""
        lam, partners = draws
        return (
            torch.lerp(inputs[partners], inputs, lam.view(-1, 1, 1, 1)),
            torch.lerp(targets[partners], targets, lam.view(-1, 1)),
        )


@dataclass(frozen=True)
class Cutmix(Mixing):
    """A rectangle of every image replaced by that of another (Yun et al., arXiv 1905.04899).

    The rectangle has the image's proportions and the share 1 - lam of its area, lam ~ Beta(alpha, alpha); its centre is
    uniform and what lies outside is cut off. Labels are mixed by the area that is really replaced. Rectangle and lam
    are drawn for every image; the paper has alpha 1 everywhere.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        _require("cutmix", self, self.alpha > 0 and isfinite(self.alpha), "a positive float")

    def draw(self, batch: int, height: int, width: int, generator: torch.Generator) -> Draws:
        """Rectangles int64 [4, batch], the share of every image that stays, float32 [batch], and the partners."""
        side = (1 - _beta(self.alpha, batch, generator)).sqrt()
        edges = []
        for size in (height, width):
            centre, length = torch.randint(0, size, (batch,), generator=generator), (size * side).long()
            edges += [(centre - length // 2).clamp(0, size), (centre - length // 2 + length).clamp(0, size)]
        top, bottom, left, right = edges
        kept = 1 - (bottom - top) * (right - left) / (height * width)
        return torch.stack(edges), kept, torch.randperm(batch, generator=generator)

    def mix(self, inputs: Tensor, targets: Tensor, *draws: Tensor) -> tuple[Tensor, Tensor]:
        """Rectangles from the partners, labels by area."""
        edges, kept, partners = draws
        return (
            torch.where(_inside(edges, inputs), inputs[partners], inputs),
            torch.lerp(targets[partners], targets, kept.view(-1, 1)),
        )


AUGMENTATIONS: Mapping[str, type[Augmentation]] = MappingProxyType(
    {"corrupt": Corrupt, "crop": Crop, "flip": Flip, "cutout": Cutout, "mixup": Mixup, "cutmix": Cutmix}
)
"""What an augmentation is called."""


def augmentations(
    asked: bool | str | Sequence[str | Augmentation],
    usual: Sequence[Augmentation] = (),
    known: Mapping[str, type[Augmentation]] = AUGMENTATIONS,
) -> tuple[Augmentation, ...]:
    """The augmentations that `asked` means: True is `usual`, False is none, else names, in one string or several.

    A name means the one in `usual`, where it has one of that kind; "crop=2" sets its parameter. The result is sorted
    by kind. Names in one string are parted by blanks, commas or "+". Raises `InputError` for what is not known, or is
    named twice.

    >>> augmentations("crop flip cutout=0.25")
    (Crop(padding=4), Flip(), Cutout(share=0.25))
    """
    if isinstance(asked, bool):
        return tuple(usual) if asked else ()
    wanted = re.findall(r"[^\s,+]+", asked) if isinstance(asked, str) else list(asked)
    made = [_named(item, usual, known) if isinstance(item, str) else item for item in wanted]
    for step in made:
        if not isinstance(step, Augmentation):
            raise InputError(
                f"The 'augment' parameter of load must be a bool, or names out of {', '.join(known)}. "
                f"Got {step!r} instead."
            )
        if sum(type(step) is type(other) for other in made) > 1:
            raise InputError(f"The 'augment' parameter of load must name each augmentation once. Got {asked!r}.")
    kinds = list(known.values())
    return tuple(sorted(made, key=lambda step: kinds.index(type(step)) if type(step) in kinds else len(kinds)))


def _named(text: str, usual: Sequence[Augmentation], known: Mapping[str, type[Augmentation]]) -> Augmentation:
    """The augmentation called `text`, which may end in "=number"."""
    name, given, value = text.partition("=")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=2, cutoff=0.5) or list(known)
        raise InputError(f"There is no augmentation named {name!r}. Nearest: {', '.join(near)}.")
    kind: Any = known[name]  # a dataclass, as all in the table are
    if not given:
        return next((step for step in usual if type(step) is kind), kind())
    parameters = fields(kind)
    if not parameters:
        raise InputError(f"The augmentation {name!r} has no parameter. Got {text!r}.")
    default: Any = parameters[0].default
    try:
        number = type(default)(value)
    except ValueError:
        raise InputError(f"The {parameters[0].name!r} of {name} must be a number. Got {text!r} instead.") from None
    made: Augmentation = kind(number)
    return made


def _require(name: str, step: Any, holds: bool, what: str) -> None:
    """Raise `InputError` where the one parameter of `step` is not what it must be."""
    field = fields(step)[0].name
    if not holds:
        raise InputError(f"The {field!r} of {name} must be {what}. Got {getattr(step, field)!r} instead.")


def _beta(alpha: float, batch: int, generator: torch.Generator) -> Tensor:
    """Draws from Beta(alpha, alpha), float64 [batch]; NumPy's, for torch's take no generator."""
    seed = int(torch.randint(0, 2**62, (), generator=generator))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, batch))


def _inside(edges: Tensor, inputs: Tensor) -> Tensor:
    """Where a pixel lies in its image's rectangle: bool [batch, 1, height, width]."""
    top, bottom, left, right = edges.view(4, -1, 1)
    rows, columns = (torch.arange(size, device=inputs.device) for size in inputs.shape[2:])
    across = (columns >= left) & (columns < right)
    inside: Tensor = ((rows >= top) & (rows < bottom)).unsqueeze(-1) & across.unsqueeze(1)
    return inside.unsqueeze(1)
