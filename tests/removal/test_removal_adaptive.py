"""Adaptive decay: steps by what the gradient says, under a budget, and the laws of `Decay` with them."""

from __future__ import annotations

import pytest
import torch
from support import small_groups
from torch.nn import functional as F

from secateur.errors import InputError
from secateur.removal import Adaptive, Decay, Entries, Rectify
from secateur.removal.adaptive import resistance, spent

LEAVING = {"conv1": torch.tensor([1, 6]), "conv2": torch.tensor([0, 9, 31]), "fc1": torch.tensor([4])}


def pushed(groups, way):
    """The groups, with gradients of `way` (a number by group name) times the weights: positive ones shrink a unit."""
    for name, factor in way.items():
        for m in groups[name].producers:
            if not m.buffer:
                tensor = groups.tensor(m.name)
                tensor.grad = factor * tensor.detach().clone()
    return groups


def norms(groups, units):
    entries = Entries(groups, units)
    return entries.norms(entries.weights())


def test_resistance_is_the_cosine_by_hand():
    groups = pushed(small_groups(), {"conv1": 2.0, "conv2": -0.5})
    torch.testing.assert_close(resistance(groups, LEAVING), torch.tensor([-1.0, 1.0, 0.0]).double())
    weight, bias = groups.model.fc1.weight, groups.model.fc1.bias
    weight.grad, bias.grad = torch.ones_like(weight), torch.ones_like(bias)
    x = torch.cat([weight[4], bias[4:5]])
    expected = -F.cosine_similarity(x, torch.ones_like(x), dim=0).double()
    torch.testing.assert_close(resistance(groups, LEAVING)[2], expected, atol=1e-6, rtol=0)


def test_the_budget_is_spent_where_units_resist():
    steps = spent(torch.tensor([-0.2, 0.2]), torch.tensor([5.0, 5.0]), mean=50, low=20, high=100)
    torch.testing.assert_close(steps, torch.tensor([20.0, 80.0]))
    even = spent(torch.tensor([0.3, 0.3]), torch.tensor([1.0, 9.0]), mean=50, low=20, high=100)
    torch.testing.assert_close(even, torch.tensor([50.0, 50.0]))
    generator = torch.Generator().manual_seed(0)
    for mean in (12.0, 50.0, 90.0, 100.0):
        resisting = torch.rand(9, generator=generator) - 0.5
        units = torch.randint(1, 20, (9,), generator=generator).double()
        steps = spent(resisting, units, mean=mean, low=10, high=100)
        torch.testing.assert_close((steps * units).sum() / units.sum(), torch.tensor(mean).double())
        assert (steps[resisting.argsort()].diff() >= 0).all()
        assert 10 <= steps.min() <= steps.max() <= 100


def test_each_group_falls_on_a_line_of_its_own():
    groups = pushed(small_groups(), {"conv1": 1.0, "conv2": -1.0})
    removal, start = Adaptive(12, mean=0.5, least=0.25), norms(groups, LEAVING)
    removal.start(groups, LEAVING)
    many = removal.paces(groups, LEAVING)
    assert 3 <= many["conv1"] < many["fc1"] < many["conv2"] <= 12
    assert sum(many[name] * len(units) for name, units in LEAVING.items()) <= 6 * 6
    each = torch.cat([torch.full((len(units),), many[name]) for name, units in LEAVING.items()])
    ends = {}
    for n in range(1, 13):
        with torch.no_grad():
            for p in groups.model.parameters():
                p.add_(torch.randn_like(p), alpha=1e-2)
        ends |= dict.fromkeys(removal.after_step(groups), n)
        line, on = start * (1 - n / each), n <= each  # those that are gone are for masks to hold
        torch.testing.assert_close(norms(groups, LEAVING)[on], line[on], rtol=1e-6, atol=0)
    assert ends == many


def test_without_gradients_it_is_decay_of_the_mean():
    one, other = small_groups(), small_groups()
    for groups, removal in ((one, Adaptive(10)), (other, Decay(5))):
        removal.start(groups, LEAVING)
        for _ in range(3):
            removal.after_step(groups)
    first, second = one.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_releases_are_judged_on_each_units_own_way():
    groups = pushed(small_groups(), {"conv1": 1.0, "conv2": -1.0})
    units = {name: LEAVING[name] for name in ("conv1", "conv2")}
    removal = Adaptive(20, Rectify(rate=-1.0, length=0.0, after=4, memory=0.0), mean=0.3, least=0.1)
    removal.start(groups, units)
    few = removal.paces(groups, units)["conv1"]
    assert few < 4
    ended = {}
    for _ in range(20):
        removal.before_step(groups)
        with torch.no_grad():
            for p in groups.model.parameters():
                p.mul_(1.001)
        ended |= removal.after_step(groups)
    assert ended["conv1"].gone.nonzero().flatten().tolist() == [1, 6]
    assert ended["conv1"].steps[1] == few
    assert ended["conv2"].released.nonzero().flatten().tolist() == [0, 9, 31]
    assert ended["conv2"].steps[9] == 4


def test_a_resumed_one_keeps_its_pace():
    whole, first, second = (pushed(small_groups(), {"conv1": 1.0, "conv2": -1.0}) for _ in range(3))
    policies = [Adaptive(12) for _ in range(3)]
    for groups, removal in zip((whole, first), policies[:2], strict=True):
        removal.start(groups, LEAVING)
    for _ in range(9):
        policies[0].after_step(whole)
    for _ in range(2):
        policies[1].after_step(first)
    second.model.load_state_dict(first.model.state_dict())
    policies[2].load_state_dict(second, policies[1].state_dict())
    for _ in range(7):
        policies[2].after_step(second)
    one, other = whole.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_shares_out_of_range_are_named():
    with pytest.raises(InputError, match=r"'mean' parameter of Adaptive must be a share of the steps in \(0, 1\]"):
        Adaptive(10, mean=0)
    with pytest.raises(InputError, match=r"'least' parameter of Adaptive must be a share of the steps in \[0, 0.2\]"):
        Adaptive(10, mean=0.2, least=0.3)
