"""A data set of one's own: a folder of image files, one folder a class, read anew in every epoch by worker processes.

root/train/CLASS/*.jpg      and the same classes in
root/val/CLASS/*.jpg        and/or
root/test/CLASS/*.jpg
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from secateur.data.augment import AUGMENTATIONS, Augmentation, Draws, Flip
from secateur.data.batches import Batches
from secateur.data.order import generator, seed_of
from secateur.data.prepare import Batch, Preparation, to_device
from secateur.errors import DataError, InputError

if TYPE_CHECKING:  # importing it takes longer than the rest of the package
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

FOLDER = "folder"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's training images, as torchvision and timm take them."""
SIZE = 224
_AROUND = 256 / 224  # evaluation scales the shorter side to so many times the crop


@dataclass(frozen=True)
class ResizedCrop(Augmentation):
    """A random part, `smallest` to all of the image's area, scaled to the size (Szegedy et al., arXiv 1409.4842)."""

    smallest: float = 0.08

    def __post_init__(self) -> None:
        if not 0 < self.smallest <= 1:
            raise InputError(f"The 'smallest' of crop must be a share of the area in (0, 1]. Got {self.smallest!r}.")

    def draw(self, batch: int, height: int, width: int, generator: torch.Generator) -> Draws:  # noqa: ARG002
        """Nothing for the batch: the part is drawn where the image is read."""
        return ()


KNOWN: Mapping[str, type[Augmentation]] = MappingProxyType({**AUGMENTATIONS, "crop": ResizedCrop})
USUAL: tuple[Augmentation, ...] = (ResizedCrop(), Flip())


def splits(root: Path) -> dict[str, ImageFolder]:
    """The folders train, val and test that are there, as data sets with the same classes.

    Raises `DataError` for a folder that is missing, a class without images, classes that differ.
    """
    if not root.is_dir():
        raise DataError(f"The folder {root} does not exist. Name the one that holds train and val (or test) with root.")
    found = {name: _split(root / name) for name in ("train", "val", "test") if (root / name).is_dir()}
    if "train" not in found or len(found) < 2:
        holds = ", ".join(sorted(path.name for path in root.iterdir())[:10]) or "nothing"
        raise DataError(
            f"The folder {root} must hold the folders train and val or test, and in each one folder a class. "
            f"It holds {holds}."
        )
    classes = set(found["train"].classes)
    for name, split in found.items():
        if differing := sorted(classes ^ set(split.classes)):
            raise DataError(
                f"The folders {root / 'train'} and {root / name} must have the same classes. "
                f"In only one of them: {', '.join(differing[:10])}."
            )
    return found


def _split(folder: Path) -> ImageFolder:
    from torchvision.datasets import ImageFolder

    try:
        return ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise DataError(f"The folder {folder} must hold a folder of images for every class. {error}") from error


class _Files(Dataset[Any]):
    """Image and label by (epoch, index), as uint8 tensors; or, for a file that is no image, what to say of it.

    What is random in reading an image depends on `seed`, epoch and index alone: it is the same in every worker.
    """

    def __init__(self, files: Sequence[tuple[str, int]], transform: v2.Compose, seed: int) -> None:
        self.files, self.transform, self.seed = files, transform, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int] | str:
        from torchvision.datasets.folder import default_loader

        epoch, index = key
        path, label = self.files[index]
        try:
            image = default_loader(path)
        except (OSError, SyntaxError, ValueError) as error:
            return f"The image {path} cannot be read: {error}. Delete it or put a whole file there."
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_of(self.seed, 3, epoch, index))
            return self.transform(image), label


def _collate(items: Sequence[tuple[Tensor, int] | str]) -> Batch | str:
    """One batch, or the first error in it: an exception would lose its words on the way out of a worker."""
    images, labels = [], []
    for item in items:
        if isinstance(item, str):
            return item
        images.append(item[0])
        labels.append(item[1])
    return torch.stack(images), torch.tensor(labels)


