"""What a mode of sampling does to one parameter once the optimizer has moved it; the modes are told in `sampling`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from secateur.hashing import Draw
from secateur.optim.places import Granularity, Place, local, whole_mask

TAU, SMOOTHING = 2.0, 0.9  # of Magma's alignment
_DOUBLE = (torch.float64, torch.complex128)


class After(ABC):
    """A parameter as it was before the step, and what becomes of its move."""

    def __init__(self, parameter: Tensor, where: Place, draw: Draw) -> None:
        self.parameter, self.where, self.draw = parameter, where, draw
        self.before = local(parameter.detach()).clone()

    @abstractmethod
    def step(self, state: dict[str, Any]) -> None:
        """The optimizer has moved; `state` is what it keeps of the parameter."""

    def mask(self) -> Tensor:
        """True where the parameter was sampled; broadcasts over its local part."""
        return whole_mask(self.where, self.draw, self.before.device)

    def move(self, factor: float | Tensor) -> None:
        """Keep the sampled part of the move, times `factor`; take the rest back."""
        moved = local(self.parameter.detach())
        scaled = moved if isinstance(factor, float) and factor == 1 else self.before + (moved - self.before) * factor
        moved.copy_(torch.where(self.mask(), scaled, self.before))


class Update(After):
    """SkipUpdate: the sampled moves times `scale`."""

    def __init__(self, parameter: Tensor, where: Place, draw: Draw, scale: float) -> None:
        super().__init__(parameter, where, draw)
        self.scale = scale

    def step(self, state: dict[str, Any]) -> None:  # noqa: ARG002
        """Take back what was not sampled."""
        self.move(self.scale)


class Aligned(After):
    """Magma: the sampled moves times the alignment of momentum and gradient, smoothed over steps.

    The alignment is one number, or one a row. An optimizer without momentum is given one of its own for it.
    """

    def __init__(self, parameter: Tensor, where: Place, draw: Draw, granularity: Granularity) -> None:
        super().__init__(parameter, where, draw)
        self.rows = granularity == "row" and parameter.dim() > 1

    def step(self, state: dict[str, Any]) -> None:
        """Take back what was not sampled, and weigh the rest."""
        gradient = self.parameter.grad
        assert gradient is not None, "only parameters with gradients are remembered"
        momentum = next((state[name] for name in ("exp_avg", "momentum_buffer") if state.get(name) is not None), None)
        if momentum is None:
            momentum = state.setdefault("sampling_momentum", torch.zeros_like(gradient))
            momentum.lerp_(gradient, 1 - SMOOTHING)
        now = torch.sigmoid(self._cosine(momentum, gradient) / TAU)
        smoothed = state.setdefault("sampling_alignment", now)
        state["sampling_alignment"] = smoothed = smoothed * SMOOTHING + now * (1 - SMOOTHING)
        self.move(smoothed)

    def _cosine(self, one: Tensor, other: Tensor) -> Tensor:
        """Of the whole parameter, also if it is sharded, or of each of its rows."""
        over = tuple(range(1, one.dim())) if self.rows else tuple(range(one.dim()))
        sums = [(a * b.conj()).real.sum(over, keepdim=True) for a, b in ((one, other), (one, one), (other, other))]
        if not self.rows:
            sums = [value.full_tensor() if hasattr(value, "full_tensor") else value for value in sums]
        product, *squares = (local(value) for value in sums)
        return product / (squares[0] * squares[1]).sqrt().clamp_min(torch.finfo(product.dtype).tiny)


class Lazy(After):
    """An entry that is not sampled is skipped: its weight and its part of the optimizer's state stay as they were.

    Adam and AdamW count the steps of every entry (`sampling_count`), so that each goes exactly as Adam would on the
    gradients it saw. The state of other optimizers is kept the same way, without such counts.
    """

    def __init__(
        self,
        parameter: Tensor,
        where: Place,
        draw: Draw,
        group: dict[str, Any],
        state: dict[str, Any],
        optimizer: Optimizer,
    ) -> None:
        super().__init__(parameter, where, draw)
        self.group = group
        self.counted = isinstance(optimizer, Adam)
        self.state = {name: local(value).clone() for name, value in state.items() if self._follows(name, value)}

    def step(self, state: dict[str, Any]) -> None:
        """Take back what was not sampled, in the weight and in the state."""
        mask = self.mask()
        for name, value in state.items():
            if self._follows(name, value):
                now = local(value)
                now.copy_(torch.where(mask, now, self.state.get(name, torch.zeros_like(now))))
        if self.counted:
            self._step_of_adam(state, mask)
        self.move(1.0)

    def _follows(self, name: str, value: Any) -> bool:
        """Whether the optimizer keeps this for every entry: a parameter without axes has the shape of a step count."""
        ours = name == "step" or name.startswith("sampling")
        return not ours and isinstance(value, Tensor) and value.shape == self.parameter.shape

    def _step_of_adam(self, state: dict[str, Any], mask: Tensor) -> None:
        """The weights after Adam's step with the bias corrections of each entry's own count."""
        group, (beta1, beta2) = self.group, self.group["betas"]
        count = state.setdefault("sampling_count", torch.zeros(self.where.shape, dtype=torch.int32, device=mask.device))
        count.add_(mask)
        n = count.clamp_min(1).to(torch.float64 if self.before.dtype in _DOUBLE else torch.float32)
        second = local(state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"])
        m = local(state["exp_avg"])
        if m.is_complex():
            m, second, n = torch.view_as_real(m), torch.view_as_real(second), n.unsqueeze(-1)
        size = m / (1 - beta1**n) * float(group["lr"]) / ((second / (1 - beta2**n)).sqrt() + group["eps"])
        shrink = 1 - float(group["lr"]) * group["weight_decay"] if group["decoupled_weight_decay"] else 1.0
        size = torch.view_as_complex(size.contiguous()) if self.before.is_complex() else size
        local(self.parameter.detach()).copy_(self.before * shrink - size)
