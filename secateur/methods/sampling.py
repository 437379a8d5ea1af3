"""Hard samples of gates with the gradient of soft ones: noise, sample and slope, and what autograd sees of them.

E. Jang, S. Gu & B. Poole, Categorical Reparameterization with Gumbel-Softmax (arXiv 1611.01144), for two categories.
The difference of two Gumbel variables is logistic, so one number a gate is enough. With logit d, temperature tau and
L = log u - log(1 - u), u uniform in (0, 1),

    forward     z = 1 if d + L > 0 else 0           P(z = 1) = sigmoid(d), whatever tau
    backward    dz/dd := s (1 - s) / tau,           s = sigmoid((d + L) / tau)

L is a function of (seed, step, index of the gate) (`secateur.methods.noise`): nothing is drawn from a generator, every
rank and every device finds the same, and a kernel makes it on the fly (`secateur.methods.native`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Adam

from secateur.errors import TrainingError
from secateur.hashing import Draw, signed
from secateur.methods import native
from secateur.methods.noise import logistic_noise

SMALL = 1 << 14
"""Gates below which compiling a kernel, or calling it, costs more than it saves."""


class Drawn(NamedTuple):
    """The sample of a group: gates of 0 and 1, the slope dz/dd of each, and how many are open (a scalar)."""

    sample: Tensor
    slope: Tensor
    opened: Tensor


class Marks:
    """A sample of all groups by kernels: a slope a gate, with the sign of those that are closed, and how many are open.

    It is made of the logits as they are when weights, or nothing, are first let through.
    """

    def __init__(self, draw: Draw, temperature: float) -> None:
        first, second = draw.keys()
        self._how = (int(first), int(second)), 1 / temperature
        self.slopes: list[Tensor] = []
        self.counts = torch.empty(0)

    def let_through(self, weights: Sequence[Tensor] | None, logits: Sequence[Tensor]) -> list[Tensor]:
        """The weights where gates are open, 0 elsewhere; without weights 1 where they are open."""
        if not self.slopes:
            passed, self.slopes, self.counts = native.draw(logits, weights, *self._how)
            return passed
        closed = [slope.signbit() for slope in self.slopes]
        if weights is None:
            return [(~there).to(slope.dtype) for there, slope in zip(closed, self.slopes, strict=True)]
        return [w.masked_fill(there.view_as(w), 0) for there, w in zip(closed, weights, strict=True)]

    def drawn(self, logits: Sequence[Tensor]) -> list[Drawn]:
        """The sample in the form that torch's operators take."""
        samples = self.let_through(None, logits)
        slopes = [slope.abs() for slope in self.slopes]
        return [Drawn(*parts) for parts in zip(samples, slopes, self.counts.unbind(), strict=True)]


def hard_sample(logits: Tensor, noise: Tensor, temperature: float) -> Drawn:
    """The sample of gates, from logits and logistic noise of one shape."""
    lifted = logits + noise
    sample = torch.gt(lifted, 0, out=torch.empty_like(lifted))  # in the type of the logits, without a bool between
    soft = lifted.abs_().mul_(-1 / temperature).sigmoid_()  # the slope of s is that of 1 - s: the smaller has its bits
    return Drawn(sample, (1 - soft).mul_(soft).mul_(1 / temperature), sample.sum())


def draw_all(logits: Sequence[Tensor], draw: Draw, temperature: float) -> list[Drawn]:
    """The samples of all groups; the index of a gate is its place among the gates of all."""
    if native_fits(logits):
        return Marks(draw, temperature).drawn(logits)
    found: list[Drawn] = []
    start = 0
    for bundle in _bundles(logits):
        sizes = [d.numel() for d in bundle]
        indices = torch.arange(sum(sizes), dtype=torch.int32, device=bundle[0].device).add_(signed(start))
        drawn = hard_sample(torch.cat(bundle), logistic_noise(indices, draw), temperature)
        parts = zip(drawn.sample.split(sizes), drawn.slope.split(sizes), strict=True)
        found += [Drawn(sample, slope, sample.sum()) for sample, slope in parts]
        start += sum(sizes)
    return found


def _bundles(logits: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours that are drawn together, since there are few gates in each."""
    bundle: list[Tensor] = []
    for d in logits:
        if bundle and (d.device != bundle[0].device or sum(map(len, bundle)) + len(d) > SMALL):
            yield bundle
            bundle = []
        bundle.append(d)
    yield bundle


def native_fits(logits: Sequence[Tensor]) -> bool:
    """Whether the kernels take these logits: float32 on a CPU, and enough of them."""
    if sum(d.numel() for d in logits) < SMALL or not native.there():
        return False
    return all(d.device.type == "cpu" and d.dtype == torch.float32 and d.is_contiguous() for d in logits)


def adam_step(adam: Adam, logits: Sequence[Tensor], *, kernels: bool) -> bool:
    """Whether the gradients of these logits were finite, and Adam has moved the logits by them."""
    rows = []
    for d in logits:
        state, gradient = adam.state.get(d), d.grad
        assert gradient is not None
        if kernels and state and gradient.is_contiguous():
            rows.append((d, gradient, state["exp_avg"], state["exp_avg_sq"], state["step"]))
    if len(rows) == len(logits):
        group = adam.param_groups[0]
        return native.adam(rows, group["betas"], group["lr"], group["eps"])
    finite = bool(torch.stack([d.grad.sum() for d in logits if d.grad is not None]).sum().isfinite())
    if finite:
        adam.step()
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
    """Weights times the sample of gates of their own, w z, and how many are open; one kernel makes all gradients.

    As with `StraightThrough`, the graph may be walked as often as there are losses that share it.

    >>> *gated, counts = Gated.apply(marks, *weights, *logits)                      of float32, without gaps, on a CPU
    """

    @staticmethod
    def forward(ctx: Any, marks: Marks, *tensors: Tensor) -> Any:
        """The weights where gates are open, 0 elsewhere; the counts, shape `[groups]`."""
        weights, logits = tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]
        passed = marks.let_through(weights, logits)
        ctx.weights, ctx.versions, ctx.slopes = weights, [w._version for w in weights], marks.slopes
        ctx.set_materialize_grads(False)
        return *passed, marks.counts.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Those of the weights and of the logits; a price on the counts alone needs no weights."""
        *of_gated, prices = gradients
        weights, slopes = ctx.weights, ctx.slopes
        if [w._version for w in weights] != ctx.versions and any(g is not None for g in of_gated):
            raise TrainingError("A weight was changed after its network has run and before its gradient was there.")
        given = [torch.zeros_like(w) if g is None else g.contiguous() for g, w in zip(of_gated, weights, strict=True)]
        of_weights, of_logits = native.gradients(given, weights, slopes, prices)
        return None, *(None if g is None else own for g, own in zip(of_gated, of_weights, strict=True)), *of_logits