@dataclass(eq=False)
class FolderLoader(Batches):
    """Batches of image files: `files` are paths with their labels; `workers` processes read and scale them.

    Images are cropped and mirrored where they are read, each by draws of its own; what is left of the augmentation and
    the normalisation happen on `device`. In a shard an image is cropped and mirrored as it would be in the whole batch,
    but mixed with its own rank's alone, for no other is read there. Iterating and `batch` raise `DataError` for a file
    that cannot be read.
    """

    files: Sequence[tuple[str, int]] = field(repr=False)
    batch_size: int
    mean: Sequence[float]
    std: Sequence[float]
    size: int = SIZE
    seed: int = 0
    shuffle: bool = False
    augment: Sequence[Augmentation] = ()
    classes: int | None = None
    channels_last: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    workers: int = 0
    epoch: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._order()
        self._files = _Files(self.files, _transform(self.size, self.augment), self.seed)
        self._prepare = Preparation(
            (3, self.size, self.size),
            self.mean,
            self.std,
            self.device,
            augment=[step for step in self.augment if not isinstance(step, ResizedCrop | Flip)],
            classes=self.classes,
            channels_last=self.channels_last,
        )

    @property
    def samples(self) -> int:
        """How many images the split has, in all shards together."""
        return len(self.files)

    def labels(self) -> Tensor:
        """The labels of all images."""
        return torch.tensor([label for _, label in self.files])

    def pixels(self, chosen: Tensor) -> Batch:
        """Images as bytes and their labels, by their places; all at once in memory."""
        keys = [[(0, image) for image in part.tolist()] for part in chosen.split(self.batch_size)]
        read: DataLoader[Any] = DataLoader(
            self._files,
            batch_sampler=keys,
            num_workers=self.workers,
            collate_fn=_collate,
            generator=generator(self.seed, 4),
        )
        images = torch.empty(len(chosen), 3, self.size, self.size, dtype=torch.uint8)
        labels = torch.empty(len(chosen), dtype=torch.long)
        for part, place in zip(read, torch.arange(len(chosen)).split(self.batch_size), strict=True):
            if isinstance(part, str):
                raise DataError(part)
            images[place], labels[place] = part
        return images, labels

    def since(self, start: int) -> Iterator[Batch]:
        """The batches of the current epoch from `start` on."""
        epoch = self.epoch
        batches: DataLoader[Any] = DataLoader(
            self._files,
            batch_sampler=self._keys(epoch, range(start, len(self))),
            num_workers=self.workers,
            collate_fn=_collate,
            pin_memory=self.device.type == "cuda",
            generator=generator(self.seed, 4, epoch),  # of the workers' seeds, which are else drawn from the global one
        )
        for index, read in enumerate(batches, start):
            yield self._finish(read, epoch, index)

    def _cut(self, epoch: int, index: int) -> Batch:
        (keys,) = self._keys(epoch, range(index, index + 1))
        return self._finish(_collate([self._files[key] for key in keys]), epoch, index)

    def _keys(self, epoch: int, batches: range) -> list[list[tuple[int, int]]]:
        """What `_Files` is asked for, batch by batch."""
        order = self._order()
        permutation = order.permutation(epoch)
        chosen = [permutation[order.whole(index)][order.share(index)].tolist() for index in batches]
        return [[(epoch, image) for image in images] for images in chosen]

    def _finish(self, read: Batch | str, epoch: int, index: int) -> Batch:
        if isinstance(read, str):
            raise DataError(read)
        images, targets = (to_device(tensor, self.device) for tensor in read)
        draws = generator(self.seed, 1, epoch, index, *([self.rank] if self.ranks > 1 else []))
        return self._prepare(images, targets, self._prepare.draw(len(images), draws))


def _transform(size: int, augment: Sequence[Augmentation]) -> v2.Compose:
    """What happens to an image as it is read: a random crop, or the middle of it; the result is uint8."""
    from torchvision.transforms import v2

    crop = next((step for step in augment if isinstance(step, ResizedCrop)), None)
    steps = (
        [v2.RandomResizedCrop(size, scale=(crop.smallest, 1.0))]
        if crop
        else [v2.Resize(round(size * _AROUND)), v2.CenterCrop(size)]
    )
    if any(isinstance(step, Flip) for step in augment):
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose([*steps, v2.PILToTensor()])
