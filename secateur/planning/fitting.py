"""Meeting a budget: the feasible numbers of units that cost as much as was asked and no more."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from secateur.errors import BudgetError
from secateur.graph.units import Frozen, Groups
from secateur.planning.allocation import Allocation, Limits
from secateur.planning.budget import Budget, pretty

Counts = dict[str, int]

CLOSE_ENOUGH = 0.001  # share of the asked number below which no further step is tried
TOLERANCE = 0.01  # share of the asked number that counts as hit
TRIALS = 32  # steps tried for closeness alone, once within the tolerance
EXCHANGES = 8  # steps that pass the budget for which other groups are made to pay, where it is missed otherwise


@dataclass(frozen=True)
class Target:
    """A budget for one set of groups. Raises `BudgetError` if it counts what removing such units does not change."""

    groups: Groups
    budget: Budget

    def __post_init__(self) -> None:
        kind, budget = self.groups.kind, self.budget
        if kind != "slices" and budget.unit != "weights":
            likely = Budget(budget.amount, budget.form, "weights")
            raise BudgetError(
                f"The budget '{budget}' cannot be met by {kind}: masks leave shapes, MACs and stored parameters as "
                f"they are. Ask for weights, such as '{likely}'."
            )

    def spent(self, counts: Mapping[str, int] | None = None) -> float:
        """What the budget counts, when the groups keep `counts` units; of the dense model if left out."""
        if self.budget.unit == "channels":
            return sum((counts or {}).get(g.name, g.units) for g in self.groups)
        cost = self.groups.cost(counts)
        return {"macs": cost.macs, "params": cost.params, "weights": cost.weights}[self.budget.unit]

    @property
    def asked(self) -> float:
        """The number that the budget asks for."""
        return self.budget.target(self.spent())


@dataclass
class Fit:
    """The search for the feasible counts that spend most of `asked` and no more."""

    groups: Groups
    limits: Mapping[str, Limits]
    allocation: Allocation
    target: Target
    kept: frozenset[str]

    def __post_init__(self) -> None:
        self.asked = self.target.asked

    def run(self, *, repair: bool) -> tuple[Counts, tuple[str, ...]]:
        """The counts, and notes on what a reader should know about them.

        With `repair`, single steps of rounding use what the line of allocations leaves of the budget; where that is
        still missed, since equalities make several groups grow at once, other groups pay for one such step. Raises
        `BudgetError` if even the fewest units cost more than 1 % above the budget.
        """
        floor, unit = self.settle(self.allocation.wanted(0)), self.target.budget.unit
        least = self.target.spent(floor)
        if least > self.asked * (1 + TOLERANCE):
            raise BudgetError(self._unreachable(least))
        if least > self.asked:
            note = f"Every group is at its fewest units: {pretty(least)} {unit} of {pretty(self.asked)} asked."
            return floor, (note,)
        counts, high = self._bisect(floor)
        if repair:
            counts = self._exchange(self._repair(counts, high), high)
        reached = self.target.spent(counts)
        if reached >= self.asked * (1 - TOLERANCE):
            return counts, ()
        hint = "" if repair else "; allocation='local' or a smaller round_to comes closer"
        note = f"Kept are {pretty(reached)} {unit} of {pretty(self.asked)} asked: another step passes it{hint}."
        return counts, (note,)

    def settle(self, wanted: Mapping[str, float]) -> Counts:
        """Feasible counts: rounded, within limits, and balanced against each other."""
        counts = {name: limit.nearest(wanted[name]) for name, limit in self.limits.items() if name in wanted}
        return self.groups.balance(counts)

    def _bisect(self, floor: Counts) -> tuple[Counts, int]:
        """The largest allocation on the line within the budget, and the position after it.

        Larger allocations cost more, so some twenty costs find it in a network of any size.
        """
        low, high, counts = 0, self.allocation.positions + 1, floor
        while high - low > 1:
            middle = (low + high) // 2
            candidate = self.settle(self.allocation.wanted(middle))
            if candidate == counts or self.target.spent(candidate) <= self.asked:
                low, counts = middle, candidate
            else:
                high = middle
        return counts, min(high, self.allocation.positions)

    def _repair(self, counts: Counts, position: int) -> Counts:
        """Counts with single steps added, most urgent first, as long as they fit.

        A step that does not fit is not tried again: what was added since only makes it dearer.
        """
        gap = self.asked - self.target.spent(counts)
        for trial, name in enumerate(self._steps(counts, position)):
            if gap <= CLOSE_ENOUGH * self.asked or (trial >= TRIALS and gap <= TOLERANCE * self.asked):
                break
            candidate = self.groups.balance({**counts, name: self.limits[name].next(counts[name])})
            left = self.asked - self.target.spent(candidate)
            if left >= 0:
                gap = left
                counts.update(candidate)
        return counts

    def _exchange(self, counts: Counts, position: int) -> Counts:
        """Counts closer to a budget that is missed: groups that one step makes grow keep that, others shrink for it.

        Most urgent steps are tried first, until one brings the budget within the tolerance; else the closest stays.
        """
        best, reached, tried, grew = counts, self.target.spent(counts), 0, set[str]()
        for name in self._steps(dict(counts), position):
            if tried == EXCHANGES or reached >= self.asked * (1 - TOLERANCE):
                break
            if name in grew:  # with another one, so its own step is the same
                continue
            grown = self.groups.balance({**counts, name: self.limits[name].next(counts[name])})
            more = {n: count for n, count in grown.items() if count > counts[n]}
            grew.update(more)
            tried += 1
            other = self._at_least(more)
            if other is not None and self.target.spent(other) > reached:
                best, reached = other, self.target.spent(other)
        return best

    def _at_least(self, held: Mapping[str, int]) -> Counts | None:
        """The best counts in which some groups keep at least so many units; None where even that passes the budget."""
        limits = {
            name: replace(limit, floor=max(limit.floor, held.get(name, 0))) for name, limit in self.limits.items()
        }
        narrowed = replace(self, limits=limits)
        floor = narrowed.settle(self.allocation.wanted(0))
        return narrowed._repair(*narrowed._bisect(floor)) if self.target.spent(floor) <= self.asked else None

    def _steps(self, counts: Counts, position: int) -> Iterator[str]:
        """The groups that may grow, most urgent first; one comes up again after it has grown."""
        order = {name: i for i, name in enumerate(self.limits)}

        def entry(name: str) -> tuple[float, int, str]:
            return -self.allocation.priority(name, counts[name], position), order[name], name

        queue = [entry(name) for name, limits in self.limits.items() if counts[name] < limits.units]
        heapq.heapify(queue)
        while queue:
            name = heapq.heappop(queue)[-1]
            before = counts[name]
            if before < self.limits[name].units:  # another group's step may have filled it
                yield name
                if before < counts[name] < self.limits[name].units:
                    heapq.heappush(queue, entry(name))

    def _unreachable(self, least: float) -> str:
        """How far the budget can go, and what holds it."""
        groups, dense, budget = self.groups, self.target.spent(), self.target.budget
        holds = [f"'keep' keeps {len(self.kept)} of {len(groups)} groups whole"] if self.kept else []
        held = [g.name for g in groups if g.name not in self.kept and self.limits[g.name].floor > 1]
        if held:
            name = max(held, key=lambda name: self.limits[name].floor)
            limit = self.limits[name]
            example = f"{limit.floor} of {limit.units} units of '{name}'"
            holds.append(f"'minimum' and 'round_to' keep some of {len(held)} groups ({example})")
        holds += [f"'{f.name}' cannot be pruned ({f.reason})" for f in largest_frozen(groups)]
        return (
            f"The budget '{budget}' cannot be reached: with every group at its fewest units, "
            f"{100 * least / dense:.1f} % of the {budget.unit} remain ({pretty(least)} of {pretty(dense)}). "
            f"What holds it: {'; '.join(holds) or 'one unit of each group'}."
        )


def largest_frozen(groups: Groups, most: int = 3) -> list[Frozen]:
    """What is frozen of the largest parameters that no group can shrink, the largest first."""
    prunable = {m.name for g in groups for m in g.members}
    sizes = {name: p.numel() for name, p in groups.model.named_parameters() if name not in prunable}
    first: dict[str, Frozen] = {}
    for frozen in groups.frozen:
        first.setdefault(frozen.name.partition("[")[0], frozen)
    names = sorted((name for name in sizes if name in first), key=lambda name: -sizes[name])
    return [first[name] for name in names[:most]]
