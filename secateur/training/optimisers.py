"""Building the optimizer, keeping its state laid out as its parameters are, and carrying it over to a cut model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from secateur.errors import InputError, TrainingError
from secateur.training.sharding import is_shard

OptimizerFactory = Callable[..., Optimizer]
_FORMS = {"fused", "foreach", "differentiable", "capturable"}
_PLAIN = "plain"  # marks the group of biases and norm parameters that weight decay leaves alone


def parameter_groups(model: nn.Module, added: Sequence[dict[str, Any]], decay_norm: bool) -> list[dict[str, Any]]:
    """The trainable parameters of the model as groups for an optimizer, followed by the groups of the methods.

    With `decay_norm` False, parameters of one dimension (biases, norm weights) are a group without weight decay.
    """
    taken = {id(parameter) for group in added for parameter in group["params"]}
    own = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    if not own and not taken:
        raise TrainingError(
            f"The model must have a parameter to train. {type(model).__name__} has none that requires a gradient."
        )
    if decay_norm:
        return [{"params": own}, *added]
    decayed = {"params": [p for p in own if p.dim() > 1]}
    plain = {"params": [p for p in own if p.dim() <= 1], "weight_decay": 0.0, "role": _PLAIN}
    return [group for group in (decayed, plain) if group["params"]] + list(added)


def build_optimizer(factory: OptimizerFactory, groups: list[dict[str, Any]]) -> Optimizer:
    """The optimizer that `factory` makes of the groups, with `initial_lr` noted in each.

    Where the caller did not choose a form, it is the fastest: the fused kernels of SGD, Adam, AdamW and of optimizers
    whose class says `accepts_fused = True`, for parameters they can walk through, else the kernels over lists of
    tensors ("foreach"), where the optimizer has them.
    """
    if isinstance(factory, Optimizer) or not callable(factory):
        raise InputError(
            "The 'optimizer' parameter of fit must be a function of parameters, e.g. partial(SGD, lr=0.1). "
            f"Got {type(factory).__name__} instead."
        )
    form = _fastest_form(factory, groups)
    optimizer = factory(groups, **form)
    if not isinstance(optimizer, Optimizer):
        raise InputError(f"The 'optimizer' of fit must make a torch Optimizer. Got {type(optimizer).__name__} instead.")
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    if "fused" in form:
        optimizer.register_step_pre_hook(lambda chosen, *_: ready_for_fused(chosen))
    return optimizer


def _fastest_form(factory: Any, groups: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """The keyword that asks for the fastest kernels, or none if the caller chose or the optimizer has no choice."""
    base, keywords = (factory.func, factory.keywords) if isinstance(factory, partial) else (factory, {})
    if not isinstance(base, type) or _FORMS & set(keywords):
        return {}
    dampened = any(options.get("dampening") for options in (keywords, *groups))
    parameters = [parameter for group in groups for parameter in group["params"]]
    fusable = base in (SGD, Adam, AdamW) or getattr(base, "accepts_fused", False)
    if fusable and not dampened and all(_has_fused_kernel(p) for p in parameters):
        return {"fused": True}
    return {"foreach": True} if "foreach" in inspect.signature(base).parameters else {}


def _has_fused_kernel(parameter: Tensor) -> bool:
    """Whether the fused kernels take the parameter: a float on CPU or GPU whose memory has no gaps."""
    dense = parameter.is_contiguous() or parameter.is_contiguous(memory_format=torch.channels_last)
    known = parameter.device.type in ("cpu", "cuda") and not is_shard(parameter)
    return known and parameter.is_floating_point() and dense


@torch.no_grad()
def ready_for_fused(optimizer: Optimizer) -> None:
    """Make gradients and state fit for the fused kernels, which would else go wrong without a word or fail.

    They walk through memory and never look at strides: a gradient of another layout would update the wrong weights. SGD
    asks for the momentum of all parameters or of none: one that is fresh from a cut starts with a momentum of zero,
    which without dampening is the same.
    """
    for group in optimizer.param_groups:
        moved = [parameter for parameter in group["params"] if parameter.grad is not None]
        align_gradients(moved)
        if group.get("momentum") and "dampening" in group:
            fresh = [p for p in moved if optimizer.state[p].get("momentum_buffer") is None]
            for parameter in fresh if len(fresh) < len(moved) else ():
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)


def align_gradients(parameters: Iterable[Tensor]) -> None:
    """Lay every gradient out as its parameter is."""
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
            parameter.grad = _as(parameter, parameter.grad)


def align_state(optimizer: Optimizer) -> None:
    """Lay the optimizer's state (momentum and the like) out as the parameters are, as `align_gradients` does."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = _as(parameter, value)


def _as(parameter: Tensor, value: Tensor) -> Tensor:
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def carry_over(optimizer: Optimizer, old: nn.Module, new: nn.Module, names: Mapping[str, str]) -> None:
    """Exchange the parameters of `old` for those of `new` inside the optimizer, in place.

    `names` maps a parameter's name in `new` to its name in `old` where they differ. State moves along where the shapes
    agree and starts afresh where they do not; parameters that are in neither model (a method's own) stay.
    """
    before = {id(parameter): name for name, parameter in old.named_parameters()}
    after = {names.get(name, name): p for name, p in new.named_parameters() if p.requires_grad}
    for group in optimizer.param_groups:
        parameters: list[Tensor] = []
        for parameter in group["params"]:
            name = before.get(id(parameter))
            successor = parameter if name is None else after.pop(name, None)
            state = optimizer.state.pop(parameter, None)
            if successor is not None:
                parameters.append(successor)
                if state is not None and successor.shape == parameter.shape:
                    optimizer.state[successor] = state
        group["params"] = parameters
    plain = next((group for group in optimizer.param_groups if group.get("role") == _PLAIN), optimizer.param_groups[0])
    for parameter in after.values():
        (plain if parameter.dim() <= 1 else optimizer.param_groups[0])["params"].append(parameter)
    align_state(optimizer)


def loose_parameters(optimizer: Optimizer, model: nn.Module) -> list[Tensor]:
    """The optimizer's parameters that are not in the model: those that methods brought and hold themselves."""
    own = {id(parameter) for parameter in model.parameters()}
    return [p for group in optimizer.param_groups for p in group["params"] if id(p) not in own]


def missing_parameters(optimizer: Optimizer, model: nn.Module) -> list[str]:
    """Names of the model's trainable parameters that the optimizer does not move."""
    moved = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in moved]
