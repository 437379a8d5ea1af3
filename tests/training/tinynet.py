"""The smallest model and data that have all that training can move."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import SGD


class Net(nn.Module):
    """Convolution, batch norm, dropout, linear: one of everything that training can move."""

    def __init__(self, width: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.25)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))


def batches(count: int = 4, size: int = 8, classes: int = 3, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, 1, 5, 5, generator=generator),
            torch.randint(classes, (size,), generator=generator),
        )
        for _ in range(count)
    ]


def net(seed: int = 0, **kw: int) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(**kw)


def same_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


QUIET = {"progress": False, "precision": "fp32", "optimizer": partial(SGD, lr=0.05, momentum=0.9)}
