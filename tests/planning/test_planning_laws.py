from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import chain_groups

from secateur import criteria
from secateur.errors import BudgetError, InputError
from secateur.graph.units import Groups
from secateur.planning import Plan, plan

laws = settings(max_examples=60, deadline=None)
networks = st.builds(
    lambda layers, seed: chain_groups([w for w, _ in layers], [m for _, m in layers], seed=seed),
    st.lists(
        st.tuples(st.integers(2, 96), st.just(1)) | st.tuples(st.integers(2, 8), st.sampled_from([4, 8, 12])),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 3),
)
allocations = st.sampled_from(["global", "local", "uniform"])


def steps(groups: Groups, counts: dict[str, int], round_to: int) -> list[dict[str, int]]:
    """Every plan that keeps one rounding step more of one group."""
    grown = []
    for g in groups:
        step = round_to // math.gcd(round_to, g.multiple) if g.units * g.multiple >= 2 * round_to else 1
        if counts[g.name] < g.units:
            grown.append({**counts, g.name: min(g.units, (counts[g.name] // step + 1) * step)})
    return grown


@laws
@given(
    networks,
    st.sampled_from(["global", "local"]),
    st.integers(5, 100),
    st.sampled_from(["macs", "params"]),
    st.sampled_from([1, 4, 8]),
)
def test_budgets_are_met_within_one_percent_or_one_step(groups, allocation, percent, unit, round_to):
    try:
        made = plan(groups, None, f"{percent}% {unit}", allocation=allocation, round_to=round_to)
    except BudgetError:
        fewest = plan(groups, allocation={"*": 1e-9}, round_to=round_to)
        assert getattr(fewest.reached, unit) > 1.01 * percent / 100 * getattr(fewest.dense, unit)
        return
    reached = getattr(made.reached, unit)
    if reached > made.asked:
        assert made.counts == plan(groups, allocation={"*": 1e-9}, round_to=round_to).counts
        assert reached <= 1.01 * made.asked
    elif reached < 0.99 * made.asked:
        assert all(getattr(groups.cost(more), unit) > made.asked for more in steps(groups, made.counts, round_to))
        assert any("another step passes it" in note for note in made.notes)


@laws
@given(networks, allocations, st.integers(40, 100), st.sampled_from([1, 2, 8, 16]), st.sampled_from([0.05, 0.25, 1, 3]))
def test_widths_are_rounded_and_keep_their_minimum(groups, allocation, percent, round_to, minimum):
    try:
        made = plan(groups, None, f"{percent}% macs", allocation=allocation, round_to=round_to, minimum=minimum)
    except BudgetError:
        return
    for g in groups:
        count = made.counts[g.name]
        least = min(g.units, max(1, math.ceil(minimum * g.units) if minimum < 1 else minimum))
        assert least <= count <= g.units
        if g.units * g.multiple >= 2 * round_to and count < g.units:
            assert count * g.multiple % round_to == 0
    assert made.reached == groups.cost(made.counts)
    assert made.dense == groups.cost()


@laws
@given(networks, st.integers(0, 5), st.integers(30, 90))
def test_global_plans_keep_the_best_units_of_the_network(groups, seed, percent):
    """Without rounding, only the last steps that use up the budget may stand above the common threshold."""
    scores = criteria.random(groups, seed)
    try:
        made = plan(groups, scores, f"{percent}% channels", round_to=1, minimum=1)
    except BudgetError:
        return
    for g in groups:  # within a group, always the best
        kept = torch.zeros(g.units, dtype=torch.bool)
        kept[made.keep[g.name]] = True
        if not kept.all():
            assert scores[g.name][kept].min() >= scores[g.name][~kept].max()
    total = sum(made.counts.values())
    ranked = sorted(((float(s), g.name) for g in groups for s in scores[g.name]), reverse=True)
    best = [name for _, name in ranked[:total]]
    if all(best.count(g.name) >= 1 for g in groups):
        assert {g.name: best.count(g.name) for g in groups} == made.counts


@laws
@given(networks, allocations, st.integers(30, 89), st.integers(1, 10))
def test_more_budget_never_costs_less(groups, allocation, percent, more):
    try:
        small = plan(groups, None, f"{percent}% macs", allocation=allocation, round_to=4)
    except BudgetError:
        return
    large = plan(groups, None, f"{percent + more}% macs", allocation=allocation, round_to=4)
    slack = 0 if allocation == "uniform" else 0.01 * large.asked
    steps_over = [groups.cost(c).macs for c in steps(groups, large.counts, 4)]
    assert large.reached.macs >= small.reached.macs - slack or min(steps_over) > large.asked


@laws
@given(networks, allocations, st.integers(30, 100))
def test_plans_are_deterministic_and_survive_json(groups, allocation, percent):
    tied = {g.name: torch.ones(g.units) for g in groups}
    try:
        made, again = (plan(groups, tied, f"{percent}% macs", allocation=allocation) for _ in range(2))
    except BudgetError:
        return
    assert made.to_json() == again.to_json()
    assert Plan.from_json(json.loads(json.dumps(made.to_json()))).to_json() == made.to_json()
    for name, kept in made.keep.items():  # equal scores: the first units stay
        assert torch.equal(kept, torch.arange(kept.numel())), name


def test_uniform_keeps_the_same_share_everywhere():
    groups = chain_groups([40, 80, 120])
    made = plan(groups, None, "30% macs", allocation="uniform", round_to=1)
    shares = [made.counts[g.name] / g.units for g in groups]
    assert max(shares) - min(shares) <= 1 / 40
    rounded = plan(groups, None, "30% macs", allocation="uniform", round_to=8)
    assert all(count % 8 == 0 for count in rounded.counts.values())
    assert rounded.reached.macs <= rounded.asked
    assert any("allocation='local'" in note for note in rounded.notes) == (rounded.reached.macs < 0.99 * rounded.asked)


def test_a_mapping_gives_shares_to_groups_modules_and_patterns():
    groups = chain_groups([32, 64, 128])
    made = plan(groups, allocation={"hidden*": 0.5, "hidden2": 0.25})
    assert made.counts == {"hidden0": 16, "hidden1": 32, "hidden2": 32}
    assert (made.budget, made.asked, made.allocation) == ("", None, "by share")
    assert plan(groups, allocation={"hidden1": 0.5}).counts == {"hidden0": 32, "hidden1": 32, "hidden2": 128}
    with pytest.raises(InputError, match="'budget' must be left out"):
        plan(groups, None, "50% macs", allocation={"hidden1": 0.5})
    with pytest.raises(InputError, match=r"share in \(0, 1\]"):
        plan(groups, allocation={"hidden1": 1.5})
    with pytest.raises(InputError, match=r"'hidden9', which matches nothing.*'hidden"):
        plan(groups, allocation={"hidden9": 0.5})
