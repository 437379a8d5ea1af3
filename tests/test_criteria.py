from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import torchvision
from support import chain_groups, small_groups
from torch import nn

import secateur
from secateur import criteria
from secateur.criteria import Scores, magnitude, norm_scale, random, shuffled, taylor
from secateur.errors import InputError
from secateur.graph.elements import blocks, elements

BATCHES = [(torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(i)), torch.arange(6) + i) for i in range(3)]


def by_hand(net, name, power):
    """What a unit of each group owns in weights that are not biases, summed up tensor by tensor."""
    if name == "conv1":
        return [net.conv1.weight.flatten(1), net.bn1.weight[:, None], net.conv2.weight.transpose(0, 1).flatten(1)]
    if name == "conv2":
        return [net.conv2.weight.flatten(1), net.bn2.weight[:, None], net.fc1.weight.T.reshape(32, -1)]
    return [net.fc1.weight, net.fc2.weight.T]


@pytest.mark.parametrize(("norm", "power"), [("l1", 1), ("l2", 2)])
@pytest.mark.parametrize("reduction", ["sum", "mean", "max"])
def test_magnitude_equals_a_hand_computation(norm, power, reduction):
    groups = small_groups()
    scores = magnitude(groups, norm, reduction=reduction, normalise="none")
    for name, found in scores.items():
        parts = torch.stack([part.abs().pow(power).sum(1) for part in by_hand(groups.model, name, power)])
        expected = {"sum": parts.sum(0), "mean": parts.mean(0), "max": parts.amax(0)}[reduction]
        torch.testing.assert_close(found, expected.detach())


def test_magnitude_of_producers_and_with_biases():
    groups = small_groups()
    net = groups.model
    only = magnitude(groups, side="producers", reduction="sum", normalise="none")["fc1"]
    torch.testing.assert_close(only, net.fc1.weight.detach().square().sum(1))
    biased = magnitude(groups, side="producers", bias=True, reduction="sum", normalise="none")["fc1"]
    torch.testing.assert_close(biased, only + net.fc1.bias.detach().square())


@pytest.mark.parametrize("how", list(criteria.NORMALISERS))
def test_normalisers_follow_their_formula(how):
    groups = small_groups()
    s = magnitude(groups, normalise="none")["conv2"]
    expected = {
        "none": s,
        "mean": s / s.mean(),
        "max": s / s.max(),
        "sum": s / s.sum(),
        "standardization": (s - s.min()) / (s.max() - s.min()),
        "gaussian": (s - s.mean()) / s.std(),
        "lamp": torch.stack([u / s[s >= u].sum() for u in s]),
    }[how]
    torch.testing.assert_close(magnitude(groups, normalise=how)["conv2"], expected)


def test_defaults_compare_slices_by_their_mean_and_weights_raw():
    groups = small_groups()
    assert all(s.mean() == pytest.approx(1) for s in magnitude(groups).values())
    weights = elements(groups.model)
    torch.testing.assert_close(magnitude(weights, "l1")["fc2.weight"], groups.model.fc2.weight.detach().abs().flatten())
    tiles = blocks(groups.model, 2, 4)
    expected = groups.model.fc2.weight.detach().square().view(5, 2, 6, 4).sum((1, 3)).flatten()
    torch.testing.assert_close(magnitude(tiles)["fc2.weight"], expected)


def test_a_group_of_zeros_scores_zero_and_not_nan():
    groups = chain_groups([4])
    for p in groups.model.parameters():
        p.data.zero_()
    for how in criteria.NORMALISERS:
        assert torch.equal(magnitude(groups, normalise=how)["hidden0"], torch.zeros(4))


