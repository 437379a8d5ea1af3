"""SiPP: what single weights contribute to the sums they are part of, seen on a few examples.

C. Baykal, L. Liebenwein, I. Gilitschenski, D. Feldman & D. Rus, SiPPing Neural Networks: Sensitivity-informed Provable
Pruning of Neural Networks (arXiv 1910.05422); as run in L. Liebenwein, C. Baykal, B. Carter, D. Gifford & D. Rus, Lost
in Pruning: The Effects of Pruning Neural Networks beyond Test Accuracy (MLSys 2021, arXiv 2103.03014).

    s_ij = max over x in S of  mean over patches of g_ij,p(x)      deterministic
    s_ij = max over x in S of  max over patches of g_ij,p(x)       random, hybrid

- deterministic: the largest sensitivities of the whole network stay, as they are
- random: `neurons.py` says how many weights each neuron keeps of each sign; these are drawn with probabilities in
  proportion to `s_ij` and multiplied by `c / (N p_ij)`, so that sums are right on average
- hybrid: the same counts; a neuron's largest stay as they are where `C sum of the s_ij that leave` is no more than the
  bound on the random error

Differences from the paper's code: layers are found where the model runs, grouped convolutions and attention among
them; the number of distinct weights is exact (`drawing.py`); whole numbers come from largest remainders, not from
rounding up, so a budget is met; weights that contributed to nothing are never drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.criteria import Scores
from secateur.errors import InputError
from secateur.graph.units import Groups
from secateur.sensitivity.contributions import Contribution, mean_contributions, peak_contributions
from secateur.sensitivity.drawing import draw
from secateur.sensitivity.neurons import Floats, Ints, Neurons, random_error
from secateur.sensitivity.products import Examples, Product, watch
from secateur.sensitivity.samples import CONSTANT, spread

Variant = Literal["deterministic", "random", "hybrid"]

POSITIONS = 1 << 20
"""Steps of the line of allocations, each the same factor of the slope."""


def sipp(
    groups: Groups,
    examples: Examples,
    *,
    variant: Variant = "deterministic",
    samples: int | None = None,
    failure: float = 1e-16,
    seed: int = 0,
) -> Sensitivities:
    """The sensitivity of every weight: the largest share it had, over examples, of a sum that it is part of.

    `groups` are single weights or blocks, which get the sum of theirs; `examples` yields `(inputs, targets)`, of which
    the first `samples` inputs are looked at, or as many as the paper's formula asks for with its `failure` probability
    (183 for ResNet-20 on CIFAR-10). Parameters that nothing multiplies by score infinity, so a plan keeps them whole.

    The random and the hybrid variant bring an allocation, which chooses weights and rescales them: plan with
    `allocation="own"`. They take single weights alone; `seed` decides their draws. Raises `InputError` for groups of
    slices, no examples, and a model that multiplies by none of its weights.

    >>> plan(elements(model), sipp(elements(model), data.validation), "10% weights")
    """
    if variant not in get_args(Variant):
        choice = ", ".join(get_args(Variant))
        raise InputError(f"The 'variant' parameter of sipp must be one of {choice}. Got {variant!r} instead.")
    wanted = "elements" if variant != "deterministic" else groups.kind
    if groups.kind == "slices" or groups.kind != wanted:
        what = "groups of single weights" if variant != "deterministic" else "groups of single weights or blocks"
        raise InputError(f"The 'groups' of sipp, {variant}, must be {what}. Got {groups.kind} instead.")
    tensors = {member.name: groups.tensor(member.name) for g in groups for member in g.members}
    contribution = mean_contributions if variant == "deterministic" else peak_contributions
    seen = Weights(tensors, contribution)
    watched = watch(groups.model, tensors, examples, seen.visit, samples=samples, failure=failure)
    if not seen.layers:
        raise InputError("The sipp criterion found no product with a weight of the groups when the model ran.")
    values = {}
    for g in groups:
        parts = [m.reduce(seen.layers[m.name].sensitivity.view(m.shape)) for m in g.members if m.name in seen.layers]
        values[g.name] = torch.stack(parts).sum(0) if parts else torch.full((g.units,), torch.inf)
    label = f"sipp(variant={variant}, {watched})"
    layers = {g.name: (seen.layers[g.name], tensors[g.name]) for g in groups if g.name in seen.layers}
    own = None if variant == "deterministic" else Sampling(layers, failure, seed, hybrid=variant == "hybrid")
    return Sensitivities(values, label, own, layers=layers, variant=variant, failure=failure)


@dataclass
class Layer:
    """What was seen of one weight, flattened: sensitivities, and the neuron that each entry belongs to."""

    sensitivity: Tensor
    neuron: Tensor
    neurons: int = 0
    patches: int = 0
    taps: int = 1


class Sensitivities(Scores):
    """Scores of `sipp`, with what they were made from: what bounds ask for."""

    def __init__(
        self,
        values: dict[str, Tensor],
        criterion: str,
        own: object | None = None,
        *,
        layers: dict[str, tuple[Layer, Tensor]],
        variant: Variant,
        failure: float,
    ) -> None:
        super().__init__(values, criterion, own)
        self.layers, self.variant, self.failure = layers, variant, failure


class Weights:
    """The largest contributions of the entries of some tensors, product by product."""

    def __init__(self, tensors: dict[str, Tensor], contribution: Contribution) -> None:
        self.tensors, self.contribution = tensors, contribution
        self.layers: dict[str, Layer] = {}

    def visit(self, product: Product) -> None:
        """Take in what one product shows."""
        found = self.contribution(product)
        layer = self.layers.get(product.name)
        if layer is None:
            size, device = self.tensors[product.name].numel(), found.device
            unread = torch.full((size,), -1, device=device)
            layer = self.layers[product.name] = Layer(found.new_zeros(size), unread)
        if bool((layer.neuron[product.entries] < 0).any()):
            rows = product.weight.shape[0] * product.weight.shape[1]
            numbers = layer.neurons + torch.arange(rows, device=found.device).view(*product.weight.shape[:2], 1)
            layer.neuron[product.entries] = numbers.expand_as(product.entries)
            layer.neurons += rows
        layer.patches, layer.taps = max(layer.patches, product.inputs.shape[-1]), product.taps
        layer.sensitivity[product.entries] = torch.maximum(layer.sensitivity[product.entries], found)


@dataclass(eq=False)
class Sampling:
    """How many weights each neuron keeps, which, and what they are multiplied by."""

    layers: dict[str, tuple[Layer, Tensor]] = field(repr=False)
    failure: float = 1e-16
    seed: int = 0
    hybrid: bool = False
    positions: int = POSITIONS

    def __post_init__(self) -> None:
        self.names = list(self.layers)
        self.terms = {name: self._split(*self.layers[name]) for name in self.names}
        parts = list(self.terms.values())
        self.neurons = Neurons(
            np.concatenate([alpha for _, _, alpha, _ in parts]),
            np.concatenate([np.full(len(sizes), 2 / len(sizes)) for _, _, _, sizes in parts]),
            np.concatenate([sizes for _, _, _, sizes in parts]),
            np.repeat(np.arange(len(parts)), [len(sizes) for _, _, _, sizes in parts]),
        )
        self._last: tuple[int, dict[str, float]] = (-1, {})

    @property
    def rescales(self) -> bool:
        """Whether survivors are multiplied by factors."""
        return True

    def __str__(self) -> str:
        return "by neurons"

    def wanted(self, position: int) -> dict[str, float]:
        """How many weights each parameter keeps at one slope of the terms, from none at 0 to all at the end."""
        if self._last[0] != position:
            top, bottom = self.neurons.ends
            kept = self.neurons.kept(top + (bottom - top) * position / self.positions) * (position > 0)
            sums = np.bincount(self.neurons.group, kept, minlength=len(self.names))
            whole = position == self.positions
            sizes = [len(self.terms[name][0]) for name in self.names]
            self._last = position, dict(zip(self.names, map(float, sizes if whole else sums), strict=True))
        return self._last[1]

    def priority(self, name: str, count: int, position: int) -> float:
        """By how many weights a parameter is short of what the slope gives it."""
        return self.wanted(position)[name] - count

    def units(self, name: str, count: int) -> tuple[Tensor, Tensor | None]:
        """The weights that stay when `count` of one parameter do, and their factors."""
        strength, rows, alpha, sizes = self.terms[name]
        if count >= len(strength):
            return torch.arange(len(strength)), None
        mine = self.neurons.of(self.names.index(name))
        counts = mine.spend(min(count, int(sizes.sum())))
        rng = np.random.default_rng([self.seed, crc32(name.encode())])
        kept, factors = draw(strength, rows, counts, rng)
        if self.hybrid:
            top = _top(strength, rows, counts)
            lost = CONSTANT * np.bincount(rows, np.where(top, 0.0, strength), minlength=len(sizes))
            sure = (lost <= random_error(alpha, counts.astype(float)))[rows]
            kept, factors = np.where(sure, top, kept), np.where(sure, 1.0, factors)
        idle = np.flatnonzero(~kept)[: count - int(kept.sum())]  # what contributed to nothing fills up
        kept[idle], factors[idle] = True, 1.0
        where = np.flatnonzero(kept)
        return torch.from_numpy(where), torch.from_numpy(factors[where])

    def _split(self, layer: Layer, weight: Tensor) -> tuple[Floats, Ints, Floats, Ints]:
        """Of every entry, sensitivity and row (a neuron and a sign); of every row, alpha and its number of weights."""
        strength: Floats = layer.sensitivity.double().cpu().numpy()
        positive = (weight.detach().reshape(-1) > 0).long().cpu()
        rows: Ints = (2 * layer.neuron.cpu().clamp_min(0) + positive).numpy()
        number = 2 * max(1, layer.neurons)
        sums = np.bincount(rows, strength, minlength=number)
        alpha = np.asarray(sums * spread(layer.patches, layer.taps, self.failure), dtype=np.float64)
        return strength, rows, alpha, np.bincount(rows, strength > 0, minlength=number).astype(np.int64)


def _top(strength: Floats, rows: Ints, counts: Ints) -> NDArray[np.bool_]:
    """The `counts[r]` largest of every row, bool."""
    order = np.lexsort((-strength, rows))
    many = np.bincount(rows, minlength=len(counts))
    rank = np.empty(len(rows), dtype=np.int64)
    rank[order] = np.arange(len(rows)) - (np.cumsum(many) - many)[rows[order]]
    kept: NDArray[np.bool_] = (rank < counts[rows]) & (strength > 0)
    return kept
