"""From bytes to what a network is fed: augmented, normalised, in the memory format asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.data.augment import Augmentation, Covering, Draws, Mixing, Placing, Spoiling
from secateur.errors import InputError

WHITE = 255

Batch = tuple[Tensor, Tensor]
Drawn = list[tuple[Augmentation, Draws]]


@dataclass(eq=False)
class Preparation:
    """Turns uint8 images [batch, *shape] and labels into a batch for training or evaluation.

    `mean` and `std` are per channel on the scale [0, 1], on which `peak` is 1. `classes` is needed by augmentations
    that mix labels. Nothing waits for the device: numbers drawn on the CPU go there by themselves.
    """

    shape: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]
    device: torch.device
    peak: int = 255
    augment: Sequence[Augmentation] = ()
    classes: int | None = None
    channels_last: bool = False
    mixes: bool = field(init=False)
    """Whether an image of a batch depends on the others in it."""
    spoils: bool = field(init=False)
    """Whether images are made worse: work that is cheaper an image the more there are."""

    def __post_init__(self) -> None:
        self.mixes = any(isinstance(step, Mixing) for step in self.augment)
        self.spoils = any(isinstance(step, Spoiling) for step in self.augment)
        if self.mixes and self.classes is None:
            raise InputError("A loader that mixes labels must know their number. Give it 'classes'.")
        mean, std = (torch.tensor(list(v), device=self.device).view(1, -1, 1, 1) for v in (self.mean, self.std))
        # As large as an image: one loop then runs over all its values, and with channels last not over three at a time.
        whole = (1, *self.shape)
        self._scale, self._offset = (self._rows(v.expand(whole)) for v in (1 / (self.peak * std), mean / std))

    def _rows(self, images: Tensor) -> Tensor:
        """Images [batch, *shape] as rows of values in the order of memory: [batch, planes, height, row]."""
        if not self.channels_last:
            return images.contiguous()
        return images.permute(0, 2, 3, 1).contiguous().flatten(2).unsqueeze(1)

    def _images(self, rows: Tensor) -> Tensor:
        """The inverse of `_rows`."""
        channels, height, width = self.shape
        return rows.view(-1, height, width, channels).permute(0, 3, 1, 2) if self.channels_last else rows

    def draw(self, batch: int, generator: torch.Generator) -> Drawn:
        """The random numbers for a batch, on the CPU: those of every augmentation, but of one that mixes."""
        steps = [step for step in self.augment if not isinstance(step, Mixing)]
        mixing = [step for step in self.augment if isinstance(step, Mixing)]
        if mixing:
            chosen = int(torch.randint(0, len(mixing), (), generator=generator)) if len(mixing) > 1 else 0
            steps.append(mixing[chosen])
        _, height, width = self.shape
        return [(step, step.draw(batch, height, width, generator)) for step in steps]

    def __call__(self, images: Tensor, targets: Tensor, drawn: Drawn = []) -> Batch:  # noqa: B006 (never changed)
        """Inputs float32 [batch, *shape] and targets: int64 [batch], or float32 [batch, classes] where they mix."""
        return next(self.several([(images, targets, drawn)]))

    def several(self, batches: Sequence[tuple[Tensor, Tensor, Drawn]]) -> Iterator[Batch]:
        """What each of several batches is alone; images are made worse all at once, which is faster than in turn."""
        spoiled = self._spoiled([images for images, _, _ in batches], [drawn for _, _, drawn in batches])
        for images, (_, targets, drawn) in zip(spoiled, batches, strict=True):
            yield self._finished(images, targets, drawn)

    def _spoiled(self, batches: Sequence[Tensor], drawn: Sequence[Drawn]) -> Sequence[Tensor]:
        """The images of every batch made worse as drawn for it, on the scale of 255 and back."""
        for place, (step, _) in enumerate(drawn[0]):
            if isinstance(step, Spoiling):
                images, draws = torch.cat(list(batches)), [own[place][1] for own in drawn]
                if self.peak != WHITE:
                    images = (images.float() * (WHITE / self.peak)).round().clamp(0, WHITE).to(torch.uint8)
                images = step.spoil(images, *(torch.cat(parts, -1) for parts in zip(*draws, strict=True)))
                if self.peak != WHITE:
                    images = (images.float() * (self.peak / WHITE)).round().to(torch.uint8)
                batches = images.split([len(own) for own in batches])
        return batches

    def _finished(self, images: Tensor, targets: Tensor, drawn: Drawn) -> Batch:
        """Placed, normalised, covered and mixed."""
        placing = [(step, draws) for step, draws in drawn if isinstance(step, Placing)]
        rows = placed(self._rows(images), placing, width=self.shape[2])
        drawn = [
            (step, tuple(to_device(draw, self.device) for draw in draws))
            for step, draws in drawn
            if not isinstance(step, Placing | Spoiling)
        ]
        inputs = self._images(rows.to(torch.float32).mul_(self._scale).sub_(self._offset))
        for step, draws in drawn:
            if isinstance(step, Covering):
                inputs = step.cover(inputs, *draws)
        for step, draws in drawn:
            if isinstance(step, Mixing):
                assert self.classes is not None
                inputs, targets = step.mix(inputs, F.one_hot(targets, self.classes).float(), *draws)
        return inputs, targets


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`, without waiting for it."""
    if device.type == "cpu" or tensor.device == device:
        return tensor
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def taken(images: Tensor, chosen: Tensor, channels_last: bool) -> Tensor:
    """The chosen images [chosen, channels, height, width], laid out as asked for.

    `index_select` copies whole images at once where it sees that they are dense; indexing would go byte by byte.
    """
    if not channels_last:
        return images.index_select(0, chosen)
    return images.permute(0, 2, 3, 1).index_select(0, chosen).permute(0, 3, 1, 2)


def placed(rows: Tensor, drawn: Sequence[tuple[Placing, Draws]], width: int) -> Tensor:
    """The images [batch, planes, height, row] moved and mirrored as the augmentations say; `width` is in pixels.

    Mirror images are laid behind the images and all are padded. A row of the result is then a run of bytes in these:
    of all such runs, a view of overlapping rows, the right ones are selected, and copied as they are.
    """
    if not drawn:
        return rows
    batch, planes, height, length = rows.shape
    offsets, mirrored = torch.zeros(2, batch, dtype=torch.long), torch.zeros(batch, dtype=torch.bool)
    for step, draws in drawn:
        offsets, mirrored = step.place(offsets, mirrored, *draws)
    if any(step.mirrors for step, _ in drawn):
        pixels = rows.view(batch, planes, height, width, -1)
        rows = torch.cat([rows, pixels.flip(3).view_as(rows)])
    margin, pixel = sum(step.margin for step, _ in drawn), length // width
    rows = F.pad(rows, (margin * pixel, margin * pixel, margin, margin))
    image, plane, row, _ = rows.stride()
    down, across = offsets
    first = torch.arange(0, batch * image, image) + mirrored * (batch * image)
    first += (down + margin) * row + torch.where(mirrored, margin - across, margin + across) * pixel
    within = torch.arange(0, planes * plane, plane).view(-1, 1) + torch.arange(0, height * row, row)
    first, within = (to_device(part, rows.device) for part in (first, within))
    starts = (first.view(-1, 1) + within.view(-1)).view(-1)
    runs = rows.view(-1).as_strided((rows.numel() - length + 1, length), (1, 1))
    return runs.index_select(0, starts).view(batch, planes, height, length)
