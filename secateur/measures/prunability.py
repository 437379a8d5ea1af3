"""How well a trained model takes one-shot magnitude pruning, and what about its weights says so.

One-shot: the smallest `round(P n)` of `n` weights are set to zero at once and nothing is trained afterwards, as in
V.-D. Yun, "Robust Neural Pruning with Gradient Sampling Optimization for Residual Neural Networks" (arXiv 2312.16020).
The threshold is one for all layers ("global"), or each layer loses the same share ("layer"). Batch norm estimated anew
after pruning often matters more than how the model was trained, so both numbers are given.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.graph.elements import Patterns, elements
from secateur.measures.classification import accuracy
from secateur.training.batch_norm import reestimate_batch_norm
from secateur.training.precision import resolve_channels_last

Scope = Literal["global", "layer"]
SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Histogram:
    """`counts[i]` values lie between `edges[i]` and `edges[i + 1]`."""

    edges: list[float]
    counts: list[int]


@dataclass(frozen=True)
class Weights:
    """What a set of weights looks like.

    `e50` is the share of the squared norm that the smallest half holds: 0.071 if Gaussian, 0.033 if Laplace, 0.125 if
    uniform; less means more prunable. `kurtosis` is the fourth standardised moment (Gaussian: 3). `hoyer` is
    `(sum |w|)^2 / sum w^2 / n`, the share of weights that count (Gaussian: 0.64). `variance` has no correction. Weights
    that are all zero have an `e50` and `hoyer` of 0; where the variance is 0, the kurtosis is too.
    """

    name: str
    number: int
    mean: float
    mean_size: float
    variance: float
    kurtosis: float
    hoyer: float
    e50: float
    histogram: Histogram


@dataclass(frozen=True)
class Point:
    """Accuracy and loss with `zeros` of the weights zero, which held `energy` of the squared norm."""

    scope: Scope
    reestimated: bool
    sparsity: float
    zeros: int
    energy: float
    accuracy: float
    loss: float


@dataclass(frozen=True)
class Prunability:
    """The answer of `prunability`.

    `direction` holds (share of the way, loss) from the dense model to the one whose smallest half is zero, all layers
    together, batch norm as it was.
    """

    accuracy: float
    loss: float
    weights: Weights
    layers: list[Weights]
    curve: list[Point]
    direction: list[tuple[float, float]]

    def at(self, sparsity: float, *, scope: Scope = "global", reestimated: bool = False) -> Point:
        """The point of the curve at one sparsity. Raises `InputError` if it was not measured."""
        for point in self.curve:
            if (point.scope, point.reestimated) == (scope, reestimated) and math.isclose(point.sparsity, sparsity):
                return point
        raise InputError(f"Prunability was not measured at sparsity {sparsity}, {scope}, reestimated={reestimated}.")

    def as_dict(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers, for JSON."""
        return asdict(self)


@torch.no_grad()
def prunability(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    train: Iterable[Any] | None = None,
    sparsities: Sequence[float] = SPARSITIES,
    scopes: Sequence[Scope] = ("global", "layer"),
    batches: int = 50,
    line: int = 11,
    bins: int = 61,
    include: Patterns | None = None,
    exclude: Patterns = (),
) -> Prunability:
    """Accuracy over sparsity, and the shape of the weights, of a trained classifier, which is left as it is.

    `loader` gives the (inputs, labels) that accuracy is measured on. `train` gives those that batch norm is estimated
    on anew, at most `batches` of them; without it, or without batch norm, there are no such points. `line` is the
    number of losses along the pruning direction, 0 for none. Weights are those of `secateur.elements`: of convolutions,
    linear layers, embeddings; no biases and no norms; `include` and `exclude` choose among them. Of `n` weights exactly
    `round(sparsity n)` are zeroed, ties in their order.

    Raises `InputError` for sparsities outside [0, 1], unknown scopes, or weights that are not finite.

    >>> prunability(model, data.validation, train=data.train).at(0.5, reestimated=True).accuracy
    """
    _check(sparsities, scopes, line, bins)
    pruned = copy.deepcopy(model)
    if resolve_channels_last("auto", pruned):
        pruned = pruned.to(memory_format=torch.channels_last)
    tensors = {
        group.name: pruned.get_parameter(group.name) for group in elements(pruned, include=include, exclude=exclude)
    }
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"The weights must be finite to be measured. '{name}' holds infinities or NaN.")
    dense = accuracy(pruned, loader)
    ranks = {scope: _ranking(tensors, scope) for scope in {*scopes, *(("global",) if line else ())}}
    curve = [
        point
        for scope in scopes
        for sparsity in sparsities
        for point in _points(pruned, tensors, ranks[scope], scope, sparsity, loader, train, batches)
    ]
    every = torch.cat([t.detach().flatten() for t in tensors.values()])
    return Prunability(
        accuracy=dense.value,
        loss=dense.loss,
        weights=describe(every, "all", bins=bins),
        layers=[describe(t, name, bins=bins) for name, t in tensors.items()],
        curve=curve,
        direction=list(_direction(pruned, tensors, ranks["global"], line, loader)) if line else [],
    )


