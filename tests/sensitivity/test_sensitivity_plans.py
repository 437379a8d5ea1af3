"""SiPP, PFP, FT, SNIP and WT from scores to plans, and what the plans promise."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from support import SmallNet, chain_groups
from torch import Tensor, nn

import secateur
from secateur.criteria import Scores, filter_norm, magnitude, snip
from secateur.errors import InputError
from secateur.graph.units import Groups
from secateur.masks import masked, tensor_factors
from secateur.planning import Plan, plan
from secateur.sensitivity import pfp, relative_errors, sipp, sipp_bound
from secateur.sensitivity.pfp import Errors

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
EXAMPLES = [(IMAGES[:4], torch.arange(4)), (IMAGES[4:], torch.arange(2))]
VARIANTS = ["deterministic", "random", "partial"]


def network() -> SmallNet:
    """One whose channels all speak up now and then."""
    torch.manual_seed(0)
    net = SmallNet().eval()
    for norm in (net.bn1, net.bn2):
        norm.bias.data.uniform_(0, 0.5)
    return net


def weights() -> Groups:
    return secateur.elements(network(), IMAGES[:1])


def channels() -> Groups:
    return secateur.groups(network(), IMAGES[:1])


def by_definition(weight: Tensor, a: Tensor) -> Tensor:
    """The largest share of every input in any neuron and patch: `[J]` of weights `[I, J]` and patches `[J, P]`."""
    found = torch.zeros(weight.shape[1])
    for row in weight:
        for part in (row.clamp_min(0), row.clamp_max(0)):
            for patch in a.T:
                z = (part * patch).sum()
                if abs(z) > 1e-6:
                    found = torch.maximum(found, part * patch / z)
    return found


def test_a_channel_scores_what_all_weights_that_read_it_contribute_together():
    """Of conv2, read by a linear layer through four numbers each: the unit's four together, or the largest of them."""
    groups = channels()
    net = groups.model
    hidden = torch.relu(net.bn1(net.conv1(IMAGES[:2])))
    flat = nn.functional.adaptive_avg_pool2d(torch.relu(net.bn2(net.conv2(hidden))), 2).flatten(1).detach()
    weight = net.fc1.weight.detach()
    together, alone = torch.zeros(32), torch.zeros(32)
    for x in flat:
        shares = torch.zeros(24, 2, 128)
        for i, row in enumerate(weight):
            for k, part in enumerate((row.clamp_min(0), row.clamp_max(0))):
                z = (part * x).sum()
                shares[i, k] = part * x / z if abs(z) > 1e-6 else 0
        together = torch.maximum(together, shares.view(-1, 32, 4).sum(-1).amax(0))
        alone = torch.maximum(alone, shares.view(-1, 32, 4).amax((0, 2)))
    assert torch.allclose(pfp(groups, EXAMPLES, samples=2)["conv2"], together, atol=1e-5)
    assert torch.allclose(pfp(groups, EXAMPLES, samples=2, numerator="tap")["conv2"], alone, atol=1e-5)
    assert not torch.allclose(together, alone, atol=1e-2)


