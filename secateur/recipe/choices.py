"""What a recipe can choose by name, and the options that each choice takes.

A table maps names to functions; a choice's options are the keywords of its function, less those that a run fills in or
that the recipe has keys of their own for. One more entry in a table is one more choice.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from secateur import criteria
from secateur.errors import InputError
from secateur.methods import (
    CRIC,
    DHSPG,
    HESSO,
    ContinuousSparsification,
    DifferentiableSparsification,
    DynamicSparse,
    EdgePopup,
    GateDecorator,
    GradualMagnitude,
    GroupSparse,
    Gumbel,
    HardConcrete,
    Iterative,
    ProbMask,
    Pruner,
    SoftThreshold,
    Spred,
)
from secateur.optim import (
    SAM,
    VAR,
    CrAM,
    Factorised,
    Hoyer,
    PNormDecay,
    Powerprop,
    StochGradAdam,
    StochGradAdamW,
    sampled_adamw,
    sampled_sgd,
)
from secateur.removal import Adaptive, Decay, Fading, Multiplicative
from secateur.sensitivity import pfp, sipp

CRITERIA: dict[str, Callable[..., criteria.Scores]] = {
    "magnitude": criteria.magnitude,
    "filter_norm": criteria.filter_norm,
    "norm_scale": criteria.norm_scale,
    "taylor": criteria.taylor,
    "snip": criteria.snip,
    "sipp": sipp,
    "pfp": pfp,
    "random": criteria.random,
}
"""What `pruning.criterion` can name."""

SET_BY_RUN = ("groups", "batches", "examples", "loss", "seed")
"""Parameters of criteria that a run fills in by itself."""

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "stochgradadam": StochGradAdam,
    "stochgradadamw": StochGradAdamW,
    "sampledsgd": sampled_sgd,
    "sampledadamw": sampled_adamw,
}
"""What `training.optimizer` can name."""

SET_BY_KEYS = ("params", "lr", "momentum", "nesterov", "weight_decay")
"""Parameters of optimizers for which a recipe has keys of their own, where the optimizer has them."""

PREPARING: dict[str, Callable[..., Any]] = {
    "sam": SAM,
    "cram": CrAM,
    "var": VAR,
    "hoyer": Hoyer,
    "p_norm_decay": PNormDecay,
    "powerprop": Powerprop,
    "factorised": Factorised,
}
"""What `training.prepare` can name: methods that make a network prunable and remove nothing."""

METHODS: dict[str, type[Pruner]] = {
    "iterative": Iterative,
    "group_sparse": GroupSparse,
    "dhspg": DHSPG,
    "hesso": HESSO,
    "cric": CRIC,
    "gate_decorator": GateDecorator,
    "gumbel": Gumbel,
    "gradual_magnitude": GradualMagnitude,
    "hard_concrete": HardConcrete,
    "continuous_sparsification": ContinuousSparsification,
    "str": SoftThreshold,
    "dst": DynamicSparse,
    "spred": Spred,
    "differentiable_sparsification": DifferentiableSparsification,
    "prob_mask": ProbMask,
    "edge_popup": EdgePopup,
}
"""What `pruning.method.name` can name."""

SET_BY_PRUNING = ("groups", "budget", "removal", "planning", "criterion")
"""Parameters of methods that a run fills in from the other keys of `pruning`."""

IMMEDIATE = "immediate"
FADING: dict[str, type[Fading]] = {"decay": Decay, "multiplicative": Multiplicative, "adaptive": Adaptive}
"""What `pruning.method.removal.name` can name."""

SET_BY_REMOVAL = ("steps", "rectify", "side")
"""Parameters of removals for which a recipe has keys of their own."""


def looks_at_data(criterion: str) -> bool:
    """Whether a criterion of the table is made from data, and not from weights alone."""
    return not {"batches", "examples"}.isdisjoint(parameters(CRITERIA[criterion]))


def parameters(function: Callable[..., Any]) -> list[str]:
    """The names of a function's parameters."""
    return list(inspect.signature(function).parameters)


def require_known(name: str, table: Iterable[str]) -> str:
    """`name` itself. Raises `InputError` with the nearest name if the table does not have it."""
    known = list(table)
    if name not in known:
        raise InputError(f"must be one of {', '.join(known)}. Got {name!r} instead.{nearest(name, known)}")
    return name


def require_options(
    name: str, function: Callable[..., Any], options: Mapping[str, Any], taken_up: Iterable[str]
) -> None:
    """Raise `InputError` for an option that the function does not take; parameters in `taken_up` are no options."""
    takes = [parameter for parameter in parameters(function) if parameter not in taken_up]
    for option in options:
        if option not in takes:
            hint = nearest(option, takes) or f" It takes {', '.join(takes) or 'none'}."
            raise InputError(f"{name} has no option '{option}'.{hint}")


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the name most like `name`, with a space before it; empty if none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""
