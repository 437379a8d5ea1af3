"""How often a classifier is still right where each image may be changed a little against it, by any value up to eps.

PGD: Madry et al. (arXiv 1706.06083). APGD, which halves its step where it no longer gains and goes on from the best
point: Croce and Hein, "Reliable evaluation of adversarial robustness" (arXiv 2003.01690), algorithm 1, on the
cross-entropy. Images are in [0, 1] and stay there; the normalisation is a part of the network, so that eps is in units
of pixels. An accuracy is an upper bound: a stronger attack may find more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.errors import InputError

Network = Callable[[Tensor], Tensor]
Adversary = Callable[[Network, Tensor, Tensor], Tensor]
"""From a network, images in [0, 1] and labels to changed images: an `Attack`, or one of another package."""
MOMENTUM, RHO = 0.75, 0.75
"""Of APGD, as published: the share of the new step, and that of steps that must gain for the size to stay."""


class Normalised(nn.Module):
    """A network that takes images in [0, 1] and normalises them itself; `mean` and `std` are one number a channel."""

    def __init__(self, network: Network, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        super().__init__()
        self._network = [network]  # in a list, so that it is no part of this module and keeps its modes
        self._mean, self._std = (torch.tensor(list(v), device=device).view(1, -1, 1, 1) for v in (mean, std))

    def forward(self, images: Tensor) -> Tensor:
        """The network's scores for normalised images."""
        return self._network[0]((images - self._mean) / self._std)


@dataclass(frozen=True)
class Attack:
    """Changes of at most `epsilon` a value (l-infinity), sought in `steps` from a random start by its seed."""

    epsilon: float = 8 / 255
    steps: int = 20
    kind: Literal["pgd", "apgd"] = "apgd"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= 1 or self.steps < 1 or self.kind not in ("pgd", "apgd"):
            raise InputError(
                "An attack needs an epsilon in (0, 1], at least one step, and the kind 'pgd' or 'apgd'. "
                f"Got {self.epsilon!r}, {self.steps!r}, {self.kind!r}."
            )

    def __call__(self, network: Network, images: Tensor, labels: Tensor) -> Tensor:
        """Images in [0, 1] changed so that `network`, which takes images in [0, 1], is most wrong about them."""
        attack = _pgd if self.kind == "pgd" else _apgd
        start = torch.rand(images.shape, generator=torch.Generator().manual_seed(self.seed)).to(images.device)
        begin = _inside(images + self.epsilon * (2 * start - 1), images, self.epsilon)
        return attack(network, images, labels, begin, self)


def adversarial_right(network: Network, images: Tensor, labels: Tensor, attack: Adversary) -> Tensor:
    """Where `network`, taking images in [0, 1], is right about an image and about its attacked version: bool [images].

    Only images that it gets right are attacked.
    """
    with torch.no_grad():
        right = network(images).argmax(dim=1) == labels
    if not bool(right.any()):
        return right
    changed = attack(network, images[right], labels[right])
    with torch.no_grad():
        right[right.clone()] = network(changed).argmax(dim=1) == labels[right]
    return right


def _pgd(network: Network, images: Tensor, labels: Tensor, begin: Tensor, attack: Attack) -> Tensor:
    """Steps of 2.5 eps / steps along the sign of the gradient, as Madry's code takes them; the best point is kept."""
    size = 2.5 * attack.epsilon / attack.steps
    point, best, most = begin, begin, torch.full_like(labels, -torch.inf, dtype=torch.float32)
    for _ in range(attack.steps):
        loss, gradient = _slope(network, point, labels)
        best, most = _better(point, loss, best, most)
        point = _inside(point + size * gradient.sign(), images, attack.epsilon)
    return _better(point, _loss(network, point, labels), best, most)[0]


def _apgd(network: Network, images: Tensor, labels: Tensor, begin: Tensor, attack: Attack) -> Tensor:
    """Algorithm 1: momentum, and at each checkpoint half the step for images that no longer gain."""
    checkpoints = _checkpoints(attack.steps)
    size = torch.full((len(images), 1, 1, 1), 2 * attack.epsilon, device=images.device)
    loss, gradient = _slope(network, begin, labels)
    before, point, best, most, slope = begin, begin, begin, loss, gradient
    gained, last, checked = torch.zeros_like(loss), 0, (size.flatten(), most)
    for step in range(1, attack.steps + 1):
        ahead = _inside(point + size * gradient.sign(), images, attack.epsilon)
        momentum = MOMENTUM if step > 1 else 1.0
        moved = point + momentum * (ahead - point) + (1 - momentum) * (point - before)
        before, point = point, _inside(moved, images, attack.epsilon)
        now, gradient = _slope(network, point, labels)
        gained += now > loss
        slope = torch.where((now > most).view(-1, 1, 1, 1), gradient, slope)
        best, most = _better(point, now, best, most)
        loss = now
        if step in checkpoints:
            stuck = gained < RHO * (step - last)
            halve = stuck | ((checked[0] == size.flatten()) & (checked[1] == most))
            checked = (size.flatten().clone(), most.clone())
            wide = halve.view(-1, 1, 1, 1)
            size = torch.where(wide, size / 2, size)
            point, gradient = torch.where(wide, best, point), torch.where(wide, slope, gradient)
            before, loss = torch.where(wide, best, before), torch.where(halve, most, loss)
            gained, last = torch.zeros_like(loss), step
    return best


def _checkpoints(steps: int) -> set[int]:
    """The steps at which sizes are looked at: shares 0, 0.22, ... of the way, closer towards the end."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return {math.ceil(share * steps) for share in shares if 0 < share <= 1}


def _slope(network: Network, point: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every image, and its gradient by the image."""
    point = point.detach().requires_grad_()
    with torch.enable_grad():
        loss = F.cross_entropy(network(point).float(), labels, reduction="none")
        (gradient,) = torch.autograd.grad(loss.sum(), point)
    return loss.detach(), gradient


@torch.no_grad()
def _loss(network: Network, point: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(network(point).float(), labels, reduction="none")


def _better(point: Tensor, loss: Tensor, best: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """The points of the larger loss, and that loss."""
    higher = loss > most
    return torch.where(higher.view(-1, 1, 1, 1), point, best), torch.where(higher, loss, most)


def _inside(point: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """The nearest point within `epsilon` of the images and within [0, 1]."""
    return torch.minimum(torch.maximum(point, images - epsilon), images + epsilon).clamp(0, 1)
