from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torchvision
from support import chain_groups, small_groups
from torch import nn

import secateur
from secateur import criteria
from secateur.errors import BudgetError, InputError
from secateur.graph.units import Frozen, Groups
from secateur.planning import Budget, Plan, plan


@pytest.mark.parametrize(
    ("keep", "whole"),
    [
        (["fc1"], {"conv2", "fc1"}),  # the module's inputs and its outputs
        ("conv1", {"conv1"}),
        (["bn2"], {"conv2"}),
        (["fc2.weight"], {"fc1"}),
        (["conv*.weight"], {"conv1", "conv2"}),
        (["re:conv1|fc2"], {"conv1", "fc1"}),
        (["fc2.bias"], set()),  # exists, and nothing removes from it
        (lambda net: net.bn1, {"conv1"}),
        (lambda net: [net.bn2, "fc2"], {"conv2", "fc1"}),
    ],
)
def test_what_is_kept_stays_whole(keep, whole):
    groups = small_groups()
    wish = keep(groups.model) if callable(keep) else keep
    made = plan(groups, None, "90% channels", keep=wish, round_to=1, allocation="uniform")
    assert {g.name for g in groups if made.counts[g.name] == g.units} == whole


def test_patterns_that_match_nothing_offer_the_nearest_names():
    groups = small_groups()
    with pytest.raises(InputError, match=r"'keep' parameter of plan holds 'con1', which matches nothing.*'conv1'"):
        plan(groups, keep=["con1"])
    with pytest.raises(InputError, match="not a regular expression"):
        plan(groups, keep=["re:("])
    with pytest.raises(InputError, match="Linear that is not part of the model"):
        plan(groups, keep=[nn.Linear(1, 1)])
    with pytest.raises(InputError, match="Got int"):
        plan(groups, keep=[3])


def test_units_of_infinite_score_always_stay():
    groups = chain_groups([64, 64])
    scores = criteria.random(groups)
    scores["hidden1"][:40] = torch.inf
    for allocation in ("global", "local", "uniform"):
        made = plan(groups, scores, "40% channels", allocation=allocation, minimum=1)
        assert set(range(40)) <= set(made.keep["hidden1"].tolist())
        assert made.counts["hidden0"] < 16


def test_balanced_groups_are_costed_as_they_end():
    class Tied(Groups):
        def balance(self, counts):
            full = super().balance(counts)
            return dict.fromkeys(full, max(full.values()))

    base = chain_groups([64, 64, 64])
    groups = Tied("slices", base.model, base.items, base.cost_model)
    made = plan(groups, criteria.random(groups), "50% macs", round_to=8)
    assert len(set(made.counts.values())) == 1
    assert made.reached == groups.cost(made.counts)
    with pytest.raises(InputError, match="'hidden1' must keep 64 units beside the others"):
        Plan.of(groups, {"hidden1": torch.arange(8)})


