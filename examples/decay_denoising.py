"""Three ways for channels to leave a network that takes noise off images, judged by PSNR: a task without classes.

    python examples/decay_denoising.py --data cifar10 --limit 10000 --epochs 5

Prints the PSNR of noisy test images, of the dense network's, and of those of networks whose channels left at once, by
decay, and by decay with rectifying: one start, data order, noise and budget. The loss is the mean squared error and the
batches are this script's own; methods, removals and the proof are those of every other task.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

import secateur
from secateur.data import load
from secateur.methods import Iterative
from secateur.removal import Decay, Immediate, Rectify

NOISE = 25 / 255
"""Deviation of the noise, the usual one of denoising papers, for images in [0, 1]."""


class Denoiser(nn.Module):
    """A chain of convolutions that tells the noise of an image, and takes it off."""

    def __init__(self, colours: int, width: int, depth: int) -> None:
        super().__init__()
        widths = [colours, *[width] * (depth - 1)]
        layers: list[nn.Module] = []
        for inputs in widths[:-1]:
            layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Conv2d(width, colours, 3, padding=1))
        nn.init.zeros_(self.body[-1].weight)  # it begins by leaving images as they are

    def forward(self, x: Tensor) -> Tensor:
        """The image without what is taken for noise."""
        return x - self.body(x)


class Noisy:
    """(noisy, clean) batches of a loader of images; the noise of an epoch is drawn from its number."""

    def __init__(self, images: Any, seed: int) -> None:
        self.images, self.seed, self.epoch = images, seed, 0

    def __len__(self) -> int:
        return len(self.images)

    def set_epoch(self, epoch: int) -> None:
        """Other noise, and another order, from now on."""
        self.epoch = epoch
        self.images.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        for clean, _ in self.images:
            yield clean + NOISE * torch.randn(clean.shape, generator=generator), clean


@torch.no_grad()
def psnr(model: nn.Module, batches: Noisy) -> float:
    """The mean over images of 10 log10(1 / mean squared error), in decibels; outputs are clipped to [0, 1]."""
    model.eval()
    found = []
    for noisy, clean in batches:
        error = (model(noisy).clamp(0, 1) - clean).square().flatten(1).mean(1)
        found.append(-10 * error.log10())
    return float(torch.cat(found).mean())


def compare(
    data: str = "cifar10", *, limit: int | None = None, epochs: int = 5, steps: int = 100, budget: str = "40% macs",
    width: int = 32, depth: int = 5, seed: int = 0,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """What was done -> PSNR in decibels and the share of MACs that is left."""
    colours = load(data, limit=1).shape[0]
    raw = {"mean": [0.0] * colours, "std": [1.0] * colours, "augment": False}
    images = load(data, batch_size=64, validation=0, limit=limit, seed=seed, **raw)
    train, test = Noisy(images.train, seed), Noisy(images.test, seed + 1)
    found = {"noisy": {"psnr": psnr(nn.Identity(), test), "macs": 0.0}}
    policies = {"at once": Immediate(), "decay": Decay(steps), "decay and rectify": Decay(steps, Rectify(cooldown=10))}
    for name, removal in {"dense": None, **policies}.items():
        torch.manual_seed(seed)
        net = Denoiser(images.shape[0], width, depth)
        groups = secateur.groups(net, torch.zeros(1, *images.shape))
        pruner = Iterative(groups=groups, budget=budget, removal=removal, rounds=3, start=0.3, stop=0.7)
        history = secateur.fit(
            net,
            train,
            epochs=epochs,
            loss=F.mse_loss,
            optimizer=partial(Adam, lr=3e-3),
            methods=[] if name == "dense" else [pruner],
            seed=seed,
            progress=False,
        )
        left = pruner.plan.reached.macs / pruner.plan.dense.macs if pruner.plan is not None else 1.0
        found[name] = {"psnr": psnr(history.model, test), "macs": left}
    return found


def main() -> None:
    """Print what `compare` found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--limit", type=int, help="at most so many training images")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100, help="of the decay")
    parser.add_argument("--budget", default="40% macs")
    parser.add_argument("--seed", type=int, default=0)
    for name, row in compare(**vars(parser.parse_args())).items():
        print(f"{name:18} {row['psnr']:6.2f} dB, {100 * row['macs']:.1f} % of MACs")


if __name__ == "__main__":
    main()
