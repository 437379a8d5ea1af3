"""From scores and a budget to a plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from secateur.criteria import magnitude
from secateur.errors import InputError
from secateur.graph.naming import select
from secateur.graph.units import Groups, Kind
from secateur.planning.allocation import Allocation, Choice, Even, Global, Limits, Ranking
from secateur.planning.budget import Budget
from secateur.planning.fitting import Counts, Fit, Target, largest_frozen
from secateur.planning.plans import Plan

DEFAULT_BUDGET: dict[Kind, str] = {"slices": "50% macs", "elements": "50% weights", "blocks": "50% weights"}
Share = Mapping[str, float]
Patterns = str | nn.Module | Iterable[str | nn.Module]


def plan(
    groups: Groups,
    scores: Mapping[str, Tensor] | None = None,
    budget: str | Budget | None = None,
    *,
    allocation: Literal["global", "local", "uniform", "own"] | Share = "global",
    round_to: int = 8,
    minimum: float | None = None,
    keep: Patterns = (),
) -> Plan:
    """The units that stay of every group, so that the model costs what `budget` asks.

    - `scores`: group name -> float `[units]`, higher = keep, infinity = always, minus infinity = never; left out:
      `magnitude(groups)`.
    - `budget`: what remains: "50% macs", "2x macs", "1.2M params", "30% channels"; "10% weights" for elements and
      blocks. Left out: "50% macs", or "50% weights". It is met within 1 % or one rounding step, from below where steps
      allow.
    - `allocation`: `"global"`, one threshold over all units; `"local"`, the same share of every group, the rest of the
      budget filled by single steps; `"uniform"`, that share and nothing else, so that a step of it may miss by more;
      `"own"`, what the method that made the scores brings, which may draw the units and rescale those that stay; or a
      mapping from names or patterns of groups to kept shares, which takes the place of a budget.
    - `round_to`: widths are multiples of it, in groups at least twice as wide; 1 switches it off. It concerns slices
      alone.
    - `minimum`: the least that stays of every group, a share below 1 or a number of units. Left out: 5 % for slices,
      one unit for elements and blocks.
    - `keep`: modules, names, shell patterns or `"re:..."` of what must stay whole: a module's shapes do not change
      (nor those of modules beneath it), nor a parameter's; a group may be named too.

    Raises `BudgetError` for a budget that cannot be read or reached, saying how far it can go and what holds it;
    `InputError` for scores that do not fit, patterns that match nothing, and a model without groups.

    >>> plan(groups, taylor(groups, batches), "2x macs", keep=["layer4.*"])
    """
    _check_groups(groups)
    given = magnitude(groups) if scores is None else scores
    ranking = Ranking(_checked(given, groups))
    kept = _kept(groups, keep, "'keep' parameter of plan")
    least = _minimum(minimum, groups)
    step = _round_to(round_to) if groups.kind == "slices" else 1
    limits = {
        g.name: Limits.of(
            g,
            round_to=step,
            minimum=least,
            kept=g.name in kept,
            pinned=ranking.pinned(g.name),
            barred=ranking.barred(g.name),
        )
        for g in groups
    }
    asked: float | None = None
    text, notes = "", tuple[str, ...]()
    own = _own(allocation, given)
    if isinstance(allocation, Mapping):
        if budget is not None:
            raise InputError("The 'allocation' of plan says what every group keeps, so 'budget' must be left out.")
        counts = _shares(groups, allocation, limits)
    else:
        wish = Budget.parse(budget if budget is not None else DEFAULT_BUDGET[groups.kind])
        fit = Fit(groups, limits, own or _line(allocation, ranking), Target(groups, wish), frozenset(kept))
        counts, notes = fit.run(repair=allocation != "uniform")
        asked, text = fit.asked, str(wish)
    best = {g.name: ranking.best(g.name, counts[g.name]) for g in groups}
    chosen, factors = _chosen(own, counts, best) if own is not None else (best, {})
    return Plan(
        keep=chosen,
        factors=factors,
        units={g.name: g.units for g in groups},
        kind=groups.kind,
        reached=groups.cost(counts),
        dense=groups.cost_model.dense,
        budget=text,
        asked=asked,
        criterion=getattr(given, "criterion", "given scores"),
        allocation="by share" if isinstance(allocation, Mapping) else str(own or allocation),
        notes=notes,
    )


def _check_groups(groups: Groups) -> None:
    if len(groups):
        return
    reasons = "; ".join(f"{f.name}: {f.reason}" for f in largest_frozen(groups)) or "it has no parameters to prune"
    raise InputError(f"The model has no group that can be pruned. Why, for its largest parameters: {reasons}.")


def _checked(scores: Mapping[str, Tensor], groups: Groups) -> dict[str, Tensor]:
    """The scores in the order of the groups, once they fit."""
    for g in groups:
        if g.name not in scores:
            raise InputError(f"The 'scores' parameter of plan must score every group. Group '{g.name}' is missing.")
        values = scores[g.name]
        if not isinstance(values, Tensor) or values.shape != (g.units,):
            found = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise InputError(
                f"The scores of group '{g.name}' must be a tensor of shape ({g.units},). Got {found} instead."
            )
        if bool(torch.isnan(values).any()):
            raise InputError(f"The scores of group '{g.name}' hold NaN. Every unit needs a number to be compared by.")
    return {g.name: scores[g.name] for g in groups}


def _kept(groups: Groups, patterns: Patterns, parameter: str) -> set[str]:
    """The groups that patterns mean: by their own name, a module whose shapes they change, or a parameter."""
    owners: dict[str, set[str]] = {}
    for g in groups:
        for name in (g.name, *g.modules, *(m.name for m in g.members)):
            owners.setdefault(name, set()).add(g.name)
    modules = {path: set[str]() for path, _ in groups.model.named_modules() if path}
    names = modules | {name: set[str]() for name, _ in groups.model.named_parameters()} | owners
    found = select(patterns, names, model=groups.model, parameter=parameter)
    return set().union(*(names[name] for name in found))


def _minimum(minimum: float | None, groups: Groups) -> float:
    if minimum is None:
        return 0.05 if groups.kind == "slices" else 1
    if isinstance(minimum, bool) or not minimum >= 0 or (minimum > 1 and minimum != int(minimum)):
        raise InputError(
            f"The 'minimum' parameter of plan must be a share in [0, 1) or a number of units. Got {minimum!r} instead."
        )
    return minimum


def _round_to(round_to: int) -> int:
    if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
        raise InputError(f"The 'round_to' parameter of plan must be a positive integer. Got {round_to!r} instead.")
    return round_to


def _shares(groups: Groups, shares: Share, limits: Mapping[str, Limits]) -> Counts:
    """The counts for patterns with kept shares; other groups stay whole, later patterns win."""
    wanted = {g.name: float(g.units) for g in groups}
    for pattern, share in shares.items():
        if not 0 < share <= 1:
            raise InputError(
                f"The 'allocation' of plan must keep a share in (0, 1]. Got {share} for {pattern!r} instead."
            )
        for name in _kept(groups, pattern, "'allocation' parameter of plan"):
            wanted[name] = share * groups[name].units
    return groups.balance({name: limits[name].nearest(count) for name, count in wanted.items()})


def _own(allocation: str | Share, scores: Mapping[str, Tensor]) -> Choice | None:
    """The allocation that the scores bring, where it is asked for."""
    own = getattr(scores, "own", None)
    if allocation == "own":
        if not isinstance(own, Choice):
            made = getattr(scores, "criterion", "given scores")
            raise InputError(
                f"The 'allocation' of plan can be 'own' for scores that bring one, as those of pfp do. Got {made}."
            )
        return own
    if isinstance(own, Choice) and own.rescales:
        raise InputError(
            f"The 'allocation' of plan must be 'own' for scores that rescale what stays. Got {allocation!r} for "
            f"{getattr(scores, 'criterion', 'them')} instead."
        )
    return None


def _chosen(own: Choice, counts: Counts, best: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The units that a method chooses, with their factors; groups that it has not looked at keep their best."""
    looked_at = own.wanted(own.positions)
    keep, factors = dict(best), {}
    for name in best:
        if name in looked_at:
            keep[name], found = own.units(name, counts[name])
            if found is not None:
                factors[name] = found
    return keep, factors


def _line(allocation: str, ranking: Ranking) -> Allocation:
    if allocation == "global":
        return Global(ranking)
    if allocation in ("local", "uniform"):
        return Even({name: len(values) for name, values in ranking.values.items()})
    choice = "'global', 'local', 'uniform', 'own' or a mapping"
    raise InputError(f"The 'allocation' parameter of plan must be {choice}. Got {allocation!r} instead.")
