"""Small networks, data and trainings for methods that prune while training."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

import secateur
from secateur.graph.units import Groups
from secateur.methods import CRIC, DHSPG, HESSO, GateDecorator, GroupSparse, Gumbel, Iterative, Pruner
from secateur.training import fit
from secateur.training.history import History

METHODS: dict[str, partial[Pruner]] = {
    "magnitude": partial(Iterative, rounds=3, start=0.1, stop=0.7),
    "taylor": partial(Iterative, criterion="taylor", rounds=2, start=0.1, stop=0.7),
    "group_sparse": partial(GroupSparse, rounds=2, start=0.2, stop=0.7),
    "dhspg": partial(DHSPG, strength=2.0, start=0.1, stop=0.7),
    "hesso": partial(HESSO, rounds=3, start=0.1, stop=0.7),
    "cric": partial(CRIC, sampling=3, cycles=2, start=0.1, stop=0.8),
    "gate_decorator": partial(GateDecorator, rounds=3, ticks=2, tock=1, stop=0.8),
    "gumbel": partial(Gumbel, lr=0.2, start=0.1, stop=0.8),
}
PLAIN: dict[str, Any] = {
    "progress": False,
    "precision": "fp32",
    "optimizer": partial(SGD, lr=0.05, momentum=0.9, weight_decay=1e-3),
}


class Residual(nn.Module):
    """Two convolutions that share their width through an addition, a third, and a head; batch norm after each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv3, self.norm3 = nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu()
        x = (x + self.norm2(self.conv2(x))).relu()
        return self.head(self.norm3(self.conv3(x)).relu().mean((2, 3)))


class Attending(nn.Module):
    """Four heads over five tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.embed = 4, nn.Linear(5, 16)
        self.query, self.key, self.value = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.out, self.head = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(1, 2))
        batch, tokens, _ = x.shape
        q, k, v = (f(x).view(batch, tokens, self.heads, 4).transpose(1, 2) for f in (self.query, self.key, self.value))
        seen = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.head((x + self.out(seen.reshape(batch, tokens, -1))).mean(1))


def found(seed: int = 0) -> Groups:
    """The groups of a new `Residual`: the shared width, and that of the third convolution."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return secateur.groups(Residual(), torch.zeros(1, 1, 5, 5))


def batches(count: int = 8, size: int = 12) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(size, 1, 5, 5, generator=generator), torch.randint(3, (size,), generator=generator))
        for _ in range(count)
    ]


def trained(method: Pruner, epochs: int = 5, **kw: Any) -> History:
    return fit(method.groups.model, batches(), epochs=epochs, methods=[method], **{**PLAIN, **kw})
