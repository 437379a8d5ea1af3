"""The cost functions against torch's own counter and the parameters of the module that is really cut."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws.networks import NETWORKS, Tied, network
from laws.reference import macs_of, random_plan
from torch import nn

import secateur


@pytest.mark.parametrize("name", NETWORKS)
def test_costs_are_those_of_the_model(name: str) -> None:
    model, example = network(name)
    groups = secateur.groups(model, example)
    assert groups.cost().macs == macs_of(model, groups.inputs)
    assert groups.cost().params == sum(p.numel() for p in model.parameters())
    for share in (0.2, 0.6):
        plan = random_plan(groups, share=share)
        slim = secateur.slim(groups, plan, verify=False)
        cost = groups.cost(plan.counts)
        assert cost == plan.reached
        assert cost.macs == cost.nonzero_macs == macs_of(slim, groups.inputs)
        assert cost.params == cost.weights == sum(p.numel() for p in slim.parameters())


def test_a_multiply_accumulate_is_one_mac() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16, 5))
    groups = secateur.groups(model.eval(), torch.zeros(2, 3, 4, 4))
    assert groups.cost().macs == 2 * (16 * 8 * 27 + 128 * 5)
    assert groups.cost({"0": 3}).macs == 2 * (16 * 3 * 27 + 48 * 5)


def test_tied_parameters_count_once() -> None:
    groups = secateur.groups(Tied().eval(), torch.zeros(1, 4, dtype=torch.long))
    assert groups.cost().params == sum(p.numel() for p in Tied().parameters())


def test_transposed_and_grouped_convolutions() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 6, 3, stride=2), nn.Conv2d(6, 12, 1, groups=3))
    groups = secateur.groups(model.eval(), torch.zeros(1, 3, 5, 5))
    assert groups.cost().macs == 25 * 24 + 25 * 8 * 6 * 9 + 121 * 12 * 2


@cache
def traced(name: str) -> secateur.Groups:
    return secateur.groups(*network(name))


@settings(max_examples=25)
@given(st.data())
def test_costs_grow_with_every_unit(data: st.DataObject) -> None:
    groups = traced("Shuffle")
    counts = {g.name: data.draw(st.integers(1, g.units)) for g in groups}
    base = groups.cost(counts)
    for group in groups:
        if counts[group.name] < group.units:
            more = groups.cost({**counts, group.name: counts[group.name] + 1})
            assert more.macs >= base.macs
            assert more.params > base.params


@settings(max_examples=25)
@given(st.data())
def test_balanced_counts_are_the_least_above_those_asked(data: st.DataObject) -> None:
    groups = traced("Multihead")
    counts = {g.name: data.draw(st.integers(1, g.units)) for g in groups}
    balanced = groups.balance(counts)
    assert groups.balance(balanced) == balanced
    for group in groups:
        assert max(counts[group.name], group.minimum) <= balanced[group.name] <= group.units
    raised = groups.balance({n: min(groups[n].units, c + 1) for n, c in counts.items()})
    assert all(raised[n] >= balanced[n] for n in balanced)
