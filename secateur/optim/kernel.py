"""Adam's update as one function of tensors, sampling included: what is compiled, and what takes a decaying beta1.

    phi   = Omega * g                                    the mask is hashed in the same pass, never kept in memory
    m     = b1_t m + (1 - b1_t) phi                      b1_t = b1 decay^(t-1)
    v     = b2 v + (1 - b2) phi^2
    theta = theta - lr m / (1 - B1) / (sqrt(v / (1 - b2^t)) + eps)

B1 is the product of b1_1 ... b1_t, which is b1^t decay^(t(t-1)/2): the weights of the gradients in m sum to 1 - B1, so
a constant gradient gives an unbiased first moment at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from secateur.hashing import Draw, hashed, signed
from secateur.optim.native import Table
from secateur.optim.places import Grid, Place, grid

SMALL = 1 << 16  # entries below which a kernel of torch.compile costs more to call than the passes it saves


@dataclass(frozen=True)
class Moments:
    """What Adam keeps of one parameter: m, v, and the largest v so far where `amsgrad` asks for it."""

    m: Tensor
    v: Tensor
    largest: Tensor | None


@dataclass(frozen=True)
class Ready:
    """A parameter that is to be updated, with what Adam keeps of it and its place among all indices."""

    p: Tensor
    gradient: Tensor
    state: Moments
    step: Tensor
    where: Place


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


def fits(p: Tensor, gradient: Tensor, granularity: str) -> bool:
    """Whether `update_in_one_pass` takes this parameter: of full precision, without gaps, and large if not on a CPU."""
    return (
        granularity == "element"
        and (p.device.type == "cpu" or p.numel() >= SMALL)
        and p.dtype in (torch.float32, torch.float64)
        and p.dtype == gradient.dtype
        and p.stride() == gradient.stride()
        and not hasattr(p, "to_local")
        and grid(p) is not None
    )


def update_in_one_pass(ready: Sequence[Ready], draw: Draw, group: dict[str, Any]) -> None:
    """Count a step of parameters that `fits`, sample their gradients and update them, in one pass through memory."""
    if ready:
        torch._foreach_add_([one.step for one in ready], 1)
    tables: dict[torch.dtype, Table] = {}
    for one in ready:
        numbers = Coefficients.of(group, float(one.step)).values()
        if one.p.device.type == "cpu":
            table = tables.setdefault(one.p.dtype, Table(draw))
            largest = one.state.largest
            tensors = [one.p, one.gradient, one.state.m, one.state.v]
            pointers = [t.data_ptr() for t in tensors] + [0 if largest is None else largest.data_ptr()]
            reals = _reals(numbers, one.p.dtype, one.p.device)
            table.add(one.p, one.where.start, one.where.high, [*pointers, reals.data_ptr()])
        else:
            _compiled_update(one, numbers, draw)
    for dtype, table in tables.items():
        table.run("update", dtype.itemsize)


# The form for devices other than the CPU


def _compiled_update(one: Ready, numbers: tuple[float, ...], draw: Draw) -> None:
    """One parameter, by a kernel that torch.compile makes."""
    walked = _checked_grid(one.p)
    views = [_view(t, walked) for t in (one.p, one.gradient, one.state.m, one.state.v)]
    largest = None if one.state.largest is None else _view(one.state.largest, walked)
    first, second = (int(key) for key in draw.keys(one.where.high))
    integers = [signed(one.where.start), first, second, draw.bound, walked.outer, walked.inner]
    found = torch.tensor(integers, dtype=torch.int32, device=one.p.device)
    _compiled()(*views, largest, found, _reals(numbers, one.p.dtype, one.p.device))


def _sampled_update(
    p: Tensor, gradient: Tensor, m: Tensor, v: Tensor, largest: Tensor | None, integers: Tensor, reals: Tensor
) -> None:
    phi = torch.where(_mask(p, integers), gradient, 0.0)
    update(p, phi, Moments(m, v, largest), reals.unbind())


def _mask(walked: Tensor, integers: Tensor) -> Tensor:
    """`Draw.kept` over a parameter as a grid of rows, places and columns."""
    start, first, second, bound, outer, inner = integers.unbind()
    axes = [torch.arange(n, dtype=torch.int32, device=walked.device) for n in walked.shape]
    indices = axes[0].view(-1, 1, 1) * outer + axes[1].view(-1, 1) + axes[2] * inner + start
    return hashed(indices, first, second) < bound


def _checked_grid(p: Tensor) -> Grid:
    found = grid(p)
    assert found is not None, "fits() says which parameters have one"
    return found


def _view(tensor: Tensor, walked: Grid) -> Tensor:
    """A tensor in the order of its memory, in the shape of its grid."""
    tensor = tensor.detach()
    return tensor.view(walked.shape) if walked.shape[0] == 1 else tensor.permute(0, 2, 3, 1).view(walked.shape)


@lru_cache(maxsize=4)
def _reals(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The numbers of a step, which many parameters have in common."""
    return torch.tensor(numbers, dtype=dtype, device=device)


@cache
def _compiled() -> Callable[..., None]:
    """One kernel for all sizes: it is compiled at its first call, once for each type."""
    return torch.compile(_sampled_update, dynamic=True, fullgraph=True)
