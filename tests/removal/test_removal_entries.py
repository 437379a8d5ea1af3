"""Entries of many units in one line: the same numbers as a loop over units and members gives."""

from __future__ import annotations

import pytest
import torch
from support import member, small_groups
from torch import nn

from secateur.errors import InputError
from secateur.graph.elements import blocks, elements
from secateur.graph.units import Group, Groups
from secateur.removal.entries import Entries, owned


def owned_by(groups: Groups, name: str, unit: int, side: str = "producers") -> dict[str, torch.Tensor]:
    """Tensor name -> bool of the entries that one unit owns, from `expand` alone."""
    one = torch.zeros(groups[name].units)
    one[unit] = 1
    found: dict[str, torch.Tensor] = {}
    for m in owned(groups[name], groups, side):
        mask = m.expand(one, fill=0.0).expand(m.shape) > 0
        found[m.name] = found[m.name] | mask if m.name in found else mask
    return found


def norm_of(groups: Groups, name: str, unit: int, side: str = "producers") -> float:
    masks = owned_by(groups, name, unit, side)
    return float(torch.cat([groups.tensor(n).detach().double()[mask] for n, mask in masks.items()]).norm())


@pytest.mark.parametrize("side", ["producers", "both"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_norms_are_joint_over_everything_a_unit_lives_in(side, layout):
    groups = small_groups()
    groups.model.to(memory_format=layout)
    units = {"conv1": torch.tensor([3, 0]), "fc1": torch.tensor([7])}
    entries = Entries(groups, units, side)
    expected = [norm_of(groups, "conv1", 3, side), norm_of(groups, "conv1", 0, side), norm_of(groups, "fc1", 7, side)]
    torch.testing.assert_close(entries.norms(entries.weights()), torch.tensor(expected, dtype=torch.float64))
    assert {m.name for m in owned(groups["conv1"], groups)} == {"conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias"}


@pytest.mark.parametrize("kind", ["elements", "blocks"])
def test_single_weights_and_blocks_have_norms_too(kind):
    net = small_groups().model
    groups = elements(net) if kind == "elements" else blocks(net, 3, 2)
    entries = Entries(groups, {"fc1.weight": torch.tensor([0, 5, 11])})
    expected = [norm_of(groups, "fc1.weight", unit) for unit in (0, 5, 11)]
    torch.testing.assert_close(entries.norms(entries.weights()), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_scaling_touches_the_units_alone_and_their_momentum(layout):
    groups = small_groups()
    net = groups.model.to(memory_format=layout)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    net(torch.randn(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    momenta = {n: optimizer.state[p]["momentum_buffer"].clone() for n, p in net.named_parameters()}
    Entries(groups, {"conv2": torch.tensor([1, 4])}).scale(torch.tensor([0.5, 0.25]), optimizer)
    for name, parameter in net.named_parameters():
        factor = torch.ones_like(parameter)
        for unit, value in ((1, 0.5), (4, 0.25)):
            masks = owned_by(groups, "conv2", unit)
            if name in masks:
                factor[masks[name]] = value
        assert torch.equal(parameter, before[name] * factor), name
        assert torch.equal(optimizer.state[parameter]["momentum_buffer"], momenta[name] * factor), name


def test_adams_second_moment_is_left_alone():
    groups = small_groups()
    optimizer = torch.optim.Adam(groups.model.parameters())
    groups.model(torch.randn(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    state = optimizer.state[groups.model.fc1.weight]
    first, second = state["exp_avg"].clone(), state["exp_avg_sq"].clone()
    Entries(groups, {"fc1": torch.tensor([2])}).scale(torch.tensor([0.5]), optimizer)
    assert torch.equal(state["exp_avg"][2], first[2] / 2)
    assert torch.equal(state["exp_avg_sq"], second)


def test_an_entry_owned_twice_counts_once_and_shrinks_with_all_its_units():
    net = nn.Sequential(nn.Linear(4, 4, bias=False))
    tied = Group("g", 4, (member(net, "0.weight", 0, 4, "producer"), member(net, "0.weight", 1, 4, "producer")))
    groups = Groups("slices", net, (tied,), small_groups().cost_model)
    before = net[0].weight.detach().clone()
    entries = Entries(groups, {"g": torch.tensor([0, 1])})
    square = before.double().square()
    expected = torch.stack([square[u].sum() + square[:, u].sum() - square[u, u] for u in (0, 1)]).sqrt()
    torch.testing.assert_close(entries.norms(entries.weights()), expected)
    entries.scale(torch.tensor([0.5, 0.25]))
    by = torch.tensor([0.5, 0.25, 1.0, 1.0])
    expected = before * torch.minimum(by[:, None], torch.ones(4)) * by[None, :]
    expected[0, 0], expected[1, 1] = before[0, 0] * 0.5, before[1, 1] * 0.25
    torch.testing.assert_close(net[0].weight.detach(), expected)


def test_gradients_are_read_like_weights():
    groups = small_groups()
    entries = Entries(groups, {"fc1": torch.tensor([1])})
    assert entries.gradients().abs().sum() == 0
    groups.model(torch.randn(2, 1, 8, 8)).square().sum().backward()
    expected = torch.cat([groups.model.fc1.weight.grad[1], groups.model.fc1.bias.grad[1:2]]).double()
    torch.testing.assert_close(entries.gradients(), expected)


def test_adding_reaches_every_entry():
    groups = small_groups()
    before = groups.model.fc1.weight.detach().clone()
    entries = Entries(groups, {"fc1": torch.tensor([1, 3])})
    entries.add(-entries.weights() * torch.tensor([0.5, 1.0])[entries.owner])
    torch.testing.assert_close(groups.model.fc1.weight.detach()[1], before[1] / 2)
    assert not groups.model.fc1.weight[3].any()
    assert torch.equal(groups.model.fc1.weight.detach()[2], before[2])


def test_memory_with_gaps_is_named():
    groups = small_groups()
    groups.model.fc1.weight = nn.Parameter(torch.randn(24, 256)[:, ::2])
    with pytest.raises(InputError, match=r"parameter 'fc1.weight' must have no gaps"):
        Entries(groups, {"fc1": torch.tensor([0])})