def describe(weight: Tensor, name: str = "", *, bins: int = 61) -> Weights:
    """The statistics of a tensor of weights; the histogram is symmetric about zero."""
    flat = weight.detach().flatten().double().cpu()
    squares = flat.square()
    total = float(squares.sum())
    mean, variance = float(flat.mean()), float(flat.var(correction=0))
    smallest = squares.sort().values[: round(len(flat) / 2)]
    bound = float(flat.abs().max()) or 1.0
    counts = torch.histc(flat, bins, -bound, bound)
    return Weights(
        name=name,
        number=len(flat),
        mean=mean,
        mean_size=float(flat.abs().mean()),
        variance=variance,
        kurtosis=float((flat - mean).pow(4).mean()) / variance**2 if variance > 0 else 0.0,
        hoyer=float(flat.abs().sum()) ** 2 / total / len(flat) if total > 0 else 0.0,
        e50=float(smallest.sum()) / total if total > 0 else 0.0,
        histogram=Histogram(torch.linspace(-bound, bound, bins + 1).tolist(), [int(n) for n in counts]),
    )


def _ranking(tensors: Mapping[str, Tensor], scope: Scope) -> list[tuple[list[str], Tensor]]:
    """The sets that share a threshold: names of their weights, and their entries from the smallest to the largest."""
    names = [list(tensors)] if scope == "global" else [[name] for name in tensors]
    sizes = [torch.cat([tensors[name].detach().abs().flatten() for name in some]) for some in names]
    return [(some, size.argsort(stable=True)) for some, size in zip(names, sizes, strict=True)]


@contextmanager
def _shrunk(
    tensors: Mapping[str, Tensor], ranks: list[tuple[list[str], Tensor]], sparsity: float, factor: float = 0.0
) -> Iterator[tuple[int, float]]:
    """A block in which the smallest weights are multiplied by `factor`: their number, and their share of the energy."""
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    zeros = 0
    for names, order in ranks:
        marks = torch.zeros_like(order, dtype=torch.bool)
        marks[order[: round(sparsity * len(order))]] = True
        zeros += int(marks.sum())
        parts = marks.split([tensors[name].numel() for name in names])
        for name, part in zip(names, parts, strict=True):
            tensor = tensors[name]
            tensor.copy_(torch.where(part.view(tensor.shape), tensor * factor, tensor))
    whole = sum(float(t.double().square().sum()) for t in before.values())
    lost = sum(float((before[name].double() - t).square().sum()) for name, t in tensors.items())
    try:
        yield zeros, lost / whole if whole else 0.0
    finally:
        for name, tensor in tensors.items():
            tensor.copy_(before[name])


def _points(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    ranks: list[tuple[list[str], Tensor]],
    scope: Scope,
    sparsity: float,
    loader: Iterable[Any],
    train: Iterable[Any] | None,
    batches: int,
) -> Iterator[Point]:
    """Accuracy right after pruning, and after batch norm is estimated anew, if it can be."""
    with _shrunk(tensors, ranks, sparsity) as (zeros, energy):
        found = accuracy(model, loader)
        yield Point(scope, False, sparsity, zeros, energy, found.value, found.loss)
        if train is None:
            return
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        if reestimate_batch_norm(model, train, batches):
            found = accuracy(model, loader)
            yield Point(scope, True, sparsity, zeros, energy, found.value, found.loss)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])


def _direction(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    ranks: list[tuple[list[str], Tensor]],
    line: int,
    loader: Iterable[Any],
) -> Iterator[tuple[float, float]]:
    for share in torch.linspace(0, 1, line, dtype=torch.float64).tolist():
        with _shrunk(tensors, ranks, 0.5, 1 - share):
            yield share, accuracy(model, loader).loss


def _check(sparsities: Sequence[float], scopes: Sequence[Any], line: int, bins: int) -> None:
    for sparsity in sparsities:
        if not 0.0 <= sparsity <= 1.0:
            raise InputError(f"The 'sparsities' of prunability must be in [0, 1]. Got {sparsity!r} instead.")
    for scope in scopes:
        if scope not in ("global", "layer"):
            raise InputError(f'The \'scopes\' of prunability must be "global" or "layer". Got {scope!r} instead.')
    for name, value, low in (("line", line, 0), ("bins", bins, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise InputError(
                f"The '{name}' of prunability must be an integer of at least {low}. Got {value!r} instead."
            )
