"""Prunability: exact numbers of zeros, statistics with known values, and a model that is left alone."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from secateur.errors import InputError
from secateur.graph.elements import elements
from secateur.masks import masked
from secateur.measures.classification import accuracy
from secateur.measures.prunability import Prunability, describe, prunability
from secateur.planning import plan


def model() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    return net.train()


def loader(count: int = 3):
    generator = torch.Generator().manual_seed(2)
    return [
        (torch.randn(40, 6, generator=generator) + 1, torch.randint(3, (40,), generator=generator))
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def found() -> Prunability:
    return prunability(model(), loader(), train=loader(), sparsities=(0.0, 0.25, 0.5, 1.0))


def test_the_model_is_left_as_it_is() -> None:
    net = model()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    prunability(net, loader(), train=loader(), sparsities=(0.5,))
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())


def test_there_is_a_point_for_every_sparsity_scope_and_repair(found) -> None:
    assert len(found.curve) == 4 * 2 * 2
    for point in found.curve:
        parts = [96, 48] if point.scope == "layer" else [144]
        assert point.zeros == sum(round(point.sparsity * n) for n in parts)


def test_nothing_removed_is_the_dense_model_and_all_removed_is_one_answer(found) -> None:
    start = found.at(0.0)
    assert (start.accuracy, start.loss, start.energy) == (found.accuracy, found.loss, 0.0)
    for scope in ("global", "layer"):
        end = found.at(1.0, scope=scope)
        assert end.energy == pytest.approx(1.0)
        assert end.zeros == 144
    with pytest.raises(InputError, match=r"not measured at sparsity 0\.3"):
        found.at(0.3)


@pytest.mark.parametrize(("scope", "allocation"), [("global", "global"), ("layer", "uniform")])
def test_its_points_are_those_of_the_plan_that_removes_the_same(found, scope, allocation) -> None:
    net = model().eval()
    groups = elements(net)
    kept = {}
    everything = torch.cat([net.get_parameter(g.name).detach().abs().flatten() for g in groups])
    for group in groups:
        size = net.get_parameter(group.name).detach().abs().flatten()
        among = everything if scope == "global" else size
        kept[group.name] = torch.nonzero(size > among.sort().values[round(0.5 * len(among)) - 1]).flatten()
    expected = accuracy(masked(groups, kept), loader())
    point = found.at(0.5, scope=scope)
    assert (point.accuracy, point.loss) == (expected.value, pytest.approx(expected.loss))
    total = sum(p.numel() for p in net.parameters())  # budgets count biases and norms, which stay
    by_plan = plan(groups, budget=f"{100 * (total - point.zeros + 0.5) / total:.6f}% weights", allocation=allocation)
    assert sum(len(units) for units in by_plan.keep.values()) == 144 - point.zeros
    if scope == "global":
        assert all(torch.equal(by_plan.keep[name].sort().values, units) for name, units in kept.items())


def test_ties_are_broken_to_the_exact_number() -> None:
    net = nn.Linear(10, 3)
    nn.init.ones_(net.weight)
    data = [(torch.randn(5, 10), torch.zeros(5, dtype=torch.long))]
    for sparsity in (0.1, 1 / 3, 0.5, 0.77):
        point = prunability(net, data, sparsities=(sparsity,), line=0).curve[0]
        assert point.zeros == round(sparsity * 30)
        assert point.energy == pytest.approx(point.zeros / 30)


def test_batch_norm_is_estimated_anew_for_its_points_alone() -> None:
    found = prunability(model(), loader(), train=loader(), sparsities=(0.5,), scopes=("global",))
    assert [p.reestimated for p in found.curve] == [False, True]
    assert found.curve[0].loss != found.curve[1].loss
    alone = prunability(model(), loader(), sparsities=(0.5,), scopes=("global",))
    assert alone.curve == found.curve[:1]
    plain = nn.Linear(6, 3)
    assert not any(p.reestimated for p in prunability(plain, loader(), train=loader(), sparsities=(0.5,)).curve)


def test_the_line_goes_from_the_dense_model_to_the_pruned_one(found) -> None:
    shares = [share for share, _ in found.direction]
    assert shares == pytest.approx([n / 10 for n in range(11)])
    assert found.direction[0][1] == found.loss
    assert found.direction[-1][1] == pytest.approx(found.at(0.5).loss)


@pytest.mark.parametrize(
    ("name", "e50", "kurtosis", "hoyer"),
    [("gaussian", 0.0714, 3.0, 2 / math.pi), ("laplace", 0.0333, 6.0, 0.5), ("uniform", 0.125, 1.8, 0.75)],
)
def test_shapes_have_their_known_values(name: str, e50: float, kurtosis: float, hoyer: float) -> None:
    quantiles = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    values = {
        "gaussian": torch.special.ndtri(quantiles),
        "laplace": torch.sign(quantiles - 0.5) * -torch.log1p(-2 * (quantiles - 0.5).abs()),
        "uniform": 2 * quantiles - 1,
    }[name]
    for scale in (1.0, 1e-3):
        told = describe(values * scale)
        assert told.e50 == pytest.approx(e50, rel=0.01)
        assert told.kurtosis == pytest.approx(kurtosis, rel=0.01)
        assert told.hoyer == pytest.approx(hoyer, rel=0.01)
        assert sum(told.histogram.counts) == told.number == 400_000


def test_zero_weights_and_constant_ones_have_numbers_too() -> None:
    zero, ones = describe(torch.zeros(3, 4)), describe(torch.ones(3, 4))
    assert (zero.e50, zero.hoyer, zero.kurtosis) == (0.0, 0.0, 0.0)
    assert (ones.e50, ones.hoyer, ones.variance) == (0.5, 1.0, 0.0)


def test_it_can_be_written_as_json(found) -> None:
    read = json.loads(json.dumps(found.as_dict()))
    assert read["weights"]["number"] == 144
    assert [layer["name"] for layer in read["layers"]] == ["0.weight", "3.weight"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sparsities": (1.2,)}, r"\[0, 1\]"),
        ({"sparsities": (math.nan,)}, r"\[0, 1\]"),
        ({"scopes": ("local",)}, "'scopes'"),
        ({"line": -1}, "'line'"),
        ({"bins": 0}, "'bins'"),
    ],
)
def test_bad_input(options, words) -> None:
    with pytest.raises(InputError, match=words):
        prunability(model(), loader(), **options)


def test_weights_that_are_not_finite() -> None:
    net = model()
    with torch.no_grad():
        net[0].weight[0, 0] = math.nan
    with pytest.raises(InputError, match=r"'0\.weight' holds"):
        prunability(net, loader())
