"""DHSPG: redundant units are told apart once, then pushed towards zero until they cross into another half-space.

T. Chen, L. Liang, T. Ding, Z. Zhu & I. Zharkov, OTOv2: Automatic, Generic, User-Friendly (arXiv 2303.06862), algorithm
2 (dual half-space projected gradient). With x the joint weights of a unit on the producer side (its zero-invariant
group), g the direction of the optimizer and N[.] division by the L2 norm over all units,

    partition     s = N[cos(x, g)] / 2 + N[|x| / ||x||] / 2          the highest s are redundant, once, after a warm-up
    a redundant unit that has not gone, in every step:
      penalty     x^ = x - lr g - lr lambda_x x / ||x||
                  lambda_x = lambda, unless <x, g> < 0; then, with low = -<x, g> / ||x|| and high = -||g||^2 ||x|| / <x,
                  g>, lambda_x = clip(amplify low, lambda, largest lambda), or (low + high) / 2 where that is at least
                  high
      half-space  leave if <x^, x> < eps ||x||^2

Differences from the public code (tianyic/only_train_once, `legacy`): the budget decides how many units are redundant,
not a group sparsity and a tolerance; lr g is the step that the optimizer made, whichever optimizer it is; units that
have not crossed when the budget must be met leave then; what leaves does so by any removal policy, and a unit that the
policy releases is not penalised again: the next most redundant takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from secateur.criteria import Scores
from secateur.methods.pruner import Pruner, Units
from secateur.removal import Entries

if TYPE_CHECKING:
    from secateur.training.state import State


def redundancy(sizes: Tensor, counts: Tensor, pushes: Tensor, lengths: Tensor) -> Tensor:
    """The partition's score s of every unit, float64 of shape `[units]`, higher = more redundant.

    `sizes` are the units' norms ||x||, `counts` their numbers of entries |x|, `pushes` the inner products <x, g>,
    `lengths` the norms ||g||.
    """
    cosine = torch.where(sizes * lengths > 0, pushes / (sizes * lengths), 0.0)
    small = 1 / (sizes / counts.clamp(min=1) + 1e-6)
    return 0.5 * _unit(cosine) + 0.5 * _unit(small)


def penalties(sizes: Tensor, pushes: Tensor, lengths: Tensor, least: float, amplify: float, most: float) -> Tensor:
    """The lambda of every unit: `least`, or more where the step makes it grow; arguments as in `redundancy`."""
    grows = pushes < 0
    safe = torch.where(grows, pushes, -1.0)
    low = -safe / sizes.clamp(min=1e-30)
    high = -lengths.square() * sizes / safe
    raised = (amplify * low).clamp(least, least * most)
    raised = torch.where(raised >= high, (low + high) / 2, raised)
    return torch.where(grows & (sizes > 0), raised, least)


@dataclass(eq=False, kw_only=True)
class DHSPG(Pruner):
    """OTOv2's optimizer as a method beside any optimizer; the other fields are those of `Pruner`.

    start        the partition, 1/6 of the training: epoch 50 of 300 in the VGG16 tutorial
    stop         by which the budget is met, 0.5
    strength     lambda (1e-3; 1e-2 is the code's for Adam)
    amplify      2 (20 for Adam)
    most         the largest lambda over lambda, 10 (1e3 for Adam)
    half_space   eps in [0, 1), 0.9 as in the tutorials; 0 is the plain half-space test

    The learning rate is that of the optimizer's first group. `rounds` must stay 1: there is one partition.

    >>> fit(model, data, epochs=300, methods=[DHSPG(groups=groups, budget="25% macs", removal=Decay(2000, Rectify()))])
    """

    start: float = 1 / 6
    stop: float = 0.5
    strength: float = 1e-3
    amplify: float = 2.0
    most: float = 10.0
    half_space: float = 0.9

    def check(self) -> None:
        """See that the fields are in range."""
        super().check()
        self._require("rounds", "1: units are told apart once", self.rounds == 1)
        self._require("half_space", "a float in [0, 1)", 0 <= self.half_space < 1)
        for name, least in (("strength", 0), ("amplify", 0), ("most", 1)):
            self._require(name, f"a float of at least {least}", getattr(self, name) >= least)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._redundant: Units = {}
        self._entries: Entries | None = None
        self._before: Tensor | None = None

    def look(self, state: State) -> None:
        """Remember the weights of the units that are looked at in this step."""
        if state.step + 1 == self.first:
            self._entries = Entries(self.groups, {g.name: torch.arange(g.units) for g in self.groups})
        if self._entries is not None:
            self._before = self._entries.weights()

    def moved(self, state: State) -> None:
        """Push redundant units towards zero; those that cross their half-space leave."""
        if self._entries is None or self._before is None or state.step <= self.first:
            return
        entries, x = self._entries, self._before
        lr = float(state.optimizer.param_groups[0]["lr"])
        g = (x - entries.weights()) / lr if lr > 0 else torch.zeros_like(x)
        sizes, pushes, lengths = entries.norms(x), entries.sums(x * g), entries.norms(g)
        strength = penalties(sizes, pushes, lengths, self.strength, self.amplify, self.most)
        pull = lr * strength / sizes.clamp(min=1e-30)
        entries.add(-pull[entries.owner] * x)
        crossed = entries.sums(entries.weights() * x) < self.half_space * sizes.square()
        if bool(crossed.any()):
            self._let_cross(state, crossed.cpu())

    def scores(self, state: State) -> Mapping[str, Tensor]:
        """The partition; after it, what it said."""
        if state.step > self.first:
            return self._scores
        assert self._entries is not None
        assert self._before is not None
        entries, x = self._entries, self._before
        g = x - entries.weights()
        counts = entries.sums(torch.ones_like(x))
        parts = (-redundancy(entries.norms(x), counts, entries.sums(x * g), entries.norms(g))).split(entries.sizes)
        return Scores(dict(zip((g.name for g in self.groups), parts, strict=True)), "dhspg")

    def choose(self, state: State, units: Units) -> None:  # noqa: ARG002 - they leave when they cross
        """Units that are to leave are redundant from now on."""
        for name, indices in units.items():
            known = self._redundant.get(name, indices[:0])
            self._redundant[name] = torch.cat([known, indices]).unique()
        self._gather()

    def state_dict(self) -> dict[str, Any]:
        """Where the pruning stands, with the redundant units that have not crossed."""
        return {**super().state_dict(), "redundant": dict(self._redundant)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        super().load_state_dict(saved)
        self._redundant = dict(saved["redundant"])
        self._gather()

    def let_go(self, step: int, units: Units, *, certain: bool = False) -> None:
        """Start the units' leaving; they are no longer penalised."""
        super().let_go(step, units, certain=certain)
        for name, indices in units.items():
            known = self._redundant.get(name, indices[:0])
            self._redundant[name] = known[~torch.isin(known, indices)]
        self._gather()

    def _let_cross(self, state: State, crossed: Tensor) -> None:
        units = {name: indices for name, indices in self._redundant.items() if len(indices)}
        marks = crossed.split([len(indices) for indices in units.values()])
        self.let_go(state.step, {name: units[name][mark] for name, mark in zip(units, marks, strict=True)})

    def _gather(self) -> None:
        """Find the entries of the redundant units."""
        units = {name: indices for name, indices in self._redundant.items() if len(indices)}
        self._entries = Entries(self.groups, units) if units else None
        self._before = None


def _unit(values: Tensor) -> Tensor:
    norm = values.norm()
    return torch.where(norm > 0, values / norm, 0.0)
