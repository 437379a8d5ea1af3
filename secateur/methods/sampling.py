"""Hard samples of gates with the gradient of soft ones: noise, sample and slope, and what autograd sees of them.

E. Jang, S. Gu & B. Poole, Categorical Reparameterization with Gumbel-Softmax (arXiv 1611.01144), for two categories.
The difference of two Gumbel variables is logistic, so one number a gate is enough. With logit d, temperature tau and
L = log u - log(1 - u), u uniform in (0, 1),

    forward     z = 1 if d + L > 0 else 0           P(z = 1) = sigmoid(d), whatever tau
    backward    dz/dd := s (1 - s) / tau,           s = sigmoid((d + L) / tau)

u is a hash of (seed, step, index of the gate): nothing is drawn from a generator, every rank and every device finds the
same, and a kernel can make it on the fly (`secateur.methods.native`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Adam

from secateur.hashing import Draw, hashed, signed
from secateur.methods import native

SMALL = 1 << 14
"""Gates below which compiling a kernel, or calling it, costs more than it saves."""


class Drawn(NamedTuple):
    """The sample of a group: gates of 0 and 1, the slope dz/dd of each, and how many are open (a scalar)."""

    sample: Tensor
    slope: Tensor
    opened: Tensor


def logistic_noise(indices: Tensor, draw: Draw) -> Tensor:
    """The logistic number L = log(u / (1 - u)) of every index (int32), float32.

    u is (k + 1/2) / 2^23 with the 23 highest bits of the hash, so that chances are exact to 2^-24 and |L| is at most
    16.7.
    """
    first, second = draw.keys()
    return ((hashed(indices, first, second) >> 8) * 2 + 1).float().mul_(2**-24).logit_()


def hard_sample(logits: Tensor, noise: Tensor, temperature: float) -> Drawn:
    """The sample of gates, from logits and logistic noise of one shape."""
    lifted = logits + noise
    sample = torch.gt(lifted, 0, out=torch.empty_like(lifted))  # in the type of the logits, without a bool between
    soft = lifted.mul_(1 / temperature).sigmoid_()
    return Drawn(sample, (1 - soft).mul_(soft).mul_(1 / temperature), sample.sum())


def draw_all(logits: Sequence[Tensor], draw: Draw, temperature: float) -> list[Drawn]:
    """The samples of all groups; the index of a gate is its place among the gates of all."""
    sizes = [d.numel() for d in logits]
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    if native_fits(logits):
        first, second = draw.keys()
        found = native.sample(logits, starts, (int(first), int(second)), 1 / temperature)
        return [Drawn(*parts) for parts in zip(*found, strict=True)]
    drawn = []
    for d, start in zip(logits, starts, strict=True):
        indices = torch.arange(d.numel(), dtype=torch.int32, device=d.device).add_(signed(start))
        drawn.append(hard_sample(d, logistic_noise(indices, draw), temperature))
    return drawn


def native_fits(logits: Sequence[Tensor]) -> bool:
    """Whether the kernels take these logits: float32 on a CPU, and enough of them."""
    if sum(d.numel() for d in logits) < SMALL or not native.there():
        return False
    return all(d.device.type == "cpu" and d.dtype == torch.float32 and d.is_contiguous() for d in logits)


@torch.no_grad()
def adam_step(adam: Adam, logits: Sequence[Tensor]) -> bool:
    """Whether the gradients of these logits were finite, and Adam has moved the logits by them."""
    gradients = [d.grad for d in logits if d.grad is not None]
    states = [adam.state[d] for d in logits if d in adam.state]
    plain = all(g.is_contiguous() and g.dtype == torch.float32 for g in gradients)
    if len(states) < len(logits) or not plain or not native_fits(logits):
        finite = bool(torch.stack([g.sum() for g in gradients]).sum().isfinite())
        if finite:
            adam.step()
        return finite
    group, t = adam.param_groups[0], float(states[0]["step"]) + 1
    (beta1, beta2), lr = group["betas"], group["lr"]
    numbers = (1 - beta1, beta2, 1 - beta2, lr / (1 - beta1**t), (1 - beta2**t) ** -0.5, group["eps"])
    finite = native.adam(logits, gradients, [(state["exp_avg"], state["exp_avg_sq"]) for state in states], numbers)
    if finite:
        torch._foreach_add_([state["step"] for state in states], 1)
    return finite


class StraightThrough(torch.autograd.Function):
    """A hard sample, and how many of its gates are open, that pass gradients to the logits by the slope.

    The slopes are no part of the graph, so that a graph may be walked as often as there are losses that share it.

    >>> sample, count = StraightThrough.apply(logits, *hard_sample(logits.detach(), noise, 3.0))
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, sample: Tensor, slope: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG004
        """The sample as it is."""
        ctx.slope = slope
        ctx.set_materialize_grads(False)
        return sample.view_as(sample), count.view_as(count)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        """The gradient of the soft sample, with the same noise: s (1 - s) / tau."""
        of_sample, of_count = gradients
        if of_sample is None:
            return None if of_count is None else of_count * ctx.slope, None, None, None
        total = of_sample if of_count is None else of_sample + of_count
        return total * ctx.slope, None, None, None


class Gated(torch.autograd.Function):
    """A weight times the sample of gates of its own, w z, and how many are open; one kernel makes both gradients.

    >>> gated, count = Gated.apply(weight, logits, *drawn)                          of float32, without gaps, on a CPU
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, logits: Tensor, sample: Tensor, slope: Tensor, count: Tensor) -> Any:  # noqa: ARG004
        """The weight where gates are open, 0 elsewhere."""
        ctx.save_for_backward(weight)
        ctx.sample, ctx.slope = sample, slope
        ctx.set_materialize_grads(False)
        return weight * sample.view_as(weight), count.view_as(count)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        """Those of the weight and of the logits; a price on the count alone needs no weight."""
        of_gated, of_count = gradients
        if of_gated is None:
            return None, None if of_count is None else of_count * ctx.slope, None, None, None
        (weight,) = ctx.saved_tensors
        price = 0.0 if of_count is None else float(of_count)
        found = native.gradients(of_gated.contiguous(), weight, ctx.sample, ctx.slope, price)
        return *found, None, None, None
