"""Gradient sampling for any optimizer: hooks before and after its step.

| mode | what an unsampled entry does | what a sampled one does |
|---|---|---|
| `"gradient"` | its gradient is zero; moments decay, momentum moves it | as ever |
| `"update"` | moments see the dense gradient; it does not move | moves by 1 / rate of its step |
| `"lazy"` | nothing: no step, no decay, no moment | as ever, its own steps counted |
| `"aligned"` | moments see the dense gradient; it does not move | moves by its step times the alignment |

*gradient*: V.-D. Yun, StochGradAdam (arXiv 2310.17042). *update*, SkipUpdate, and *aligned*, Magma: "On Surprising
Effectiveness of Masking Updates in Adaptive Optimizers" (arXiv 2602.15322); with single entries *update* is
learning-rate dropout (arXiv 1912.00144) that keeps the mean step. *lazy*: what torch's SparseAdam does with rows.

Magma's alignment of a block is `s <- 0.9 s + 0.1 sigmoid(cos(m, g) / 2)` with momentum `m` and gradient `g`; ours
starts at its first value, and takes the optimizer's own momentum where it has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from secateur.errors import InputError
from secateur.hashing import Draw
from secateur.optim.gradients import check_choice, check_gradient, check_rate, check_sampling, sample
from secateur.optim.modes import After, Aligned, Lazy, Update
from secateur.optim.places import Granularity, Place, bases, place
from secateur.optim.stoch_grad_adam import StochGradAdam

Mode = Literal["gradient", "update", "lazy", "aligned"]
MODES = ("gradient", "update", "lazy", "aligned")


def sample_gradients(
    optimizer: Optimizer,
    rate: float = 0.8,
    *,
    mode: Mode = "gradient",
    granularity: Granularity | None = None,
    seed: int = 0,
    rescale: bool | None = None,
    in_place: bool = False,
    exclude: Iterable[int] = (),
) -> GradientSampler:
    """The handle of gradient sampling, at work in `optimizer` from now until the handle is removed.

    `rate` is the share that is sampled, in (0, 1]; it stands as `sampling_rate` in every parameter group and is read
    there at every step, so a schedule may move it. Groups whose numbers are in `exclude` get rate 1 and are left alone,
    as is any group that is given that rate. `granularity` is "element", "row" or "tensor"; left out, "tensor" for
    `mode="aligned"` and "element" otherwise. `rescale` divides what is sampled by the rate; left out, updates are and
    gradients are not. It does nothing to Adam but for eps, and makes the mean step of SGD the dense one. With
    `in_place` the gradients themselves are overwritten, which saves memory of their size.

    Seed and step are kept in the groups, so they are saved and loaded with the optimizer. A step with a closure has one
    mask, however often the closure runs. Gradients that were clipped were clipped before sampling.

    Raises `InputError` for values out of range, sparse gradients and an optimizer that is sampled already.

    >>> with sample_gradients(SGD(model.parameters(), lr=0.1), rate=0.5, rescale=True) as sampler:
    ...     train(model, sampler.optimizer)
    """
    return GradientSampler(
        optimizer,
        rate,
        mode=mode,
        granularity=granularity,
        seed=seed,
        rescale=rescale,
        in_place=in_place,
        exclude=exclude,
    )


def sampled(
    factory: Callable[..., Optimizer],
    params: Any,
    *,
    sampling_rate: float = 0.8,
    sampling: Mapping[str, Any] | None = None,
    **options: Any,
) -> Optimizer:
    """The optimizer `factory(params, **options)` with sampled gradients; `sampling` are keywords of `sample_gradients`.

    >>> fit(model, data, epochs=10, optimizer=partial(sampled, SGD, lr=0.1, sampling_rate=0.5))
    """
    return sample_gradients(factory(params, **options), sampling_rate, **(sampling or {})).optimizer


def sampler_of(optimizer: Optimizer) -> GradientSampler | None:
    """The sampler that is at work in an optimizer, if there is one."""
    owners = (getattr(hook, "__self__", None) for hook in optimizer._optimizer_step_pre_hooks.values())
    return next((owner for owner in owners if isinstance(owner, GradientSampler)), None)


def sampled_sgd(
    params: Any,
    lr: float = 0.1,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    *,
    sampling_rate: float = 0.5,
    mode: Mode = "update",
    granularity: Granularity | None = None,
    seed: int = 0,
) -> Optimizer:
    """`torch.optim.SGD` under `sample_gradients`, as one function of plain values."""
    sampling = {"mode": mode, "granularity": granularity, "seed": seed}
    options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov, "foreach": True}
    return sampled(SGD, params, sampling_rate=sampling_rate, sampling=sampling, **options)


def sampled_adamw(
    params: Any,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    *,
    sampling_rate: float = 0.5,
    mode: Mode = "update",
    granularity: Granularity | None = None,
    seed: int = 0,
) -> Optimizer:
    """`torch.optim.AdamW` under `sample_gradients`, as one function of plain values; without decay it is Adam."""
    sampling = {"mode": mode, "granularity": granularity, "seed": seed}
    options = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "foreach": True}
    return sampled(AdamW, params, sampling_rate=sampling_rate, sampling=sampling, **options)


class GradientSampler:
    """Sampling attached to an optimizer; `remove` (or the end of a `with` block) detaches it."""

    def __init__(
        self,
        optimizer: Optimizer,
        rate: float,
        *,
        mode: Mode,
        granularity: Granularity | None,
        seed: int,
        rescale: bool | None,
        in_place: bool,
        exclude: Iterable[int],
    ) -> None:
        where = "sample_gradients"
        check_choice(mode, "mode", MODES, where)
        self.granularity: Granularity = granularity or ("tensor" if mode == "aligned" else "element")
        check_sampling(seed, self.granularity, where)
        self._check(optimizer, mode, in_place)
        self.optimizer, self.mode, self.in_place = optimizer, mode, in_place
        self.rescale = mode == "update" if rescale is None else rescale
        self._settings = {"sampling_rate": check_rate(rate, where), "seed": seed, "sampling_step": 0}
        # A copied or unpickled optimizer has lost its hooks, but its groups know how far it was.
        left_out = set(exclude)
        if not left_out <= set(range(len(optimizer.param_groups))):
            raise InputError(
                f"The 'exclude' of {where} must hold numbers of parameter groups, 0 to "
                f"{len(optimizer.param_groups) - 1}. Got {sorted(left_out)} instead."
            )
        for number, group in enumerate(optimizer.param_groups):
            rate_here = 1.0 if number in left_out else rate
            done = group.get("sampling_step", 0)
            group.update(self._settings, sampling_rate=rate_here, sampling_step=done)
        self._restore: list[tuple[Tensor, Tensor]] = []
        self._after: list[After] = []
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    @staticmethod
    def _check(optimizer: Optimizer, mode: Mode, in_place: bool) -> None:
        if isinstance(optimizer, StochGradAdam) or sampler_of(optimizer) is not None:
            raise InputError(
                f"sample_gradients found that this {type(optimizer).__name__} samples its gradients already. "
                "Change the 'sampling_rate' of its groups, or remove the sampler that is there."
            )
        if in_place and mode not in ("gradient", "lazy"):
            raise InputError(f"The mode {mode!r} of sample_gradients needs whole gradients. Leave 'in_place' out.")

    def remove(self) -> None:
        """Leave the optimizer as it was before."""
        for handle in self._handles:
            handle.remove()
        for group in self.optimizer.param_groups:
            for key in self._settings:
                group.pop(key, None)

    def __enter__(self) -> GradientSampler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    # The two hooks

    def _before_step(
        self, _: Optimizer, args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Count the step and sample; a closure is wrapped, for it makes the gradients only when it is called."""
        for group in self.optimizer.param_groups:
            for key, value in self._settings.items():
                group.setdefault(key, value)  # of a group that was added since, or loaded from elsewhere
            group["sampling_step"] += 1
        self._restore, self._after = [], []
        closure = args[1] if len(args) > 1 else keywords.get("closure")
        if closure is None:
            self._begin()
            return None
        wrapped = self._wrapped(closure)
        if len(args) > 1:
            return (args[0], wrapped, *args[2:]), keywords
        return args, {**keywords, "closure": wrapped}

    def _wrapped(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def evaluate() -> Any:
            self._put_back()
            with torch.enable_grad():
                loss = closure()
            self._begin()
            return loss

        return evaluate

    @torch.no_grad()
    def _begin(self) -> None:
        first = bases(self.optimizer.param_groups)
        remembered = {after.parameter for after in self._after}
        for number, group in enumerate(self.optimizer.param_groups):
            rate = check_rate(group["sampling_rate"], f"parameter group {number}")
            draw = Draw(group["seed"], group["sampling_step"], rate)
            parameters = [p for p in group["params"] if p.grad is not None]
            for p in parameters:
                check_gradient(p, p.grad, "sample_gradients")
            if rate == 1:
                continue
            places = [place(p, first[p], self.granularity) for p in parameters]
            if self.mode in ("gradient", "lazy"):
                self._sample(parameters, places, draw)
            for p, where in zip(parameters, places, strict=True):
                if self.mode != "gradient" and p not in remembered:
                    self._after.append(self._remembered(group, p, where, draw))

    def _sample(self, parameters: list[Tensor], places: list[Place], draw: Draw) -> None:
        gradients: list[Any] = [p.grad for p in parameters]
        scale = 1 / draw.rate if self.rescale else 1.0
        found = sample(gradients, places, draw, like=parameters, scale=scale, in_place=self.in_place)
        for p, gradient, phi in zip(parameters, gradients, found, strict=True):
            if not self.in_place:
                self._restore.append((p, gradient))
            p.grad = phi

    def _remembered(self, group: dict[str, Any], p: Tensor, where: Place, draw: Draw) -> After:
        state = self.optimizer.state.get(p, {})
        if self.mode == "update":
            return Update(p, where, draw, 1 / draw.rate if self.rescale else 1.0)
        if self.mode == "lazy":
            return Lazy(p, where, draw, group, state, self.optimizer)
        return Aligned(p, where, draw, self.granularity)

    def _put_back(self) -> None:
        for p, gradient in self._restore:
            p.grad = gradient
        self._restore = []

    @torch.no_grad()
    def _after_step(self, *_: Any) -> None:
        self._put_back()
        for after in self._after:
            after.step(self.optimizer.state[after.parameter])
        self._after = []
