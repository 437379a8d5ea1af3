"""What every method that prunes during training has in common: a budget met by a step, whatever is released on the way.

A host says when units are chosen and by which scores; how they leave is its removal policy's. Between the two stands
the `Pruner`: it turns scores and a budget into units, lets the policy fade them, replaces those that the policy
releases, and ends with a slim model that is proven equal to the masked one.

    first                     the first round of choosing, `start` of the training
    rounds                    evenly spaced; each has a budget of its own
    a release                 the next-lowest unit of its group starts to leave instead, where one does not rest
    last - N                  the budget is solved once more; from here on nothing is released. N is the policy's steps
    last                      all that must go is exactly zero, `stop` of the training; the rest is fine-tuning
    finish                    the model is replaced by the slim one
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from secateur.criteria import Scores
from secateur.errors import BudgetError, InputError
from secateur.graph.cutting import cut_tensor
from secateur.graph.units import Groups, Kind
from secateur.masks import Masks
from secateur.methods.story import Event, Story
from secateur.planning import Budget, Plan, plan
from secateur.planning.fitting import Target
from secateur.planning.planner import DEFAULT_BUDGET
from secateur.removal import Departure, Immediate, Removal
from secateur.surgery import record, slim

if TYPE_CHECKING:
    from secateur.training.state import State

Units = dict[str, Tensor]


@dataclass(eq=False, kw_only=True)
class Pruner(ABC):
    """A method for `fit` or a loop of one's own that prunes `groups` to a budget while their model trains.

    groups     of the model that is trained; those that are exact only under kept statistics stay whole, since masks do
               not narrow a norm
    budget     what remains, as `secateur.plan` takes it; left out: its default
    removal    how units leave; a policy serves one method. Left out: the host's own, at once unless it says otherwise
    start      share of the training at which the first units are chosen
    stop       share of the training at which the budget is met; the rest fine-tunes
    rounds     how often units are chosen
    planning   further keywords of `secateur.plan`: allocation, round_to, minimum, keep

    After training `plan` is what was kept, `story` what happened on the way, and the model of the training is slim.
    """

    takes: ClassVar[tuple[Kind, ...]] = ("slices", "elements", "blocks")  # the kinds of units it can prune

    groups: Groups = field(repr=False)
    budget: str | Budget | None = None
    removal: Removal | None = None
    start: float = 0.1
    stop: float = 0.6
    rounds: int = 1
    planning: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.check()
        wish = Budget.parse(self.budget if self.budget is not None else DEFAULT_BUDGET[self.groups.kind])
        self.target = Target(self.groups, wish)
        self.masks = Masks(self.groups)
        self.story = Story()
        self.policy: Removal = self.removal if self.removal is not None else Immediate()
        self.plan: Plan | None = None
        self._scores: Units = {}
        self._goal: dict[str, int] = {}

    @classmethod
    def check_fields(cls, fields: Mapping[str, Any]) -> None:
        """Raise `InputError` for fields out of range, beside the defaults of the others; no groups are needed."""
        cls._blank(fields).check()

    @classmethod
    def check_time(cls, fields: Mapping[str, Any], removal: Removal | None, steps: int) -> None:
        """Raise `InputError` if a training of so many steps is too short for the removal; no groups are needed."""
        blank = cls._blank({**fields, "removal": removal})
        blank.policy = removal if removal is not None else Immediate()
        blank.find_time(steps)

    @classmethod
    def _blank(cls, fields: Mapping[str, Any]) -> Pruner:
        """An object with `fields` and nothing else, to be checked."""
        blank = cls.__new__(cls)
        vars(blank).update(fields)
        return blank

    def check(self) -> None:
        """See that the fields are in range; raises `InputError` for the first that is not."""
        self._require("start", "a share of the training in [0, 1)", 0 <= self.start < 1)
        self._require("stop", f"a share of the training in ({self.start:g}, 1]", self.start < self.stop <= 1)
        self._require("rounds", "an integer of at least 1", isinstance(self.rounds, int) and self.rounds >= 1)

    @abstractmethod
    def scores(self, state: State) -> Mapping[str, Tensor]:
        """Group name -> scores of its units, higher = keep, by which the units of a round are chosen."""

    def share(self, number: int) -> float:
        """What the budget leaves after round `number` of `rounds`, as a share of the dense model.

        Every round keeps the same share of what the one before left.
        """
        return float(self._final_share ** (number / self.rounds))

    def usual_removal(self) -> Removal:
        """How units leave where the user says nothing; `first` and `last` are known."""
        return Immediate()

    def last_budget(self, state: State) -> Budget:  # noqa: ARG002 - most hosts spend all of theirs
        """What the last round leaves; its scores are known."""
        return self.target.budget

    def times(self) -> list[int]:
        """The steps after which units are chosen, one a round."""
        between = self.solve_at - self.first
        return [self.first + number * between // max(1, self.rounds - 1) for number in range(self.rounds)]

    def prepare(self, state: State) -> Iterable[dict[str, Any]] | None:  # noqa: B027 - most hosts need nothing
        """What a host adds to `setup`."""

    def look(self, state: State) -> None:  # noqa: B027
        """What a host does when gradients are there."""

    def moved(self, state: State) -> None:  # noqa: B027
        """What a host does when weights have moved, before leaving units move on."""

    def choose(self, state: State, units: Units) -> None:
        """What a host does with units that are to leave: they start at once."""
        self.let_go(state.step, units)

    def setup(self, state: State) -> Iterable[dict[str, Any]] | None:
        """See that the pruning fits the model, the training and the other methods."""
        self._check(state)
        self.find_time(state.epochs * state.steps_per_epoch)
        added = self.prepare(state)
        self.round_at = self.times()
        self._final_share = self.target.asked / self.target.spent()
        self._solve({g.name: torch.ones(g.units) for g in self.groups}, self.target.budget)
        return added

    def find_time(self, steps: int) -> None:
        """Set when the first units are chosen, the budget is solved for good, and met, in a training of `steps` steps.

        Raises `InputError` where the removal and the rounds do not fit between `start` and `stop`.
        """
        self.first, self.last = max(1, round(self.start * steps)), round(self.stop * steps)
        if self.removal is None:
            self.policy = self.usual_removal()
        self.solve_at = self.last - self.policy.steps
        between = self.solve_at - self.first
        if between < self.rounds - 1:
            raise InputError(
                f"The 'removal' of {type(self).__name__} takes {self.policy.steps} steps and there are {self.rounds} "
                f"rounds; 'start' and 'stop' leave {self.last - self.first} of {steps} steps for them. Take fewer, or "
                "move 'start' and 'stop' apart."
            )

    def before_step(self, state: State) -> None:
        """Keep what is gone out of gradients; the policy remembers what it compares."""
        self.look(state)
        self.masks.before_step()
        self.policy.before_step(self.groups)

    def after_step(self, state: State) -> None:
        """Let leaving units move on, replace those released, and choose more when it is time."""
        self.moved(state)
        ended = self.masks.advance(self.policy, state.optimizer)
        self._note(state.step, ended)
        if state.step == self.solve_at:
            self._last_round(state)
        elif state.step in self.round_at:
            number = self.round_at.index(state.step) + 1
            wish = Budget(self.target.spent() * self.share(number), "absolute", self.target.budget.unit)
            self._judge(state)
            made = self._solve(self._scores, wish)
            self.policy.round_over()
            self._aim(state, made)
        elif any(departure.released.any() for departure in ended.values()) and state.step < self.solve_at:
            self._replace_released(state)

    def finish(self, state: State) -> None:
        """Go on with the slim model, proven equal to the masked one; `plan` tells what it kept."""
        self.masks.apply()
        self.plan = self._kept()
        small = slim(self.groups, self.plan, optimizer=state.optimizer)
        entry = record(small)
        assert entry is not None
        average = None
        if state.average is not None:
            state.average.settle()
            average = {n: cut_tensor(t, entry.kept.get(n, {})) for n, t in state.average.tensors.items()}
        state.replace(small, optimizer=state.optimizer, average=average)

    def state_dict(self) -> dict[str, Any]:
        """Where the pruning stands."""
        return {
            "masks": self.masks.state_dict(),
            "removal": self.policy.state_dict(),
            "story": self.story.state_dict(),
            "scores": dict(self._scores),
            "goal": dict(self._goal),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.masks.load_state_dict(saved["masks"])
        self.policy.load_state_dict(self.groups, saved["removal"])
        self.story.load_state_dict(saved["story"])
        self._scores, self._goal = dict(saved["scores"]), dict(saved["goal"])

    def live(self) -> Units:
        """Group name -> bool of shape `[units]`: what is neither gone nor leaving."""
        leaving = self.policy.leaving()
        return {name: kept & ~leaving[name] if name in leaving else kept for name, kept in self.masks.kept.items()}

    def let_go(self, step: int, units: Units, *, certain: bool = False) -> None:
        """Start the units' leaving."""
        chosen = {name: indices for name, indices in units.items() if len(indices)}
        self.story.add(Event.of(step, name, "leaving", indices) for name, indices in chosen.items())
        self.policy.start(self.groups, chosen, certain=certain)

    def at_most(self, opened: Mapping[str, int]) -> Budget:
        """The budget, or what so many units spend where that is less: the fewest of a plan by the last scores."""
        spent, asked = self.target.spent(self.groups.balance(opened)), self.target.asked
        while spent < asked:
            wish = Budget(spent, "absolute", self.target.budget.unit)
            try:
                self._solve(self._scores, wish)
            except BudgetError:
                spent *= 1.05
            else:
                return wish
        return self.target.budget

    def _aim(self, state: State, made: Plan, *, certain: bool = False) -> None:
        """Take the counts of a plan as the goal, and let go what it removes and is still there."""
        self._goal = made.counts
        live = self.live()
        units = {name: (live[name] & ~made.mask(name)).nonzero().flatten() for name in live}
        if certain:
            self.let_go(state.step, units, certain=True)
        else:
            self.choose(state, units)

    def _solve(self, scores: Mapping[str, Tensor], wish: Budget) -> Plan:
        """The plan for a budget; what is gone or leaving stays so, and what was just released goes last of its group.

        A group gives up as many units as its scores say, whichever they are: no other pays for what it releases.
        """
        resting = self.policy.resting()
        values = {}
        for name, live in self.live().items():
            value = scores[name].detach().cpu().double().clone()
            spared = live & resting.get(name, torch.zeros_like(live))
            value = _dealt(value, live.int() + spared.int()) if bool(spared.any()) else value
            value[~live] = -torch.inf
            values[name] = torch.full_like(value, torch.inf) if self.groups[name].proof != "exact" else value
        named = Scores(values, getattr(scores, "criterion", type(self).__name__))
        return plan(self.groups, named, wish, **self.planning)

    def _judge(self, state: State) -> None:
        """Score the units anew; those that are gone or leaving keep the last score they had before."""
        seen, live = {name: values.detach().cpu() for name, values in self.scores(state).items()}, self.live()
        self._scores = {n: torch.where(live[n], new, self._scores.get(n, new)) for n, new in seen.items()}

    def _replace_released(self, state: State) -> None:
        """Let the next-lowest of each group leave in place of what it released; where all rest, it is for the round."""
        live, resting = self.live(), self.policy.resting()
        units: Units = {}
        for name, alive in live.items():
            surplus = int(alive.sum()) - self._goal.get(name, len(alive))
            free = alive & ~resting.get(name, torch.zeros_like(alive))
            if surplus > 0:
                order = self._scores[name].double().masked_fill(~free, torch.inf).argsort(stable=True)
                units[name] = order[: min(surplus, int(free.sum()))].sort().values
        self.choose(state, units)

    def _last_round(self, state: State) -> None:
        """Solve the budget once more, for good."""
        self.policy.start(self.groups, {}, certain=True)
        self._judge(state)
        self._aim(state, self._solve(self._scores, self.last_budget(state)), certain=True)

    def _note(self, step: int, ended: Mapping[str, Departure]) -> None:
        for name, departure in ended.items():
            gone, released = departure.gone.nonzero().flatten(), departure.released.nonzero().flatten()
            if len(gone):
                self.story.add([Event.of(step, name, "gone", gone)])
            if len(released):
                kept, after = departure.kept[released], departure.steps[released]
                self.story.add([Event.of(step, name, "released", released, kept, after)])

    def _kept(self) -> Plan:
        """The plan of what is left; widths that must agree get units back, which are zero."""
        keep = {name: kept.clone() for name, kept in self.masks.kept.items()}
        for name, count in self.groups.balance(self.masks.counts).items():
            missing = count - int(keep[name].sum())
            keep[name][(~keep[name]).nonzero().flatten()[: max(0, missing)]] = True
        indices = {name: kept.nonzero().flatten() for name, kept in keep.items()}
        made = Plan.of(self.groups, indices, criterion=type(self).__name__)
        return replace(made, budget=str(self.target.budget), asked=self.target.asked)

    def _check(self, state: State) -> None:
        kind = type(self).__name__
        if self.groups.model is not state.model:
            raise InputError(
                f"The 'groups' of {kind} must be those of the model that is trained. They were found in another "
                f"{type(self.groups.model).__name__}."
            )
        for other in state.moments.methods:
            if other is self or not isinstance(other, Pruner):
                continue
            if other.policy is self.policy:
                raise InputError(
                    f"The 'removal' of {kind} must be its own. {type(other).__name__} has the same object."
                )
            shared = {m.name for g in self.groups for m in g.members} & {
                m.name for g in other.groups for m in g.members
            }
            if shared:
                raise InputError(
                    f"Two methods must not prune the same parameters. {kind} and {type(other).__name__} both have "
                    f"'{min(shared)}'. Give each groups of its own."
                )

    def _require(self, name: str, what: str, holds: bool) -> None:
        if not holds:
            kind = type(self).__name__
            raise InputError(f"The '{name}' parameter of {kind} must be {what}. Got {getattr(self, name)!r} instead.")


def _dealt(scores: Tensor, ranks: Tensor) -> Tensor:
    """The same scores, dealt out anew: the larger to units of higher rank, among equals in the order there was."""
    order = scores.argsort(stable=True)
    order = order[ranks[order].argsort(stable=True)]
    return torch.empty_like(scores).scatter_(0, order, scores.sort().values)
