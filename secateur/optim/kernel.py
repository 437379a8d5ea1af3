"""Adam's update as one function of tensors, sampling included: what is compiled, and what takes a decaying beta1.

    phi   = Omega * g                                    the mask is hashed in the same pass, never kept in memory
    m     = b1_t m + (1 - b1_t) phi                      b1_t = b1 decay^(t-1)
    v     = b2 v + (1 - b2) phi^2
    theta = theta - lr m / (1 - B1) / (sqrt(v / (1 - b2^t)) + eps)

B1 is the product of b1_1 ... b1_t, which is b1^t decay^(t(t-1)/2): the weights of the gradients in m sum to 1 - B1, so
a constant gradient gives an unbiased first moment at every step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from secateur.optim.hashing import Draw, mixed, signed
from secateur.optim.places import Place

SMALL = 1 << 16  # below this many entries a call of a compiled kernel costs more than the passes it saves


@dataclass(frozen=True)
class Moments:
    """What Adam keeps of one parameter: m, v, and the largest v so far where `amsgrad` asks for it."""

    m: Tensor
    v: Tensor
    largest: Tensor | None


@dataclass(frozen=True)
class Coefficients:
    """The numbers of one step of Adam."""

    sign: float
    coupled: float
    shrink: float
    new_m: float
    old_v: float
    new_v: float
    size: float
    root: float
    eps: float

    @classmethod
    def of(cls, group: dict[str, Any], step: float) -> Coefficients:
        """Those of a parameter group at the `step`-th update, counted from 1."""
        (beta1, beta2), decay, lr, rot = group["betas"], group["beta1_decay"], float(group["lr"]), group["weight_decay"]
        decoupled = group["decoupled_weight_decay"]
        product = beta1**step * decay ** (step * (step - 1) / 2)
        return cls(
            sign=-1.0 if group["maximize"] else 1.0,
            coupled=0.0 if decoupled else rot,
            shrink=1 - lr * rot if decoupled else 1.0,
            new_m=1 - beta1 * decay ** (step - 1),
            old_v=beta2,
            new_v=1 - beta2,
            size=lr / (1 - product),
            root=(1 - beta2**step) ** -0.5,
            eps=group["eps"],
        )

    def values(self) -> tuple[float, ...]:
        """The numbers in the order of `update`."""
        return (
            self.sign, self.coupled, self.shrink, self.new_m, self.old_v, self.new_v, self.size, self.root, self.eps
        )  # fmt: skip


def update(p: Tensor, phi: Tensor, state: Moments, numbers: Any) -> None:
    """Move `p`, `m` and `v` by one step along the sampled gradient `phi`; `numbers` are `Coefficients.values()`.

    Of complex tensors, the two parts are parameters of their own, as in torch's Adam.
    """
    sign, coupled, shrink, new_m, old_v, new_v, size, root, eps = numbers
    p, phi, m, v = (torch.view_as_real(t) if t.is_complex() else t for t in (p, phi, state.m, state.v))
    phi = phi * sign + p * coupled
    m.add_((phi - m) * new_m)
    v.mul_(old_v).add_(phi * phi * new_v)
    second = v
    if state.largest is not None:
        largest = torch.view_as_real(state.largest) if state.largest.is_complex() else state.largest
        second = largest.copy_(torch.maximum(largest, v))
    p.mul_(shrink).sub_(m * size / (second.sqrt() * root + eps))


# The compiled form


def fits(p: Tensor, gradient: Tensor, granularity: str) -> bool:
    """Whether a compiled kernel takes this parameter: large, of full precision, and laid out without gaps."""
    return (
        granularity == "element"
        and p.numel() >= SMALL
        and p.dtype in (torch.float32, torch.float64)
        and p.dtype == gradient.dtype
        and not hasattr(p, "to_local")
        and _grid(p) is not None
    )


def compiled_update(p: Tensor, gradient: Tensor, state: Moments, numbers: Any, where: Place, draw: Draw) -> None:
    """Sample and update in one pass through memory."""
    shape, _, _ = _checked_grid(p)
    views = [_view(t, p, shape) for t in (p, gradient, state.m, state.v)]
    largest = None if state.largest is None else _view(state.largest, p, shape)
    reals = torch.tensor(numbers, dtype=p.dtype, device=p.device)
    _compiled()(*views, largest, _integers(where, draw, p), reals)


def _sampled_update(
    p: Tensor, gradient: Tensor, m: Tensor, v: Tensor, largest: Tensor | None, integers: Tensor, reals: Tensor
) -> None:
    phi = torch.where(_mask(p, integers), gradient, 0.0)
    update(p, phi, Moments(m, v, largest), reals.unbind())


def _mask(grid: Tensor, integers: Tensor) -> Tensor:
    """`Draw.kept` over a parameter as a grid of one axis, or of three: rows, places of a kernel, columns."""
    start, key, shift, bound, outer, inner = integers.unbind()
    axes = [torch.arange(n, dtype=torch.int32, device=grid.device) for n in grid.shape]
    if grid.dim() == 1:
        indices = axes[0] + start
    else:
        indices = axes[0].view(-1, 1, 1) * outer + axes[1].view(-1, 1) + axes[2] * inner + start
    return (mixed(mixed(indices ^ key) + shift) & 0x7FFFFFFF) < bound


def _integers(where: Place, draw: Draw, p: Tensor) -> Tensor:
    _, outer, inner = _checked_grid(p)
    numbers = [signed(where.start), draw.key(where.high), signed(int(draw.shift)), draw.bound, outer, inner]
    return torch.tensor(numbers, dtype=torch.int32, device=p.device)


def _grid(p: Tensor) -> tuple[tuple[int, ...], int, int] | None:
    """The shape under which the memory of `p` is walked in order, and what a row and a column add to an index.

    Row-major tensors are one line; channels-last kernels are rows x places x columns. None for any other layout.
    """
    if p.is_contiguous():
        return (p.numel(),), 0, 0
    if p.dim() == 4 and p.is_contiguous(memory_format=torch.channels_last):
        rows, columns, height, width = p.shape
        return (rows, height * width, columns), columns * height * width, height * width
    return None


def _checked_grid(p: Tensor) -> tuple[tuple[int, ...], int, int]:
    grid = _grid(p)
    assert grid is not None, "fits() says which parameters have one"
    return grid


def _view(tensor: Tensor, p: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor laid out as `p` is, in the order of memory."""
    assert tensor.stride() == p.stride()
    tensor = tensor.detach()
    return tensor.view(shape) if len(shape) == 1 else tensor.permute(0, 2, 3, 1).view(shape)


@cache
def _compiled() -> Callable[..., None]:
    """One kernel for all sizes: it is compiled at its first call, once for each number of axes and type."""
    return torch.compile(_sampled_update, dynamic=True, fullgraph=True)
