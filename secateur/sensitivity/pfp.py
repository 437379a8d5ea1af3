"""PFP: what channels contribute to the sums that read them, seen on a few examples.

L. Liebenwein, C. Baykal, H. Lang, D. Feldman & D. Rus, Provable Filter Pruning for Efficient Neural Networks (ICLR
2020, arXiv 1911.07412); as run in Lost in Pruning (MLSys 2021, arXiv 2103.03014).

    s_j = max over x in S, neurons i and patches p of  g_ij,p(x)

is the sensitivity of input channel j of a layer; a unit's is the largest over all layers that read it. Numerators can
be read in two ways: `"unit"` takes what all weights that read the unit contribute together, `"tap"` the largest of
single weights. The first is the default: what leaves is the whole unit, and the bound speaks of a sum over units. The
code that the published numbers come from takes the second. For a channel that one weight a neuron reads they are the
same.

How many channels stay follows from one relative error `eps`, the same for all layers. With
`S = 2 C ln(8 (P + 1) kappa / delta) sum_j s_j`,

    draws(eps) = ceil(K (6 + 2 eps) S / eps^2),   K = 3          kept(eps) = ceil(E[distinct channels of so many draws])

- deterministic (the PFP of Lost in Pruning): the channels of largest `s_j` stay, as they are
- random: channels are drawn with `p_j = s_j / sum s`, and what reads them is multiplied by `c_j / (N p_j)`
- partial: channels with `p_j >= 1 / N` stay surely, the rest is drawn from the others

Differences from the paper's code: channels are removed, not zeroed, together with all that is coupled to them; the
budget is met by `plan` with its rounding and its minimum; the number of distinct channels is exact (`drawing.py`).
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
from secateur.graph.units import Group, Groups, Member
from secateur.sensitivity.contributions import channel_contributions, peak_contributions
from secateur.sensitivity.drawing import distinct, draw, draws_for
from secateur.sensitivity.products import Examples, Product, watch
from secateur.sensitivity.samples import CONSTANT, spread

Variant = Literal["deterministic", "random", "partial"]
Numerator = Literal["unit", "tap"]

WIDEST = 150.0
"""Relative errors from 10^-150, where all channels stay, to 10^150, where one of each group does."""


def pfp(
    groups: Groups,
    examples: Examples,
    *,
    variant: Variant = "deterministic",
    numerator: Numerator = "unit",
    samples: int | None = None,
    failure: float = 1e-16,
    seed: int = 0,
) -> Scores:
    """The sensitivity of every unit: the largest share it had, over examples, of a sum that reads it.

    `groups` are channels and heads; the other parameters are as in `sipp`. The scores bring the paper's allocation:
    plan with `allocation="own"`, which the random and the partial variant need, since it draws the units and rescales
    what reads them. A group that no product reads scores infinity, so a plan keeps it whole.

    >>> plan(groups, pfp(groups, data.validation), "50% macs", allocation="own")
    """
    for name, value, allowed in (("variant", variant, Variant), ("numerator", numerator, Numerator)):
        if value not in get_args(allowed):
            choice = ", ".join(get_args(allowed))
            raise InputError(f"The '{name}' parameter of pfp must be one of {choice}. Got {value!r} instead.")
    if groups.kind != "slices":
        raise InputError(f"The 'groups' of pfp must be channels and heads. Got {groups.kind} instead; use sipp.")
    readers = {m.name: groups.tensor(m.name) for g in groups for m in g.consumers if not m.buffer}
    seen = Channels(groups, numerator)
    watched = watch(groups.model, readers, examples, seen.visit, samples=samples, failure=failure)
    if not seen.found:
        raise InputError("The pfp criterion found no product with a weight that reads a unit when the model ran.")
    values = {g.name: torch.full((g.units,), torch.inf) for g in groups} | seen.found
    own = Errors(
        {name: found.double().cpu().numpy() for name, found in seen.found.items()},
        {name: spread(*seen.widest[name], failure) for name in seen.found},
        variant,
        seed,
    )
    return Scores(values, f"pfp(variant={variant}, numerator={numerator}, {watched})", own=own)


class Channels:
    """The largest contributions of units to the products that read them: `found`, by group, with P and kappa."""

    def __init__(self, groups: Groups, numerator: Numerator) -> None:
        self.numerator = numerator
        self.found: dict[str, Tensor] = {}
        self.widest: dict[str, tuple[int, int]] = {}
        self._readers: dict[str, list[tuple[Group, Member]]] = {}
        for group in groups:
            for member in group.consumers:
                self._readers.setdefault(member.name, []).append((group, member))
        self._labels: dict[tuple[str, str, int], Tensor | None] = {}

    def visit(self, product: Product) -> None:
        """Take in what one product shows."""
        peaks: Tensor | None = None
        for group, member in self._readers[product.name]:
            labels = self._columns(group, member, product)
            if labels is None:
                continue
            if self.numerator == "unit":
                found = channel_contributions(product, labels, group.units)
            else:
                peaks = peak_contributions(product) if peaks is None else peaks
                found = peaks.new_zeros(group.units)
                owned = labels >= 0
                found.scatter_reduce_(0, labels[owned], peaks.amax(1)[owned], "amax")
            before = self.found.get(group.name)
            self.found[group.name] = found if before is None else torch.maximum(before, found)
            pair = product.inputs.shape[-1], product.taps
            widest = self.widest.get(group.name, pair)
            self.widest[group.name] = max(widest, pair, key=lambda one: (one[0] + 1) * one[1])

    def _columns(self, group: Group, member: Member, product: Product) -> Tensor | None:
        """The unit of every column, `[G, J]`; None where the weight's columns do not read units of the group."""
        place = group.name, product.name, product.entries.data_ptr()
        if place not in self._labels:
            units = member.expand(torch.arange(group.units), fill=-1)
            each = units.expand(member.shape).reshape(-1).to(product.entries.device)[product.entries]
            alike = bool((each == each[:, :1]).all()) and bool((each >= 0).any())
            self._labels[place] = each[:, 0] if alike else None
        return self._labels[place]


