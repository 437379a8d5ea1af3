from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from support import chain_groups, member, small_groups
from torch import nn

import secateur
from secateur import criteria
from secateur.errors import CheckpointError, InputError
from secateur.graph.elements import blocks, elements
from secateur.graph.units import Group, Groups
from secateur.masks import Masks, masked, rescale
from secateur.planning import Plan, plan
from secateur.removal import Departure, Entries, Immediate

KINDS = ["slices", "elements", "blocks"]


def groups_of(kind: str, seed: int = 0) -> Groups:
    slices = small_groups(seed)
    return {"slices": slices, "elements": elements(slices.model), "blocks": blocks(slices.model, 3, 2)}[kind]


def removed_entries(groups: Groups, kept: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensor name -> bool, true for entries of removed units: written out entry by entry from `reduce` alone."""
    gone = {}
    for g in groups:
        for m in g.members:
            tensor = groups.tensor(m.name)
            entry = torch.zeros(tensor.shape, dtype=torch.bool)
            for flat in range(tensor.numel()):
                one = torch.zeros(tensor.numel())
                one[flat] = 1
                unit = m.reduce(one.view(tensor.shape)).nonzero().flatten()
                entry.view(-1)[flat] = bool(unit.numel()) and int(unit[0]) not in kept[g.name].tolist()
            gone[m.name] = gone.get(m.name, False) | entry
    return gone


@pytest.mark.parametrize("kind", KINDS)
def test_exactly_the_removed_entries_are_zero(kind):
    torch.manual_seed(0)
    base = chain_groups([3, 4]) if kind == "slices" else None
    net = chain_groups([3, 4]).model
    groups = base or (elements(net) if kind == "elements" else blocks(net, 2, 3))
    keep = {g.name: torch.randperm(g.units)[: g.units // 2].sort().values for g in groups}
    result = masked(groups, keep)
    gone = removed_entries(groups, keep)
    for name, after in result.named_parameters():
        before = dict(groups.model.named_parameters())[name]
        lost = gone.get(name, torch.zeros_like(before, dtype=torch.bool))
        assert torch.equal(after, torch.where(lost, 0.0, before)), name


def test_removed_channels_fall_silent_and_the_rest_is_untouched():
    groups = small_groups()
    net, x = groups.model, torch.randn(4, 1, 8, 8)
    result = masked(groups, {"conv1": torch.arange(8), "conv2": torch.arange(0, 32, 2)})
    hidden = result.bn1(result.conv1(x))
    assert torch.equal(hidden[:, 8:], torch.zeros_like(hidden[:, 8:]))
    assert torch.equal(hidden[:, :8], net.bn1(net.conv1(x))[:, :8])
    assert torch.equal(result.bn1.running_mean[8:], torch.zeros(8))
    assert torch.equal(result.bn1.running_var, net.bn1.running_var)
    assert torch.equal(result.conv2.weight[1::2], torch.zeros(16, 16, 3, 3))
    assert torch.equal(result.conv2.weight[:, 8:], torch.zeros(32, 8, 3, 3))
    assert torch.equal(result.conv2.weight[::2, :8], net.conv2.weight[::2, :8])


def test_a_batch_norm_without_weights_falls_silent_by_its_running_mean():
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 2, 1)).eval()
    net[1].running_mean.fill_(3.0)
    names = [("0.weight", 0), ("0.bias", 0), ("1.running_mean", 0), ("1.running_var", 0)]
    members = [member(net, name, dim, 4, "producer") for name, dim in names]
    group = Group("0", 4, (*members, member(net, "2.weight", 1, 4, "consumer")))
    groups = Groups("slices", net, (group,), chain_groups([4]).cost_model)
    result = masked(groups, {"0": torch.tensor([1])})
    hidden = result[:2](torch.randn(2, 1, 3, 3))
    assert torch.equal(hidden[:, [0, 2, 3]], torch.zeros(2, 3, 3, 3))


def test_integers_and_flags_are_never_masked():
    net = nn.Linear(4, 4)
    net.register_buffer("order", torch.arange(4) + 1)
    members = (member(net, "weight", 0, 4, "producer"), member(net, "order", 0, 4, "producer"))
    groups = Groups("slices", net, (Group("g", 4, members),), chain_groups([4]).cost_model)
    result = masked(groups, {"g": torch.tensor([0])})
    assert result.order.tolist() == [1, 2, 3, 4]
    assert result.weight[1:].abs().sum() == 0


def test_even_weights_that_are_not_finite_are_set_to_zero():
    groups = chain_groups([4])
    groups.model[0].weight.data[2] = torch.nan
    result = masked(groups, {"hidden0": torch.tensor([0, 1])})
    assert torch.isfinite(result[0].weight).all()


def test_the_model_itself_is_not_touched():
    groups = small_groups()
    before = copy.deepcopy(groups.model.state_dict())
    result = masked(groups, plan(groups))
    assert result is not groups.model
    assert all(torch.equal(value, before[name]) for name, value in groups.model.state_dict().items())


def optimizers(parameters):
    return {
        "sgd": lambda: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        "adam": lambda: torch.optim.Adam(parameters, lr=0.1, weight_decay=0.1, amsgrad=True),
        "adamw": lambda: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1, foreach=True),
        "rmsprop": lambda: torch.optim.RMSprop(parameters, lr=0.1, momentum=0.9, centered=True),
        "adagrad": lambda: torch.optim.Adagrad(parameters, lr=0.1, initial_accumulator_value=0.5),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop", "adagrad"])
def test_removed_weights_stay_exactly_zero_while_training(kind, name):
    groups = groups_of(kind)
    net = groups.model.train()
    optimizer = optimizers(net.parameters())[name]()
    x, y = torch.randn(8, 1, 8, 8), torch.arange(8)

    def step():
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        for (
            p
        ) in net.parameters():  # units that are zero on both sides get no gradient; whatever comes must not wake them
            p.grad += 0.01 * torch.randn_like(p)
        optimizer.step()

    step()  # momentum is there before anything is removed
    masks = Masks(groups, plan(groups, criteria.random(groups), "60% weights", round_to=1))
    masks.apply()
    handle = masks.hold(optimizer)
    for _ in range(3):
        step()
        for n, mask in masks.tensor_masks().items():
            tensor = groups.tensor(n)
            lost = ~mask.expand(tensor.shape)
            assert not tensor[lost].any(), n
            assert tensor[~lost].any(), n
            for key, state in optimizer.state.get(tensor, {}).items():
                if isinstance(state, torch.Tensor) and state.shape == tensor.shape:
                    assert not state[lost].any(), (n, key)
            if tensor.grad is not None:
                assert not tensor.grad[lost].any(), n
    handle.remove()
    step()
    assert any(groups.tensor(n)[~m.expand(groups.tensor(n).shape)].any() for n, m in masks.tensor_masks().items())


def test_masks_hold_under_a_gradient_scaler_that_skips_steps():
    groups = groups_of("elements")
    net = groups.model.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    masks = Masks(groups, plan(groups, None, "20% weights"))
    masks.apply()
    x, y = torch.randn(8, 1, 8, 8), torch.arange(8)
    with masks.hold(optimizer):
        for scale in (1.0, torch.inf, 1.0):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(net(x).float(), y) * scale
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            for name, mask in masks.tensor_masks().items():
                assert not groups.tensor(name)[~mask].any()
                assert torch.isfinite(groups.tensor(name)).all()


def test_sparse_gradients_pass():
    net = nn.Sequential(nn.Embedding(6, 3, sparse=True), nn.Flatten(), nn.Linear(6, 2))
    groups = elements(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    masks = Masks(groups, plan(groups, None, "60% weights"))
    masks.apply()
    with masks.hold(optimizer):
        net(torch.tensor([[0, 1], [2, 3]])).sum().backward()
        optimizer.step()
    assert not net[0].weight[~masks.tensor_masks()["0.weight"]].any()


def test_masks_follow_a_model_that_changes_precision():
    groups = groups_of("slices")
    masks = Masks(groups, {"conv1": torch.arange(4)})
    masks.apply()
    masks.after_step()
    groups.model.double()
    groups.model.conv1.weight.data.fill_(1.0)
    masks.after_step()
    assert groups.model.conv1.weight.dtype == torch.float64
    assert groups.model.conv1.weight[4:].abs().sum() == 0
    assert groups.model.conv1.weight[:4].min() == 1


def test_untouched_tensors_have_no_mask():
    groups = small_groups()
    names = Masks(groups, {"conv1": torch.arange(8)}).tensor_masks()
    assert set(names) == {"conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias", "bn1.running_mean", "conv2.weight"}
    assert Masks(groups).tensor_masks() == {}


def test_masks_of_other_groups_are_refused():
    with pytest.raises(InputError, match="made for another model"):
        Masks(small_groups(a=8), plan(small_groups()))
    with pytest.raises(InputError, match=r"numbered 0 to 15. Got indices 16 to 16"):
        Masks(small_groups(), {"conv1": torch.tensor([16])})
    with pytest.raises(InputError, match="no group named 'conv7'"):
        Masks(small_groups(), {"conv7": torch.tensor([1])})


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 10), st.integers(1, 4))
def test_removing_bit_by_bit_ends_where_removing_at_once_does(kind, seed, parts):
    groups = groups_of(kind, seed % 3)
    made = plan(groups, criteria.random(groups, seed), "70% weights", round_to=1)
    expected = masked(groups, made).state_dict()
    masks = Masks(groups)
    for part in range(parts):
        masks.remove({g.name: made.removed(g.name)[part::parts] for g in groups})
    assert masks.counts == made.counts
    assert all(torch.equal(value, expected[name]) for name, value in groups.model.state_dict().items())


def test_masks_resume_from_their_state():
    groups = small_groups()
    masks = Masks(groups, plan(groups))
    other = Masks(groups)
    other.load_state_dict(masks.state_dict())
    mine, theirs = masks.tensor_masks(), other.tensor_masks()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    with pytest.raises(CheckpointError, match="another model"):
        Masks(small_groups(a=8)).load_state_dict(masks.state_dict())


def test_survivors_are_rescaled_once_where_they_are_read():
    groups = small_groups()
    kept = torch.tensor([1, 4, 9])
    made = Plan.of(groups, {"fc1": kept}, factors={"fc1": torch.tensor([2.0, 3.0, 0.5])})
    result = masked(groups, made)
    expected = groups.model.fc2.weight.detach()[:, kept] * torch.tensor([2.0, 3.0, 0.5])
    torch.testing.assert_close(result.fc2.weight.detach()[:, kept], expected)
    torch.testing.assert_close(result.fc1.weight[kept], groups.model.fc1.weight[kept])
    weights = elements(groups.model)
    sparse = plan(weights, None, "30% weights")
    scaled = replace(sparse, factors={name: torch.full((k.numel(),), 2.0) for name, k in sparse.keep.items()})
    before = groups.model.fc2.weight.detach().clone()
    rescale(weights, scaled)
    mask = sparse.mask("fc2.weight").view(10, 24)
    torch.testing.assert_close(groups.model.fc2.weight.detach(), torch.where(mask, 2 * before, before))


class Halving:
    """Units leave over two steps, the first of them is released."""

    def __init__(self, units):
        self.units, self.step = units, 0

    def after_step(self, groups, optimizer=None):
        self.step += 1
        if self.step == 1:
            entries = Entries(groups, {"fc1": torch.tensor(self.units)})
            entries.scale(torch.full((len(self.units),), 0.5), optimizer)
            return {}
        gone = torch.zeros(groups["fc1"].units, dtype=torch.bool)
        released = gone.clone()
        released[self.units[0]] = True
        gone[self.units[1:]] = True
        return {"fc1": Departure(gone, released, steps=2 * released.long(), kept=0.5 * released)}


def test_masks_let_units_fade_and_hold_those_that_are_gone():
    groups = small_groups()
    net = groups.model
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9)
    net(torch.randn(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    weight, momentum = net.fc1.weight.detach().clone(), optimizer.state[net.fc1.weight]["momentum_buffer"].clone()
    masks, removal = Masks(groups), Halving([2, 5])
    masks.advance(removal, optimizer)
    assert torch.equal(net.fc1.weight[[2, 5]], weight[[2, 5]] / 2)
    assert torch.equal(optimizer.state[net.fc1.weight]["momentum_buffer"][[2, 5]], momentum[[2, 5]] / 2)
    assert masks.counts["fc1"] == 24
    masks.advance(removal, optimizer)
    assert torch.equal(net.fc1.weight[2], weight[2] / 2)
    assert not net.fc1.weight[5].any()
    assert not net.fc2.weight[:, 5].any()
    assert not optimizer.state[net.fc1.weight]["momentum_buffer"][5].any()
    assert masks.counts["fc1"] == 23
    untouched = [u for u in range(24) if u not in (2, 5)]
    assert torch.equal(net.fc1.weight[untouched], weight[untouched])


def test_immediate_removal_through_masks_equals_the_masked_model():
    groups = small_groups()
    made = plan(groups)
    expected = masked(groups, made).state_dict()
    masks, removal = Masks(groups), Immediate()
    removal.start(groups, {g.name: made.removed(g.name) for g in groups})
    masks.advance(removal)
    assert all(torch.equal(value, expected[name]) for name, value in groups.model.state_dict().items())
    assert masks.advance(removal) == {}


def test_masked_units_of_a_traced_network_are_zero_wherever_they_live():
    torch.manual_seed(0)
    groups = secateur.groups(torchvision.models.shufflenet_v2_x0_5().eval(), torch.zeros(1, 3, 64, 64))
    made = plan(groups, criteria.random(groups), "60% macs")
    on_copy = replace(groups, model=masked(groups, made))
    for g in groups:
        for m in g.members:
            entries = m.reduce(on_copy.tensor(m.name).detach().abs().double())
            if not m.name.endswith("running_var"):
                assert not entries[~made.mask(g.name)].any(), m.name
