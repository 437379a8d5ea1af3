"""Models and gradients that the tests of optimizers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

Shapes = Sequence[tuple[int, ...]]
SHAPES: Shapes = ((6, 3, 3, 3), (5, 7), (8,), (), (0, 4), (1,))


def parameters(shapes: Shapes = SHAPES, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [p.requires_grad_() for p in made]


def give_gradients(params: Sequence[Tensor], step: int) -> None:
    """Gradients that depend on the step and the place of the parameter alone."""
    for number, p in enumerate(params):
        generator = torch.Generator().manual_seed(1000 * step + number)
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)


def run(make: Callable[[list[Tensor]], Optimizer], steps: int, params: list[Tensor] | None = None, start: int = 0):
    """The parameters and the optimizer after some steps."""
    params = parameters() if params is None else params
    optimizer = make(params)
    for step in range(start, start + steps):
        give_gradients(params, step)
        optimizer.step()
    return params, optimizer


def same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