@dataclass(eq=False)
class Errors:
    """The line of allocations of equal relative errors, and the units that stay at one of them.

    `scores`: sensitivities, by group; `spreads`: what their sum is multiplied by.
    """

    scores: dict[str, NDArray[np.float64]] = field(repr=False)
    spreads: dict[str, float] = field(repr=False)
    variant: Variant = "deterministic"
    seed: int = 0
    positions: int = 1 << 20

    def __post_init__(self) -> None:
        self.shares = {n: s / s.sum() if s.sum() > 0 else s for n, s in self.scores.items()}
        self._last: tuple[int, dict[str, float]] = (-1, {})

    @property
    def rescales(self) -> bool:
        """Whether survivors are multiplied by factors."""
        return self.variant != "deterministic"

    def __str__(self) -> str:
        return "equal relative errors"

    def draws(self, name: str, error: float) -> float:
        """How many draws a relative error asks for: `K (6 + 2 eps) S / eps^2`, rounded up where that can matter."""
        total = self.spreads[name] * float(self.scores[name].sum())
        many = float(CONSTANT * (6 + 2 * error) * (total / error) / error)
        return float(np.ceil(many)) if many < 2**53 else many

    def kept(self, name: str, error: float) -> int:
        """How many channels are to be expected of so many draws."""
        found = distinct(self.shares[name], self.draws(name, error))
        return min(len(self.shares[name]), max(1, int(np.ceil(round(found, 9)))))

    def wanted(self, position: int) -> dict[str, float]:
        """How many units each group keeps at one relative error, which falls by the same factor every step."""
        if self._last[0] != position:
            error = 10 ** (WIDEST * (1 - 2 * position / self.positions))
            counts = {name: float(self.kept(name, error)) for name in self.scores}
            if position in (0, self.positions):
                counts = {name: float(len(s)) if position else 0.0 for name, s in self.scores.items()}
            self._last = position, counts
        return self._last[1]

    def priority(self, name: str, count: int, position: int) -> float:
        """By how much of its units a group is short of what the error gives it."""
        return (self.wanted(position)[name] - count) / len(self.scores[name])

    def units(self, name: str, count: int) -> tuple[Tensor, Tensor | None]:
        """The units that stay when `count` of one group do, and their factors."""
        scores = self.scores[name]
        if count >= len(scores):
            return torch.arange(len(scores)), None
        order = np.argsort(-scores, kind="stable")
        live = int((scores > 0).sum())
        if not self.rescales or count >= live:
            where = np.sort(order[:count])
            return torch.from_numpy(where), torch.ones(count, dtype=torch.float64) if self.rescales else None
        kept, factors = self._drawn(name, count, order)
        where = np.flatnonzero(kept)
        return torch.from_numpy(where), torch.from_numpy(factors[where])

    def _drawn(self, name: str, count: int, order: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        rng = np.random.default_rng([self.seed, crc32(name.encode())])
        weights, sure = self.scores[name].copy(), order[:0]
        if self.variant == "partial":
            least = 1 / draws_for(self.shares[name], count)
            sure = order[: min(count, int((self.shares[name] >= least).sum()))]
            weights[sure] = 0.0
        rows = np.zeros(len(weights), dtype=np.int64)
        kept, factors = draw(weights, rows, np.array([count - len(sure)]), rng)
        kept[sure], factors[sure] = True, 1.0
        return kept, factors