def test_norm_scale_is_the_absolute_weight_and_infinite_where_there_is_no_norm():
    groups = small_groups()
    scores = norm_scale(groups)
    torch.testing.assert_close(scores["conv1"], groups.model.bn1.weight.detach().abs())
    assert torch.isinf(scores["fc1"]).all()
    with pytest.raises(InputError, match="no normalisation layer"):
        norm_scale(chain_groups([4]))


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("power", [1, 2])
def test_taylor_equals_a_hand_computation(joint, power):
    groups = chain_groups([5])
    first, second = groups.model
    x, y = torch.randn(4, 8), torch.arange(4)
    scores = taylor(groups, [(x, y), (2 * x, y)], power=power, joint=joint, reduction="sum", normalise="none")
    loss = sum(nn.functional.cross_entropy(groups.model(k * x), y) for k in (1, 2)) / 2
    gradients = torch.autograd.grad(loss, [first.weight, second.weight])
    products = [(first.weight * gradients[0]), (second.weight * gradients[1]).T]
    expected = sum(p.sum(1).abs() ** power if joint else (p.abs() ** power).sum(1) for p in products)
    torch.testing.assert_close(scores["hidden0"], expected.detach())


def test_taylor_predicts_what_a_small_step_towards_removal_does_to_the_loss():
    groups = elements(chain_groups([4]).model.double())
    x, y = torch.randn(16, 8, dtype=torch.float64), torch.arange(16) % 10
    scores = taylor(groups, [(x, y)])["1.weight"]
    weight, dense = groups.model[1].weight, nn.functional.cross_entropy(groups.model(x), y)
    for i in (0, 7, 39):
        moved = copy.deepcopy(groups.model)
        moved[1].weight.data.view(-1)[i] -= 1e-6 * weight.flatten()[i]
        change = (nn.functional.cross_entropy(moved(x), y) - dense).abs() / 1e-6
        assert change.item() == pytest.approx(scores[i].item(), rel=1e-3, abs=1e-8)


def test_taylor_leaves_the_model_as_it_was():
    groups = small_groups()
    net = groups.model
    net.train()
    net.bn2.eval()
    net.conv1.weight.requires_grad_(False)
    net.fc1.weight.grad = torch.ones_like(net.fc1.weight)
    before, grads = copy.deepcopy(net.state_dict()), {n: p.grad for n, p in net.named_parameters()}
    flags, modes = {n: p.requires_grad for n, p in net.named_parameters()}, [m.training for m in net.modules()]
    random_state = torch.get_rng_state()
    with torch.no_grad():
        scores = taylor(groups, ((x + torch.rand(1), y) for x, y in BATCHES))
    assert scores["conv1"].abs().sum() > 0  # the parameter that does not train is judged as well
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert {n: p.grad for n, p in net.named_parameters()}.keys() == grads.keys()
    assert all(p.grad is grads[n] for n, p in net.named_parameters())
    assert {n: p.requires_grad for n, p in net.named_parameters()} == flags
    assert [m.training for m in net.modules()] == modes


def test_taylor_restores_what_does_not_train_when_it_fails():
    groups = small_groups()
    groups.model.conv1.weight.requires_grad_(False)
    with pytest.raises(RuntimeError):
        taylor(groups, [(torch.zeros(1, 5), torch.zeros(1))])
    assert not groups.model.conv1.weight.requires_grad


def test_taylor_refuses_batches_it_cannot_use():
    groups = small_groups()
    with pytest.raises(InputError, match="at least one"):
        taylor(groups, [])
    with pytest.raises(InputError, match="pairs"):
        taylor(groups, [torch.zeros(1, 1, 8, 8)])
    with pytest.raises(InputError, match="loss of batch 1 is nan"):
        taylor(groups, [(torch.full((2, 1, 8, 8), torch.nan), torch.zeros(2, dtype=torch.long))])
    with pytest.raises(InputError, match="no gradient"):
        taylor(groups, BATCHES, loss=lambda out, y: nn.functional.cross_entropy(out.detach(), y))


def test_random_depends_on_its_seed_alone():
    groups = small_groups()
    torch.manual_seed(5)
    one, two, other = random(groups, 1), random(groups, 1), random(groups, 2)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["conv1"], other["conv1"])