class Heads(Groups):
    """A chain whose code asks that its third width be eight times its first: heads, and the stream they write to."""

    def balance(self, counts):
        full = super().balance(counts)
        heads = max(full["hidden0"], -(-full["hidden2"] // 8))
        return {**full, "hidden0": heads, "hidden2": 8 * heads}


@pytest.mark.parametrize("allocation", ["global", "local"])
@pytest.mark.parametrize("percent", range(30, 90, 6))
def test_other_groups_pay_for_a_step_of_tied_ones(allocation, percent):
    base = chain_groups([6, 24, 48, 24], [8, 1, 1, 1])
    groups = Heads("slices", base.model, base.items, base.cost_model)
    made = plan(groups, criteria.random(groups), f"{percent}% macs", allocation=allocation, round_to=1)
    assert groups.balance(made.counts) == made.counts
    assert 0.99 * made.asked <= made.reached.macs <= made.asked
    assert not made.notes


def test_the_group_minimum_counts():
    base = chain_groups([64, 64])
    groups = replace(base, items=tuple(replace(g, minimum=30) for g in base.items))
    made = plan(groups, criteria.random(groups), "60% channels", round_to=8)
    assert all(count >= 32 for count in made.counts.values())


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (lambda s: s.pop("conv2"), "Group 'conv2' is missing"),
        (lambda s: s.update(conv2=torch.ones(3)), r"group 'conv2' must be a tensor of shape \(32,\). Got shape \(3,\)"),
        (lambda s: s.update(conv2=[1.0]), "Got list"),
        (lambda s: s["conv2"].fill_(torch.nan), "group 'conv2' hold NaN"),
    ],
)
def test_scores_that_do_not_fit_name_their_group(scores, message):
    groups = small_groups()
    given = dict(criteria.random(groups))
    scores(given)
    with pytest.raises(InputError, match=message):
        plan(groups, given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"round_to": 0}, "'round_to' parameter of plan must be a positive integer. Got 0"),
        ({"round_to": 2.0}, "positive integer"),
        ({"minimum": -1}, "'minimum' parameter of plan"),
        ({"minimum": 1.5}, "'minimum' parameter of plan"),
        ({"minimum": math.nan}, "'minimum' parameter of plan"),
        ({"allocation": "globl"}, "Got 'globl'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        plan(small_groups(), **arguments)


def test_budgets_out_of_reach_say_how_far_and_what_holds():
    groups = small_groups()
    with pytest.raises(BudgetError) as error:
        plan(groups, None, "2% macs", keep=["conv1"])
    text = str(error.value)
    fewest = plan(groups, allocation={"*": 1e-9}, keep=["conv1"]).reached.macs
    assert f"{100 * fewest / groups.cost().macs:.1f} % of the macs remain" in text
    assert "'keep' keeps 1 of 3 groups whole" in text
    assert "'minimum' and 'round_to' keep some of 2 groups" in text
    assert "'fc2.bias[0]' cannot be pruned (it is the model's output)" in text


def test_a_model_without_groups_says_why():
    base = small_groups()
    frozen = (Frozen("fc1.weight[1]", 128, "an unknown operator reads it"),)
    with pytest.raises(InputError, match=r"no group that can be pruned.*fc1\.weight\[1\]: an unknown operator"):
        plan(replace(base, items=(), frozen=frozen))


def test_nothing_is_removed_for_the_whole_budget():
    groups = small_groups()
    for budget in ("100% macs", "1x params", "72 channels"):
        assert all(made.before == made.after for made in plan(groups, None, budget).table())


def test_few_costs_are_asked_for():
    widths = [16, 32, 64, 128, 256] * 40
    groups = chain_groups(widths)
    for allocation in ("global", "local", "uniform"):
        groups.cost_model.calls = 0
        made = plan(groups, criteria.random(groups), "50% macs", allocation=allocation)
        assert groups.cost_model.calls < 60
        assert made.reached.macs <= made.asked
        assert made.reached.macs >= 0.99 * made.asked or allocation == "uniform"


@pytest.fixture(scope="module")
def traced() -> Groups:
    torch.manual_seed(0)
    return secateur.groups(torchvision.models.mobilenet_v3_small().eval(), torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("budget", ["50% macs", "3x params", "60% channels", "1.5M params"])
@pytest.mark.parametrize("allocation", ["global", "local"])
def test_budgets_are_met_on_a_traced_network(traced, allocation, budget):
    made = plan(traced, None, budget, allocation=allocation)
    unit = Budget.parse(budget).unit
    reached = sum(made.counts.values()) if unit == "channels" else getattr(made.reached, unit)
    assert 0.99 * made.asked <= reached <= made.asked
    assert traced.balance(made.counts) == made.counts
    for g in traced:
        assert made.counts[g.name] >= min(g.units, max(g.minimum, math.ceil(0.05 * g.units)))


def test_modules_of_a_traced_network_stay_whole(traced):
    made = plan(traced, None, "60% macs", keep=["features.4", traced.model.classifier[0]])
    counts = made.counts
    for g in traced:
        if any(m.startswith("features.4.") or m == "classifier.0" for m in g.modules):
            assert counts[g.name] == g.units
    assert made.reached.macs == pytest.approx(made.asked, rel=0.01)


def test_units_that_score_minus_infinity_never_stay():
    groups = small_groups()
    scores = criteria.random(groups)
    for barred in (3, 8, 12):
        scores["conv2"][:barred] = -torch.inf
        made = plan(groups, scores, "90% macs", round_to=8)
        assert not made.mask("conv2")[:barred].any()
        assert made.counts["conv2"] % 8 == 0
    scores["conv2"][:] = -torch.inf
    assert plan(groups, scores, "90% macs", round_to=8).counts["conv2"] == 8  # a group keeps its minimum
