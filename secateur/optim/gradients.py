"""Sampled gradients: each entry is the gradient's, or zero.

    phi = Omega * grad f(theta),    Omega a fresh 0/1 mask in every step

V.-D. Yun, "StochGradAdam" (arXiv 2310.17042), and "Robust Neural Pruning with Gradient Sampling Optimization for
Residual Neural Networks" (arXiv 2312.16020). Bits are cleared, numbers are not multiplied, so that an infinite gradient
that is not sampled does not become NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.hashing import Draw
from secateur.optim.places import GRANULARITIES, Place, local, pieces

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def sample(
    gradients: Sequence[Tensor],
    places: Sequence[Place],
    draw: Draw,
    *,
    like: Sequence[Tensor],
    scale: float = 1.0,
    in_place: bool = False,
) -> list[Tensor]:
    """The sampled gradients, times `scale`; each is laid out in memory as its parameter in `like` is.

    Fused kernels walk through memory and never look at strides, so the layout matters. With `in_place` the gradients
    themselves are changed, and returned.
    """
    sampled = [g if in_place else _empty(p, g) for p, g in zip(like, gradients, strict=True)]
    by_device: dict[torch.device, list[int]] = {}
    for number, gradient in enumerate(gradients):
        by_device.setdefault(local(gradient).device, []).append(number)
    for device, numbers in by_device.items():
        source, target = [local(gradients[n]) for n in numbers], [local(sampled[n]) for n in numbers]
        for number, rows, mask in pieces([places[n] for n in numbers], draw, device):
            given, out = source[number], target[number]
            if rows is not None:
                given, out = given[rows], out[rows]
            choose(given, mask, out)
        if scale != 1.0:
            torch._foreach_mul_([t for t in target if t.numel()], scale)
    return sampled


def _empty(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Memory for the sampled gradient of a parameter."""
    if not hasattr(gradient, "to_local"):
        return torch.empty_like(parameter, dtype=gradient.dtype, requires_grad=False)
    return torch.empty_like(gradient)


def choose(given: Tensor, mask: Tensor, out: Tensor) -> None:
    """Into `out`, `given` where the mask is -1 and positive zero where it is 0: the bits of both are combined."""
    if given.dtype == torch.complex128:
        given, out, mask = torch.view_as_real(given), torch.view_as_real(out), mask.unsqueeze(-1)
    bits = _INTEGERS[given.dtype.itemsize]
    torch.bitwise_and(given.view(bits), mask.to(bits), out=out.view(bits))


def check_gradient(parameter: Tensor, gradient: Tensor, name: str) -> None:
    """Raise `InputError` for a gradient whose entries cannot be sampled."""
    if gradient.layout != torch.strided:
        raise InputError(
            f"{name} needs dense gradients. Got a sparse one for a parameter of shape {list(parameter.shape)}; "
            "build its embedding with sparse=False, or give it an optimizer of its own."
        )
    if getattr(gradient, "placements", None) != getattr(parameter, "placements", None):
        raise InputError(
            f"{name} needs gradients that are sharded as their parameters are. Got {gradient.placements} "  # type: ignore[attr-defined]
            f"for a parameter with {getattr(parameter, 'placements', 'one device')}."
        )


def check_rate(rate: Any, where: str) -> float:
    """`rate` as a float in (0, 1]; raises `InputError` for anything else."""
    number = float(rate) if isinstance(rate, int | float | Tensor) and not isinstance(rate, bool) else math.nan
    if not 0.0 < number <= 1.0:
        raise InputError(f"The 'sampling_rate' of {where} must be a number in (0, 1]. Got {rate!r} instead.")
    return number


def check_choice(value: Any, name: str, choices: Sequence[Any], where: str) -> None:
    """Raise `InputError` if `value` is none of the `choices`."""
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise InputError(f"The '{name}' of {where} must be one of {listed}. Got {value!r} instead.")


def check_sampling(seed: Any, granularity: Any, where: str) -> None:
    """Raise `InputError` for a seed that is no integer, or a granularity there is none of."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InputError(f"The 'seed' of {where} must be an integer. Got {seed!r} instead.")
    check_choice(granularity, "granularity", GRANULARITIES, where)