def test_shuffled_scores_keep_their_values_and_what_is_infinite_its_place():
    scores = Scores({"a": torch.arange(50.0), "b": torch.tensor([torch.inf, 1.0, 2.0, -torch.inf, 3.0])}, "some")
    one, two, other = shuffled(scores, 1), shuffled(scores, 1), shuffled(scores, 2)
    assert torch.equal(one["a"].sort().values, scores["a"])
    assert not torch.equal(one["a"], scores["a"])
    assert torch.equal(one["a"], two["a"])
    assert not torch.equal(one["a"], other["a"])
    assert torch.equal(one["b"][[0, 3]], scores["b"][[0, 3]])
    assert one["b"][[1, 2, 4]].sort().values.tolist() == [1, 2, 3]
    assert one.criterion == "shuffled(some, seed=1)"


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("criterion", [magnitude, lambda g: taylor(g, BATCHES)])
def test_weights_that_are_not_finite_are_named(bad, criterion):
    groups = small_groups()
    groups.model.fc2.weight.data[3, 3] = bad
    with pytest.raises(InputError, match=r"'fc2\.weight'"):
        criterion(groups)


@pytest.mark.parametrize(
    "call",
    [
        lambda g: magnitude(g, "l3"),
        lambda g: magnitude(g, side="consumers"),
        lambda g: magnitude(g, reduction="prod"),
        lambda g: magnitude(g, normalise="median"),
        lambda g: taylor(g, BATCHES, power=3),
    ],
)
def test_unknown_choices_list_the_known_ones(call):
    with pytest.raises(InputError, match=r"must be (one of|1 or 2).*Got"):
        call(small_groups())


def permuted(groups, name, order):
    """The same groups on a copy whose units of one group are in another order."""
    moved = dataclasses.replace(groups, model=copy.deepcopy(groups.model))
    for m in groups[name].members:
        index = torch.cat([(m.labels == unit).nonzero().flatten() for unit in order])
        moved.tensor(m.name).data.copy_(groups.tensor(m.name).index_select(m.dim, index))
    return moved


@pytest.mark.parametrize("name", ["conv1", "conv2", "fc1"])
@pytest.mark.parametrize(
    "criterion", [magnitude, lambda g: magnitude(g, "l1"), norm_scale, lambda g: taylor(g, BATCHES)]
)
def test_criteria_are_equivariant_to_the_order_of_units(criterion, name):
    groups = small_groups()
    order = torch.randperm(groups[name].units, generator=torch.Generator().manual_seed(3))
    moved = permuted(groups, name, order)
    x = BATCHES[0][0]
    torch.testing.assert_close(moved.model(x), groups.model(x))
    torch.testing.assert_close(criterion(moved)[name], criterion(groups)[name][order], rtol=1e-4, atol=1e-5)


def test_half_precision_weights_are_scored_in_single_precision():
    groups = chain_groups([4])
    groups.model.half()
    groups.model[0].weight.data.fill_(300.0)  # its square is beyond half precision
    scores = magnitude(groups, normalise="none", side="producers")
    assert torch.equal(scores["hidden0"], torch.full((4,), 8 * 300.0**2))


def test_scores_say_what_made_them():
    groups = small_groups()
    assert magnitude(groups).criterion == "magnitude(norm=l2, reduction=mean, normalise=mean, side=both)"
    assert random(groups, 7).criterion == "random(seed=7)"


def test_every_criterion_scores_a_traced_network():
    torch.manual_seed(0)
    groups = secateur.groups(torchvision.models.mobilenet_v2().eval(), torch.zeros(1, 3, 32, 32))
    batches = [(torch.randn(2, 3, 32, 32), torch.tensor([1, 2]))]
    for scores in (magnitude(groups), norm_scale(groups), taylor(groups, batches), random(groups)):
        assert {name: s.shape for name, s in scores.items()} == {g.name: (g.units,) for g in groups}
        assert not any(s.requires_grad or s.isnan().any() for s in scores.values())
