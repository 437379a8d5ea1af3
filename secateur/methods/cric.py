"""HESSO-CRIC: units are judged along their own decay before any of them leaves.

T. Chen, X. Qu, D. Aponte, C. Banbury, J. Ko, T. Ding, Y. Ma, V. Lyapunov, I. Zharkov & L. Liang, HESSO: Towards
Automatic Efficient and User Friendly Any Neural Network Training and Pruning (arXiv 2409.09085), the corrective
redundancy identification cycle. A saliency at full size says little of a unit that is indispensable, so

    trials     of every group the lowest 25, 50 and 75 % of units are set to zero, one share at a time, and the loss
               over that of the whole network is noted
    a cycle    the units that the budget would remove (violating units) fade to zero over `sampling` steps of training,
    in
               which all units are scored again and again; then every weight is put back
    next       those that the budget would remove by the mean of all scores so far and that have not faded yet
    the end    no such unit is left, or `cycles` are over: the lowest by mean score and loss leave, as in HESSO

It answers the question that a release of `Rectify` answers, beforehand instead of on the way.

Differences from the public code (microsoft/only_train_once): the budget and the direction are those of `HESSO`; a
unit's loss is that of the smallest trial that it is part of, over its L2 norm over all units; optimizer and batch-norm
statistics are put back with the weights.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from secateur.criteria import Scores
from secateur.graph.units import Group
from secateur.masks import Masks
from secateur.methods.hesso import Direction
from secateur.methods.pruner import Pruner, Units
from secateur.removal import Multiplicative, Removal

if TYPE_CHECKING:
    from secateur.training.state import State

TRIALS = (0.25, 0.5, 0.75)


@dataclass(eq=False, kw_only=True)
class CRIC(Pruner):
    """HESSO with corrective cycles; the other fields are those of `Pruner`.

    removal      left out: `Multiplicative` over the time that the longest cycles leave, the paper's
    stop         0.3
    sampling     steps of a cycle
    cycles       at most so many, 10
    tolerance    units that may be violating in the end
    weights      of HESSO's five criteria
    sensitivity  weight of the trials' losses beside them, 1

    Cycles are steps of training that are taken back; they end when the removal needs the time. `rounds` must stay 1.

    >>> fit(model, data, epochs=100, methods=[CRIC(groups=groups, budget="30% macs", sampling=100)])
    """

    stop: float = 0.3
    sampling: int = 10
    cycles: int = 10
    tolerance: int = 0
    weights: Sequence[float] = (0.2, 0.2, 0.2, 0.2, 0.2)
    sensitivity: float = 1.0

    def check(self) -> None:
        """See that the fields are in range."""
        super().check()
        self._require("rounds", "1: units are chosen once, after the cycles", self.rounds == 1)
        for name, least in (("sampling", 1), ("cycles", 1), ("tolerance", 0)):
            value = getattr(self, name)
            self._require(name, f"an integer of at least {least}", isinstance(value, int) and value >= least)
        self._require("weights", "five numbers of at least 0", len(self.weights) == 5 and min(self.weights) >= 0)
        self._require("sensitivity", "a float of at least 0", self.sensitivity >= 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._fade = Multiplicative(self.sampling)
        self._sum = self._losses = torch.empty(0)
        self._count = self._done = self._left = 0
        self._faded: Units = {}
        self._held: dict[str, Any] = {}

    def usual_removal(self) -> Removal:
        """The paper's, over what is left when all cycles were needed, and at least half of the time."""
        between = self.last - self.first
        return Multiplicative(steps=max(1, between // 2, between - self.cycles * self.sampling))

    def prepare(self, state: State) -> None:  # noqa: ARG002 - the groups hold the model
        """Find the entries of all units."""
        self._direction = Direction(self.groups)

    def times(self) -> list[int]:
        """None: units are chosen when the cycles are over."""
        return []

    def look(self, state: State) -> None:
        """Remember the weights where the step is to be judged."""
        if self._held or state.step + 1 == self.first:
            self._direction.remember()

    def moved(self, state: State) -> None:
        """Begin, go on with, or end a cycle."""
        if state.step == self.first:
            self._sum, self._count = self._direction.saliency(self.weights), 1
            self._losses = self._tried(state, self._direction.by_group(self._sum))
            self._begin(state, self._violating())
        elif self._held:
            self._sum, self._count = self._sum + self._direction.saliency(self.weights), self._count + 1
            self._fade.after_step(self.groups, state.optimizer)
            self._left -= 1
            if self._left == 0 or state.step >= self.solve_at:
                self._put_back(state)
                self._begin(state, self._violating())

    def scores(self, state: State) -> Mapping[str, Tensor]:  # noqa: ARG002 - seen along the cycles
        """The mean score of each unit over all cycles, and the loss of its trial."""
        return Scores(self._direction.by_group(self._sum / self._count + self._losses), "hesso-cric")

    def state_dict(self) -> dict[str, Any]:
        """Where the pruning and its cycles stand, with the weights to be put back."""
        own = {name: getattr(self, name) for name in _OWN}
        return {**super().state_dict(), "fade": self._fade.state_dict(), **own}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        super().load_state_dict(saved)
        self._fade.load_state_dict(self.groups, saved["fade"])
        for name in _OWN:
            setattr(self, name, saved[name])

    def _violating(self) -> Units:
        """What the budget would remove by the scores so far and has not faded yet."""
        made = self._solve(self._direction.by_group(self._sum / self._count + self._losses), self.target.budget)
        found = {g.name: made.removed(g.name) for g in self.groups}
        return {n: u[~torch.isin(u, self._faded[n])] if n in self._faded else u for n, u in found.items()}

    def _begin(self, state: State, units: Units) -> None:
        """A cycle over the units, if there are enough, and time; else the choice."""
        many = sum(len(indices) for indices in units.values())
        if many > self.tolerance and self._done < self.cycles and state.step + self.sampling <= self.solve_at:
            self._done, self._left = self._done + 1, self.sampling
            self._held = {
                "model": {name: tensor.detach().clone() for name, tensor in state.model.state_dict().items()},
                "optimizer": copy.deepcopy(state.optimizer.state_dict()["state"]),
            }
            self._fade.start(self.groups, units)
            for name, indices in units.items():
                self._faded[name] = torch.cat([self._faded.get(name, indices[:0]), indices])
        elif state.step < self.solve_at:
            self._judge(state)
            self._aim(state, self._solve(self._scores, self.target.budget))

    @torch.no_grad()
    def _put_back(self, state: State) -> None:
        """The weights, statistics and optimizer of before the cycle."""
        for name, tensor in state.model.state_dict().items():
            tensor.copy_(self._held["model"][name])
        rates = state.optimizer.state_dict()["param_groups"]  # the schedule goes on
        state.optimizer.load_state_dict({"state": self._held["optimizer"], "param_groups": rates})
        self._held = {}

    def _tried(self, state: State, saliencies: Mapping[str, Tensor]) -> Tensor:
        """The loss of the smallest trial that each unit is part of, `sensitivity` times, over its L2 norm."""
        whole = float(state.closure())
        found = []
        for group in self.groups:
            order = saliencies[group.name].argsort(stable=True).cpu()
            ends = [round(share * group.units) for share in TRIALS]
            ratios = [self._loss_without(state, group, order[:end]) / whole for end in ends]
            losses = torch.empty(group.units, dtype=torch.float64)
            for end, ratio in sorted(zip([*ends[:-1], group.units], ratios, strict=True), reverse=True):
                losses[order[:end]] = ratio
            found.append(losses)
        joined: Tensor = torch.cat(found).to(self._sum)
        return joined.mul(self.sensitivity / float(joined.norm()))

    def _loss_without(self, state: State, group: Group, units: Tensor) -> float:
        """The objective of the batch at hand with some units at zero; nothing has moved afterwards."""
        kept = {m.name: self.groups.tensor(m.name).detach().clone() for m in group.members}
        Masks(self.groups).remove({group.name: units})
        try:
            return float(state.closure())
        finally:
            with torch.no_grad():
                for name, tensor in kept.items():
                    self.groups.tensor(name).copy_(tensor)


_OWN = ("_sum", "_losses", "_count", "_done", "_left", "_faded", "_held")
"""What cycles leave to a resumed run."""
