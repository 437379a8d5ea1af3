"""StochGradAdam: Adam that sees a random part of the gradient in each step.

V.-D. Yun, "StochGradAdam: Accelerating Neural Networks Training with Stochastic Gradient Sampling" (arXiv 2310.17042),
and, for its use before pruning, "Robust Neural Pruning with Gradient Sampling Optimization for Residual Neural
Networks" (arXiv 2312.16020).

    phi_t = Omega_t * grad f_t(theta),   then Adam on phi_t

An entry that is not sampled enters both moments as zero: they keep decaying and the weight still moves by its momentum.
It is not skipped, and what is sampled is not scaled up.

Choices of ours: the mask has one bit an entry, fresh in every step; weight decay is added after masking, so that no
step drops it; t counts from 1, as in Adam; a decaying beta1 (`beta1_decay`) has the bias correction that belongs to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Adam, AdamW

from secateur.errors import InputError
from secateur.hashing import Draw
from secateur.optim.buckets import fused_in_buckets, takes
from secateur.optim.gradients import check_choice, check_gradient, check_rate, check_sampling, sample
from secateur.optim.kernel import Coefficients, Moments, Ready, fits, update, update_in_one_pass
from secateur.optim.places import Granularity, Place, bases, place

Compiled = Literal[False, "step", "sample"]
OWN = ("sampling_rate", "beta1_decay", "seed", "granularity", "compiled", "in_place", "sampling_step")


class StochGradAdam(Adam):
    """Adam on sampled gradients.

    It takes all arguments of `torch.optim.Adam`, and:

    - `sampling_rate`: the share of gradient entries that are seen, in (0, 1]. 1 is `torch.optim.Adam`, bit for bit. It
      is read from the parameter group at every step, so a schedule may move it, and 1 leaves a group out. 0.8 is what
      the only published code runs with.
    - `beta1_decay`: beta1 is multiplied by it after every step; in (0, 1].
    - `seed`: masks are a function of it, the step, and the position of the entry.
    - `granularity`: what is kept or dropped together: an "element", a "row" (filter), a "tensor".
    - `compiled`: "step" samples and updates in one compiled kernel, "sample" compiles the masks and leaves the update
      to torch; both are best with `fused=True`. The kernel is for contiguous or channels-last float32 and float64
      parameters, on other devices than the CPU of 65 536 entries or more; the others are updated by torch. The first
      step compiles, which takes seconds.
    - `in_place`: gradients may be overwritten by sampled ones, which saves memory of their size, and time; otherwise
      they are left as they are.

    `state_dict` is Adam's, with the above in its groups: each loads the other's.
    Gradients that were clipped were clipped before sampling.

    Raises `InputError` for values out of range, sparse gradients, and `differentiable`, through which masks cannot be
    followed.

    >>> optimizer = StochGradAdam(model.parameters(), lr=1e-3, sampling_rate=0.8, fused=True)
    """

    accepts_fused = True
    """`fit` may choose the fused form, as it does for Adam."""

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        sampling_rate: float = 0.8,
        beta1_decay: float = 1.0,
        seed: int = 0,
        granularity: Granularity = "element",
        compiled: Compiled = False,
        in_place: bool = False,
        **torch_options: Any,
    ) -> None:
        name = type(self).__name__
        check_rate(sampling_rate, name)
        check_sampling(seed, granularity, name)
        check_choice(compiled, "compiled", (False, "step", "sample"), name)
        if not 0.0 < beta1_decay <= 1.0:
            raise InputError(f"The 'beta1_decay' of {name} must be a float in (0, 1]. Got {beta1_decay!r} instead.")
        _refuse(torch_options, name, beta1_decay, compiled)
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **torch_options)
        own = (sampling_rate, beta1_decay, seed, granularity, compiled, in_place, 0)
        self.defaults.update(zip(OWN, own, strict=True))
        for number, group in enumerate(self.param_groups):
            for key in OWN:
                group.setdefault(key, self.defaults[key])
            check_rate(group["sampling_rate"], f"parameter group {number}")
        if compiled == "step" or beta1_decay < 1:
            self._step_supports_amp_scaling = False  # these updates leave unscaling and skipping to the scaler

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`, Adam's or one's own; what Adam's does not know of sampling stays as it is here."""
        before = [{key: group[key] for key in OWN} for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, own in zip(self.param_groups, before, strict=True):
            for key, value in own.items():
                group.setdefault(key, value)

    def _init_group(
        self,
        group: dict[str, Any],
        params_with_grad: list[Tensor],
        grads: list[Tensor],
        exp_avgs: list[Tensor],
        exp_avg_sqs: list[Tensor],
        max_exp_avg_sqs: list[Tensor],
        state_steps: list[Tensor],
    ) -> bool:
        """Adam gathers here what it updates: the gradients are exchanged for sampled ones.

        Parameters that a kernel of ours has updated are taken off the lists.
        """
        name = type(self).__name__
        for parameter in group["params"]:
            if parameter.grad is not None:
                check_gradient(parameter, parameter.grad, name)
        lists = (params_with_grad, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, state_steps)
        has_complex = bool(super()._init_group(group, *lists))
        draw = Draw(group["seed"], _count(group), check_rate(group["sampling_rate"], f"a parameter group of {name}"))
        self._exchange(group, draw, lists)
        return has_complex

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _exchange(self, group: dict[str, Any], draw: Draw, lists: Sequence[list[Tensor]]) -> None:
        """Exchange the gradients in `lists`, and take out of all of them the parameters that were updated here."""
        parameters, gradients, *_ = lists
        gradients[:] = [_laid_out(p, g) for p, g in zip(parameters, gradients, strict=True)]
        done: set[int] = set()
        if draw.rate < 1:
            first = bases(self.param_groups)
            places = [place(p, first[p], group["granularity"]) for p in parameters]
            done = self._updated(group, draw, lists, places)
            rest = [n for n in range(len(parameters)) if n not in done]
            given, where, like = [gradients[n] for n in rest], [places[n] for n in rest], [parameters[n] for n in rest]
            for n, phi in zip(rest, sample(given, where, draw, like=like, in_place=group["in_place"]), strict=True):
                gradients[n] = phi
        if group["beta1_decay"] < 1:
            for n in set(range(len(parameters))) - done:
                update(parameters[n], gradients[n], *self._next(group, parameters[n]))
                done.add(n)
        for values in lists:
            values[:] = [value for n, value in enumerate(values) if n not in done]

    def _updated(
        self, group: dict[str, Any], draw: Draw, lists: Sequence[list[Tensor]], places: Sequence[Place]
    ) -> set[int]:
        """Sample and update the parameters that this package has a fast way for; their numbers."""
        parameters, gradients, m, v, largest, steps = lists
        ready = {
            n: Ready(
                p, gradients[n], Moments(m[n], v[n], largest[n] if group["amsgrad"] else None), steps[n], places[n]
            )
            for n, p in enumerate(parameters)
        }
        taken: set[int] = set()
        if group["compiled"] == "step":
            taken = {n for n, one in ready.items() if fits(one.p, one.gradient, group["granularity"])}
            update_in_one_pass([ready[n] for n in sorted(taken)], draw, group)
        scaled = any(getattr(self, name, None) is not None for name in ("grad_scale", "found_inf"))
        if not group["fused"] or group["beta1_decay"] < 1 or scaled:
            return taken
        fused = [n for n, one in ready.items() if n not in taken and takes(one.p, one.gradient, group["granularity"])]
        fused_in_buckets([ready[n] for n in fused], draw, group)
        return taken | set(fused)

    def _next(self, group: dict[str, Any], parameter: Tensor) -> tuple[Moments, tuple[float, ...]]:
        """The moments of a parameter and the numbers of its next step, which is counted."""
        state = self.state[parameter]
        state["step"] += 1
        numbers = Coefficients.of(group, float(state["step"])).values()
        return Moments(state["exp_avg"], state["exp_avg_sq"], state.get("max_exp_avg_sq")), numbers


class StochGradAdamW(StochGradAdam, AdamW):
    """`StochGradAdam` with the decoupled weight decay of `torch.optim.AdamW`, whose default is 0.01.

    Decay shrinks every weight in every step, sampled or not.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        sampling_rate: float = 0.8,
        beta1_decay: float = 1.0,
        seed: int = 0,
        granularity: Granularity = "element",
        compiled: Compiled = False,
        in_place: bool = False,
        **torch_options: Any,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            sampling_rate=sampling_rate,
            beta1_decay=beta1_decay,
            seed=seed,
            granularity=granularity,
            compiled=compiled,
            in_place=in_place,
            **torch_options,
        )


def _refuse(options: dict[str, Any], name: str, beta1_decay: float, compiled: Compiled) -> None:
    """Raise `InputError` for what does not go together with sampling."""
    if options.get("differentiable"):
        raise InputError(
            f"{name} cannot be differentiated through: a mask has no derivative. Leave 'differentiable' out."
        )
    if options.get("capturable") and (beta1_decay < 1 or compiled):
        raise InputError(
            f"A 'capturable' {name} keeps its step on the device, which 'beta1_decay' and 'compiled' cannot read. "
            "Give one or the other."
        )


def _count(group: dict[str, Any]) -> int | Tensor:
    """Count the step of a group; on the device where the step is to be captured in a graph."""
    if group["capturable"] and not isinstance(group["sampling_step"], Tensor):
        device = group["params"][0].device
        group["sampling_step"] = torch.tensor(group["sampling_step"], dtype=torch.int64, device=device)
    group["sampling_step"] += 1
    count: int | Tensor = group["sampling_step"]
    return count


def _laid_out(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the memory layout of its parameter, which fused and compiled kernels rely on."""
    if gradient.stride() == parameter.stride() or hasattr(gradient, "to_local"):
        return gradient
    return torch.empty_like(parameter, dtype=gradient.dtype, requires_grad=False).copy_(gradient)
