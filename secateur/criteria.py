"""Criteria: one number for every unit of every group; higher means keep.

Every criterion is written over `Member.reduce` alone, so it works the same on channels, heads, single weights and
blocks. Running statistics and other buffers are never scored. A model leaves a criterion as it came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from secateur.errors import InputError
from secateur.graph.state import undisturbed
from secateur.graph.trace import normalise as call_arguments
from secateur.graph.units import Group, Groups, Member
from secateur.ranks import mean_over_ranks

Norm = Literal["l1", "l2"]
Reduction = Literal["sum", "mean", "max"]
Normalise = Literal["none", "mean", "max", "sum", "standardization", "gaussian", "lamp"]
Side = Literal["both", "producers"]
Loss = Callable[[Any, Any], Tensor]


class Scores(dict[str, Tensor]):
    """Group name -> scores of its units, float of shape `[units]`; `criterion` says what made them.

    `own` is the allocation that a method brings beside its scores, a `secateur.planning.Choice`; most bring none.
    """

    def __init__(self, values: Mapping[str, Tensor], criterion: str, own: object | None = None) -> None:
        super().__init__(values)
        self.criterion = criterion
        self.own = own

    def among(self, groups: Groups) -> Scores:
        """Those of the given groups alone."""
        return Scores({g.name: self[g.name] for g in groups}, self.criterion, self.own)


def magnitude(
    groups: Groups,
    norm: Norm = "l2",
    *,
    reduction: Reduction = "mean",
    normalise: Normalise | None = None,
    side: Side = "both",
    bias: bool = False,
) -> Scores:
    """Group magnitude: how large a unit's entries are, over every tensor that the unit lives in.

    In each tensor a unit gets the sum of its squared entries (`"l2"`) or of their absolute values (`"l1"`);
    `reduction` joins the tensors. `normalise` makes groups comparable by dividing the scores `s` of a group by a
    number of its own:

    - `"mean"`: `s / mean(s)`, what slices default to; `"max"`: `s / max(s)`; `"sum"`: `s / sum(s)`
    - `"standardization"`: `(s - min(s)) / (max(s) - min(s))`; `"gaussian"`: `(s - mean(s)) / std(s)`
    - `"lamp"`: `s_u / sum of s_v over the units v that score no less than u` (Lee et al., arXiv 2010.07611, equation 4)
    - `"none"`: raw scores, what single weights and blocks default to: the largest weights of the whole network stay

    `side="producers"` leaves out the columns that consume a unit, and `bias=True` counts biases in. Names and the
    default are those of Torch-Pruning's group importance (DepGraph, arXiv 2301.12900). Raises `InputError` for NaN or
    infinite weights.

    >>> plan(groups, magnitude(groups, "l1"), "50% macs")
    """
    _one_of("norm", "magnitude", norm, ("l1", "l2"))
    _one_of("side", "magnitude", side, ("both", "producers"))

    power, scratch = (torch.abs if norm == "l1" else torch.square), _Scratch()

    def size(member: Member) -> Tensor:
        values = _floats(groups.tensor(member.name))
        room = scratch.like(values) if groups.kind == "slices" else None  # of single weights, all is kept
        return _finite(member.reduce(power(values, out=room)), member)

    values = {g.name: _join([size(m) for m in _scored(g, side, bias)], g, reduction) for g in groups}
    how = f"reduction={reduction}, normalise={_default(normalise, groups)}, side={side}"
    return _scores(values, groups, normalise, f"magnitude(norm={norm}, {how})")


def norm_scale(groups: Groups, reduction: Reduction = "mean", normalise: Normalise = "none") -> Scores:
    """The absolute scale `|gamma|` that normalisation layers give a unit.

    The criterion of Network Slimming (Liu et al., arXiv 1708.06519), compared raw over the whole network as in the
    paper. A group that no normalisation layer scales has nothing to be judged by: its scores are infinite, so a plan
    keeps it whole. Raises `InputError` where no group is scaled.
    """
    scales = {g.name: [m for m in g.producers if _is_norm_scale(m, groups.model)] for g in groups}
    if not any(scales.values()):
        raise InputError(
            "The norm_scale criterion found no normalisation layer with a weight in any group. Use magnitude instead."
        )

    def scale(member: Member) -> Tensor:
        return _finite(member.reduce(_floats(groups.tensor(member.name)).abs()), member)

    values = {g.name: _join([scale(m) for m in scales[g.name]], g, reduction) for g in groups if scales[g.name]}
    scores = _scores(values, groups, normalise, f"norm_scale(reduction={reduction}, normalise={normalise})")
    scores.update({g.name: torch.full((g.units,), torch.inf) for g in groups if g.name not in scores})
    return scores


def taylor(
    groups: Groups,
    batches: Iterable[tuple[Any, Any]],
    loss: Loss = nn.functional.cross_entropy,
    *,
    power: Literal[1, 2] = 1,
    joint: bool = True,
    reduction: Reduction = "mean",
    normalise: Normalise | None = None,
    side: Side = "both",
    bias: bool = False,
) -> Scores:
    """First-order Taylor: how much the loss would change if a unit's entries were zero.

    With `w` a tensor and `g` the gradient of the mean loss over `batches`, a unit gets `|sum of w g|` over its entries
    in that tensor (`joint=True`: what removing all of them together does), or with `joint=False` the sum of `|w g|`;
    `power=2` squares instead of taking the absolute value, the form of Molchanov et al. (arXiv 1906.10771, equations 7
    and 8). The rest is as in `magnitude`.

    `batches` yields `(inputs, targets)`, moved to the model's device; the model runs in evaluation mode and
    `loss(output, targets)` is a mean over the batch. Parameters that do not train are scored too. Raises `InputError`
    for no batches, a loss that is not finite, or one without a gradient.

    >>> scores = taylor(groups, itertools.islice(data.train, 10))
    """
    if power not in (1, 2):
        raise InputError(f"The 'power' parameter of taylor must be 1 or 2. Got {power!r} instead.")
    _one_of("side", "taylor", side, ("both", "producers"))
    chosen = {g.name: _scored(g, side, bias) for g in groups}
    gradients = mean_gradients(groups, batches, loss, {m.name for members in chosen.values() for m in members})

    def change(member: Member) -> Tensor:
        product = _floats(groups.tensor(member.name)) * gradients[member.name]
        whole = member.reduce(product).abs() ** power if joint else member.reduce(product.abs() ** power)
        return _finite(whole, member)

    values = {g.name: _join([change(m) for m in chosen[g.name]], g, reduction) for g in groups}
    how = f"reduction={reduction}, normalise={_default(normalise, groups)}, side={side}"
    return _scores(values, groups, normalise, f"taylor(power={power}, joint={joint}, {how})")


def snip(groups: Groups, batches: Iterable[tuple[Any, Any]], loss: Loss = nn.functional.cross_entropy) -> Scores:
    """Connection sensitivity: how fast the loss changes when a unit's entries are scaled, as a share of all.

    `|w g| / sum of |w g| over all units`, with `w` the weights and `g` the gradient of the mean loss over `batches`
    (SNIP, Lee, Ajanthan & Torr, arXiv 1810.02340, equation 6). A unit of several entries gets their sum. The paper
    scores a network as it is initialised; any network can be. Errors are those of `taylor`.

    >>> sparse = masked(groups, plan(groups, snip(groups, batches), "5% weights"))
    """
    parts = taylor(groups, batches, loss, joint=False, reduction="sum", normalise="none")
    total = sum(float(values.sum()) for values in parts.values())
    return Scores({name: values / total if total > 0 else values for name, values in parts.items()}, "snip")


def filter_norm(groups: Groups, norm: Norm = "l1") -> Scores:
    """The norm of the filters that make a unit: filter thresholding (FT).

    `sum of |w|` (`"l1"`, Li et al., arXiv 1608.08710) or `sqrt(sum of w^2)` (`"l2"`, Soft Filter Pruning) over the
    rows of convolutions and linear layers that make a unit, over all of them where several layers make it; norm layers
    and what reads the unit take no part. The papers keep the same share of every layer: plan with
    `allocation="uniform"`. A group that no filter makes scores infinity.
    """
    _one_of("norm", "filter_norm", norm, ("l1", "l2"))

    def size(member: Member) -> Tensor:
        values = _floats(groups.tensor(member.name))
        return _finite(member.reduce(values.abs() if norm == "l1" else values.square()), member)

    values = {}
    for g in groups:
        parts = [size(m) for m in g.producers if not m.buffer and len(m.shape) > 1]
        total = _join(parts, g, "sum") if parts else torch.full((g.units,), torch.inf)
        values[g.name] = total if norm == "l1" else total.sqrt()
    return Scores(values, f"filter_norm(norm={norm})")


def random(groups: Groups, seed: int = 0) -> Scores:
    """Uniform numbers in [0, 1): the control that every criterion must beat; the same for one seed on any device."""
    generator = torch.Generator().manual_seed(seed)
    return Scores({g.name: torch.rand(g.units, generator=generator) for g in groups}, f"random(seed={seed})")


def shuffled(scores: Scores, seed: int = 0) -> Scores:
    """The same scores, those of each group in another order: the control that tells which units matter from how many.

    A threshold over the network keeps as many units of every group as before, but any of them (Frankle et al., arXiv
    2009.08576; Su et al., arXiv 2009.11094). Scores that are infinite, of units that must stay or leave, keep their
    place.

    >>> plan(weights, shuffled(sipp(weights, data.validation)), "5% weights")
    """
    generator, values = torch.Generator().manual_seed(seed), {}
    for name, own in scores.items():
        values[name] = own.clone()
        places = own.isfinite().nonzero().flatten()
        order = torch.randperm(len(places), generator=generator).to(own.device)
        values[name][places] = own[places[order]]
    return Scores(values, f"shuffled({scores.criterion}, seed={seed})")


def mean_gradients(
    groups: Groups, batches: Iterable[tuple[Any, Any]], loss: Loss, names: Iterable[str]
) -> dict[str, Tensor]:
    """Tensor name -> gradient of the loss, averaged over `batches`; zero where the loss does not depend on the tensor.

    Nothing of the model changes: gradients, modes, `requires_grad`, caches and random streams are as before. On several
    ranks, each with batches of its own, the means over all of them: every rank must ask, and all get the same.
    """
    tensors = {name: groups.tensor(name) for name in sorted(set(names))}
    flags = {name: tensor.requires_grad for name, tensor in tensors.items()}
    total = {name: torch.zeros_like(tensor, dtype=_floats(tensor).dtype) for name, tensor in tensors.items()}
    devices = [tensor.device for tensor in tensors.values()] or [torch.device("cpu")]
    count = 0
    with torch.random.fork_rng(sorted({d.index or 0 for d in devices if d.type == "cuda"})), torch.enable_grad():
        try:
            for tensor in tensors.values():
                tensor.requires_grad_(True)
            for count, batch in enumerate(batches, start=1):
                with undisturbed(groups.model):
                    value = _loss_of(groups.model, batch, loss, devices[0], count)
                found = torch.autograd.grad(value, list(tensors.values()), materialize_grads=True)
                for name, gradient in zip(tensors, found, strict=True):
                    total[name] += gradient
        finally:
            for name, tensor in tensors.items():
                tensor.requires_grad_(flags[name])
    if count == 0:
        raise InputError("The 'batches' parameter must yield at least one (inputs, targets) pair. Got none.")
    means = mean_over_ranks(gradient / count for gradient in total.values())
    return dict(zip(total, means, strict=True))


def _loss_of(model: nn.Module, batch: Any, loss: Loss, device: torch.device, index: int) -> Tensor:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise InputError(
            f"The 'batches' parameter must yield (inputs, targets) pairs. Got {type(batch).__name__} instead."
        )
    inputs, targets = tree_map_only(Tensor, lambda tensor: tensor.to(device), tuple(batch))
    args, kwargs = call_arguments(inputs)
    value = loss(model(*args, **kwargs), targets)
    if not torch.isfinite(value).all():
        broken = [name for name, p in model.named_parameters() if not torch.isfinite(p).all()]
        cause = f"the parameter '{broken[0]}' holds NaN or infinite weights" if broken else "all weights are finite"
        raise InputError(f"The loss of batch {index} is {value.item()} and must be finite to score by it; {cause}.")
    if not value.requires_grad:
        raise InputError("The loss has no gradient: the model's forward detaches its result or runs without gradients.")
    return value


def _scored(group: Group, side: Side, bias: bool) -> tuple[Member, ...]:
    """The members a criterion looks at; where the choice would leave none, every trained member."""
    trained = tuple(m for m in group.members if not m.buffer)
    sided = tuple(m for m in trained if side == "both" or m.role == "producer")
    return tuple(m for m in sided if bias or not m.name.endswith("bias")) or trained


def _is_norm_scale(member: Member, model: nn.Module) -> bool:
    path, _, attribute = member.name.rpartition(".")
    return not member.buffer and attribute == "weight" and "norm" in type(model.get_submodule(path)).__name__.lower()


def _floats(tensor: Tensor) -> Tensor:
    """Detached values of at least single precision; complex entries by their absolute value."""
    values = tensor.detach()
    values = values.abs() if values.is_complex() else values
    return values if values.dtype == torch.float64 else values.float()


class _Scratch:
    """Memory for results that are read once: fresh memory costs more than squaring what goes into it."""

    def __init__(self) -> None:
        self.memory = torch.empty(0)

    def like(self, tensor: Tensor) -> Tensor:
        """A contiguous tensor of that shape and kind, overwriting the one before."""
        alike = (self.memory.dtype, self.memory.device) == (tensor.dtype, tensor.device)
        if not alike or len(self.memory) < tensor.numel():
            self.memory = tensor.new_empty(tensor.numel())
        return self.memory[: tensor.numel()].view(tensor.shape)


def _finite(values: Tensor, member: Member) -> Tensor:
    if not torch.isfinite(values).all():
        raise InputError(
            f"The parameter '{member.name}' gives scores that are NaN or infinite. Its weights and their gradients "
            f"must be finite; look for a training run that diverged."
        )
    return values


def _join(parts: list[Tensor], group: Group, reduction: Reduction) -> Tensor:
    """One score a unit, from one a unit and tensor."""
    _one_of("reduction", "a criterion", reduction, ("sum", "mean", "max"))
    if len(parts) < 2:
        return parts[0] if parts else torch.zeros(group.units)
    kind = torch.float64 if any(p.dtype == torch.float64 for p in parts) else torch.float32
    table = torch.stack([p.to(parts[0].device, kind) for p in parts])
    if reduction == "max":
        return table.amax(0)
    return table.sum(0) if reduction == "sum" else table.mean(0)


def _default(normalise: Normalise | None, groups: Groups) -> Normalise:
    return normalise or ("mean" if groups.kind == "slices" else "none")


def _scores(values: Mapping[str, Tensor], groups: Groups, normalise: Normalise | None, label: str) -> Scores:
    how = _default(normalise, groups)
    _one_of("normalise", "a criterion", how, tuple(NORMALISERS))
    return Scores({name: NORMALISERS[how](value) for name, value in values.items()}, label)


def _ratio(values: Tensor, by: Tensor) -> Tensor:
    """`values / by`, and zeros where `by` is zero: a group of zeros has nothing worth keeping."""
    return values / by if by > 0 else torch.zeros_like(values)


def _lamp(values: Tensor) -> Tensor:
    ordered, order = values.sort(descending=True, stable=True)
    share = ordered / ordered.cumsum(0).clamp_min(torch.finfo(values.dtype).tiny)
    return torch.empty_like(values).scatter_(0, order, share)


NORMALISERS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda s: s,
    "mean": lambda s: _ratio(s, s.mean()),
    "max": lambda s: _ratio(s, s.max()),
    "sum": lambda s: _ratio(s, s.sum()),
    "standardization": lambda s: _ratio(s - s.min(), s.max() - s.min()),
    "gaussian": lambda s: _ratio(s - s.mean(), s.std()) if s.numel() > 1 else torch.zeros_like(s),
    "lamp": _lamp,
}


def _one_of(parameter: str, function: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        choice = ", ".join(allowed)
        raise InputError(f"The '{parameter}' parameter of {function} must be one of {choice}. Got {value!r} instead.")