class Twice(nn.Module):
    """One layer that two others read."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 6)
        self.left, self.right = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.sigmoid(self.first(x))
        return self.left(x), self.right(x)


def test_the_score_of_a_group_is_the_largest_over_what_reads_it():
    torch.manual_seed(0)
    net, x = Twice(), torch.randn(1, 5)
    groups = secateur.groups(net, x)
    hidden = torch.sigmoid(net.first(x)).detach().T
    left, right = (by_definition(layer.weight.detach(), hidden) for layer in (net.left, net.right))
    found = pfp(groups, [(x, None)], samples=1)["first"]
    assert torch.allclose(found, torch.maximum(left, right), atol=1e-6)
    assert bool((left > right).any())
    assert bool((right > left).any())


@pytest.mark.parametrize("variant", VARIANTS)
def test_pfp_meets_the_budget_and_is_proven(variant):
    groups = channels()
    scores = pfp(groups, EXAMPLES, variant=variant, samples=3, seed=3)
    chosen = plan(groups, scores, "50% macs", allocation="own", round_to=1)
    assert 0.97 * chosen.asked < chosen.reached.macs <= chosen.asked
    assert min(chosen.counts.values()) >= 1
    assert chosen.allocation == "equal relative errors"
    assert bool(chosen.factors) == (variant != "deterministic")
    if variant == "deterministic":
        gone = {name: chosen.removed(name) for name in chosen.keep if len(chosen.removed(name))}
        assert all(float(scores[n][chosen.keep[n]].min()) >= float(scores[n][i].max()) for n, i in gone.items())
        assert gone
    small = secateur.slim(groups, chosen)
    assert secateur.record(small).proof.holds
    whole = masked(groups, chosen)
    x = IMAGES.double()
    assert torch.allclose(small.double()(x), whole.double()(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", ["random", "partial"])
def test_factors_rescale_what_reads_a_channel_in_the_slim_as_in_the_masked_model(variant):
    groups = channels()
    before = copy.deepcopy(groups.model.state_dict())
    chosen = plan(
        groups, pfp(groups, EXAMPLES, variant=variant, samples=2), "50% channels", allocation="own", round_to=1
    )
    small, kept = secateur.slim(groups, chosen), chosen.keep
    factors = chosen.factors["conv1"].to(torch.float32)
    read = before["conv2.weight"][kept["conv2"]][:, kept["conv1"]] * factors[None, :, None, None]
    assert torch.equal(small.conv2.weight, read)
    assert torch.equal(small.conv1.weight, before["conv1.weight"][kept["conv1"]])
    assert float((factors - 1).abs().max()) > 0.05
    sure = float((factors == 1).float().mean())
    assert (sure > 0) == (variant == "partial")


def test_a_plan_with_factors_is_replayed_from_its_file(tmp_path):
    for groups, scores in (
        (channels(), lambda g: pfp(g, EXAMPLES, variant="random", samples=2)),
        (weights(), lambda g: sipp(g, EXAMPLES, variant="random", samples=2)),
    ):
        chosen = plan(groups, scores(groups), allocation="own")
        loaded = Plan.load(chosen.save(tmp_path))
        assert all(torch.equal(loaded.factors[name], factor) for name, factor in chosen.factors.items())
        first, second = secateur.slim(groups, chosen), secateur.slim(groups, loaded)
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_group_that_cannot_be_proven_leaves_the_factors_of_others():
    groups = channels()
    chosen = plan(groups, pfp(groups, EXAMPLES, variant="random", samples=2), "30% macs", allocation="own", round_to=1)
    groups.items = tuple(g for g in groups.items if g.name != "conv1")
    assert set(chosen.factors) > {"conv1"}
    assert "conv2.weight" not in tensor_factors(groups, chosen)
    assert tensor_factors(groups, chosen)


@pytest.mark.parametrize("variant", ["random", "hybrid"])
@pytest.mark.parametrize("budget", ["50% weights", "10% weights"])
def test_random_sipp_meets_the_budget_exactly(variant, budget):
    groups = weights()
    chosen = plan(groups, sipp(groups, EXAMPLES, variant=variant, samples=2), budget, allocation="own")
    assert abs(chosen.reached.weights - chosen.asked) <= 0.002 * chosen.asked
    small = secateur.slim(groups, chosen)
    assert sum(int(p.count_nonzero()) for p in small.parameters()) == chosen.reached.weights
    for name, kept in chosen.keep.items():
        dense = groups.tensor(name).detach().flatten()[kept]
        expected = dense * chosen.factors[name].float() if name in chosen.factors else dense
        assert torch.equal(small.get_parameter(name).detach().flatten()[kept], expected)


def test_random_sipp_is_right_on_average():
    groups = chain_groups([6])
    groups = secateur.elements(groups.model)
    examples = [(torch.rand(3, 8), None)]
    scores = sipp(groups, examples, variant="random")
    sums = torch.zeros(48, dtype=torch.float64)
    for seed in range(100):
        scores.own.seed = seed
        kept, factors = scores.own.units("0.weight", 30)
        sums[kept] += factors
    strong = scores["0.weight"] > 0.4
    assert float((sums / 100 - 1).abs()[strong].max()) < 0.35
    assert int(strong.sum()) > 10


def test_hybrid_keeps_the_largest_of_a_neuron_where_that_is_the_better_promise():
    groups = weights()
    scores = sipp(groups, EXAMPLES, variant="hybrid", samples=2)
    chosen = plan(groups, scores, "50% weights", allocation="own")
    factors = torch.cat(list(chosen.factors.values()))
    assert float((factors == 1).double().mean()) > 0
    bound = torch.cat(list(sipp_bound(scores, chosen).values()))
    assert bool(torch.isfinite(bound).any())


def test_deterministic_sipp_keeps_the_largest_of_the_network():
    groups = weights()
    scores = sipp(groups, EXAMPLES, samples=3)
    chosen = plan(groups, scores, "30% weights")
    kept = torch.cat([scores[name][indices] for name, indices in chosen.keep.items() if len(indices) > 1])
    gone = torch.cat([scores[name][chosen.removed(name)] for name in chosen.keep])
    assert float(kept.min()) >= float(gone.max())
    assert not chosen.factors
    tiles = secateur.blocks(groups.model, 2, 4)
    single = scores["fc2.weight"].view(5, 2, 6, 4).sum((1, 3)).flatten()
    assert torch.allclose(sipp(tiles, EXAMPLES, samples=3)["fc2.weight"], single)


@pytest.mark.parametrize("budget", ["50% weights", "20% weights"])
def test_the_measured_error_stays_under_the_bound(budget):
    groups = weights()
    examples = [(torch.rand(170, 1, 8, 8), None)]
    scores = sipp(groups, examples)
    assert scores.criterion == "sipp(variant=deterministic, examples=164)"
    chosen = plan(groups, scores, budget)
    bound, seen = sipp_bound(scores, chosen), relative_errors(groups, scores, chosen, examples)
    new = relative_errors(groups, scores, chosen, [(torch.rand(8, 1, 8, 8), None)])
    for name, limit in bound.items():
        assert limit.shape == (len(groups.tensor(name)), 2)
        assert bool((seen[name] <= limit / 3 + 1e-5).all())
        assert bool((new[name] <= limit + 1e-5).all())
    assert max(float(error.max()) for error in new.values()) > 0.001


def test_with_one_example_the_error_is_the_sum_of_what_left():
    groups = weights()
    one = [(IMAGES[:1], None)]
    scores = sipp(groups, one, samples=1)
    chosen = plan(groups, scores, "50% weights")
    bound, seen = sipp_bound(scores, chosen), relative_errors(groups, scores, chosen, one, samples=1)
    assert all(torch.allclose(seen[name], bound[name] / 3, atol=1e-5) for name in ("conv1.weight", "fc1.weight"))


def test_the_bound_of_random_draws_is_that_of_their_number():
    groups = weights()
    scores = sipp(groups, EXAMPLES, variant="random", samples=3)
    chosen = plan(groups, scores, "40% weights", allocation="own")
    bound, errors = sipp_bound(scores, chosen), relative_errors(groups, scores, chosen, EXAMPLES)
    assert all(bool((errors[name] <= bound[name] + 1e-5).all()) for name in bound)
    assert float(torch.cat(list(bound.values())).max()) > 1  # of networks this narrow it promises little


def test_pfp_draws_follow_the_formula():
    scores = {"a": np.array([1.0, 1.0, 0.5, 0.5]), "b": np.array([0.2] * 10)}
    errors = Errors(scores, {"a": 2.0, "b": 5.0})
    assert errors.draws("a", 0.5) == np.ceil(3 * (6 + 1) * 6 / 0.25)
    assert errors.draws("b", 100.0) == np.ceil(3 * 206 * 10 / 1e4)
    few = [errors.kept("b", error) for error in (8.0, 20.0, 1e6)]
    draws = [errors.draws("b", error) for error in (8.0, 20.0, 1e6)]
    assert few == [int(np.ceil(10 * (1 - 0.9**n))) for n in draws]
    assert few[0] > few[1] > few[2] == 1
    line = [errors.wanted(position)["a"] for position in range(0, errors.positions + 1, errors.positions // 64)]
    assert line == sorted(line)
    assert (line[0], line[-1]) == (0, 4)


def test_filter_norm_is_the_norm_of_what_makes_a_channel():
    groups = channels()
    net = groups.model
    assert torch.allclose(filter_norm(groups)["conv2"], net.conv2.weight.detach().abs().sum((1, 2, 3)))
    assert torch.allclose(filter_norm(groups, "l2")["fc1"], net.fc1.weight.detach().norm(dim=1))
    chosen = plan(groups, filter_norm(groups), "50% channels", allocation="uniform", round_to=1)
    assert chosen.counts == {"conv1": 8, "conv2": 16, "fc1": 12}


def test_snip_is_the_share_of_each_weight_in_the_first_order_change():
    groups = weights()
    net = groups.model
    nn.functional.cross_entropy(net(IMAGES[:4]), torch.arange(4)).backward()
    terms = {g.name: (groups.tensor(g.name) * groups.tensor(g.name).grad).abs().detach().flatten() for g in groups}
    total = sum(float(t.sum()) for t in terms.values())
    found = snip(groups, EXAMPLES[:1])
    assert all(torch.allclose(found[name], term / total, atol=1e-7) for name, term in terms.items())
    assert sum(float(s.sum()) for s in found.values()) == pytest.approx(1)


def test_magnitude_of_single_weights_is_one_threshold_over_the_network():
    groups = weights()
    chosen = plan(groups, magnitude(groups, "l1"), "25% weights")
    flat = torch.cat([groups.tensor(name).detach().abs().flatten() for name in chosen.keep])
    kept = torch.cat([chosen.mask(name) for name in chosen.keep])
    assert float(flat[kept].min()) >= float(flat[~kept].max())


def test_the_seed_decides_the_draws():
    groups = channels()

    def drawn(seed: int) -> Plan:
        scores = pfp(groups, EXAMPLES, variant="random", samples=2, seed=seed)
        return plan(groups, scores, "50% channels", allocation="own", round_to=1)

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(first.factors[name], again.factors[name]) for name in first.factors)
    assert any(not torch.equal(first.keep[name], other.keep[name]) for name in first.keep)


def test_what_does_not_fit_is_told():
    groups, single = channels(), weights()
    with pytest.raises(InputError, match="'groups' of sipp, deterministic, must be groups of single weights or blocks"):
        sipp(groups, EXAMPLES)
    with pytest.raises(InputError, match="of sipp, random, must be groups of single weights"):
        sipp(secateur.blocks(single.model, 2, 2), EXAMPLES, variant="random")
    with pytest.raises(InputError, match="'groups' of pfp must be channels and heads"):
        pfp(single, EXAMPLES)
    with pytest.raises(InputError, match="'numerator' parameter of pfp must be one of unit, tap"):
        pfp(groups, EXAMPLES, numerator="both")
    with pytest.raises(InputError, match="'allocation' of plan can be 'own' for scores that bring one"):
        plan(groups, filter_norm(groups), allocation="own")
    scores = pfp(groups, EXAMPLES, variant="random", samples=1)
    with pytest.raises(InputError, match="'allocation' of plan must be 'own' for scores that rescale"):
        plan(groups, scores)
    assert isinstance(scores.among(groups), Scores)
    embedding = nn.Sequential(nn.Embedding(5, 4))
    with pytest.raises(InputError, match="found no product with a weight"):
        sipp(secateur.elements(embedding), [(torch.tensor([[1]]), None)], samples=1)
