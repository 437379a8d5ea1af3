"""Importances agree with hand computation and ground truth, and do not depend on how a network is written."""

from __future__ import annotations

import math

import pytest
import torch
from explained import all_paths, of_weights, permuted, random_network, rescaled

from secateur.errors import InputError
from secateur.explain import (
    degree,
    deletion_curve,
    gradient_input,
    importances,
    path_product,
    permutation,
    rank_correlations,
)
from secateur.sparse import compact


def drawn(samples, width, seed=0):
    return torch.randn(samples, width, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("seed", range(3))
def test_path_products_are_sums_over_all_paths(seed):
    network = random_network(seed=seed)
    expected = {kind: torch.zeros(3, 6, dtype=torch.float64) for kind in ("absolute", "signed", "count")}
    for path in all_paths(network):
        passed = math.prod(float(layer.weight[path[i + 1], path[i]]) for i, layer in enumerate(network.layers))
        for kind, value in (("absolute", abs(passed)), ("signed", passed), ("count", 1)):
            expected[kind][path[-1], path[0]] += value
    for kind, values in expected.items():
        torch.testing.assert_close(path_product(network, kind=kind), values)


def test_on_a_linear_network_it_is_the_weight_times_the_scale():
    network = of_weights([[2.0, -1.0, 0.0], [0.5, 0.0, -3.0]])
    x = drawn(400, 3) * torch.tensor([1.0, 5.0, 0.1])
    expected = network.layers[0].weight.double().abs() * x.std(0, correction=0)
    torch.testing.assert_close(path_product(network, x), expected)
    away = (x - x.mean(0)).abs().mean(0)
    torch.testing.assert_close(gradient_input(network, x), network.layers[0].weight.double().abs() * away)
    assert degree(network).tolist() == [2, 1, 1]


def test_rescaling_and_permuting_hidden_units_changes_no_importance():
    network, x = random_network(share=0.8), drawn(50, 6)
    labels = torch.arange(50) % 3
    before = importances(network, x, labels)
    for other in (rescaled(network, 0, 2, 8.0), rescaled(network, 1, 1, 0.25), permuted(network, 0, [3, 0, 4, 1, 2])):
        torch.testing.assert_close(other(x.float()), network(x.float()), atol=1e-5, rtol=1e-5)
        for name, values in importances(other, x, labels).items():
            torch.testing.assert_close(values, before[name], msg=name)


def test_all_importances_rank_additive_data_as_it_was_made():
    weights = torch.tensor([0.0, 3.0, 1.0, 2.0, 0.25])
    network = of_weights([weights.tolist(), (-weights).tolist()], [[1.0, -1.0]])
    x = drawn(500, 5)
    found = importances(network, x, network(x))
    truth = weights.argsort().tolist()
    for name in set(found) - {"path count", "in-degree"}:
        assert found[name].argsort().tolist() == truth, name
    rho = rank_correlations({name: found[name] for name in ("path product", "permutation", "gradient × input")})
    torch.testing.assert_close(rho, torch.ones(3, 3, dtype=torch.float64))


def test_rank_correlations_are_those_of_spearman():
    a = torch.tensor([1.0, 2.0, 3.0, 4.0])
    rho = rank_correlations({"a": a, "reversed": -a, "tied": torch.tensor([1.0, 1.0, 2.0, 2.0]), "flat": a * 0})
    assert rho[0, 1] == pytest.approx(-1)
    assert rho[0, 2] == pytest.approx(2 / math.sqrt(5))
    assert rho[0, 3].isnan()
    with pytest.raises(InputError, match="same inputs"):
        rank_correlations({"a": a, "b": a[:2]})


def test_deleting_the_important_first_costs_more_than_deleting_them_last():
    network = of_weights([[0.0, 3.0, 1.0, 2.0], [0.0, -3.0, -1.0, -2.0]])
    x = drawn(300, 4)
    labels = network(x).argmax(1)
    importance = path_product(network, x).sum(0)
    best, worst = (deletion_curve(network, x, labels, sign * importance) for sign in (1, -1))
    assert best.deleted == worst.deleted == (0, 1, 2, 3, 4)
    assert best.accuracy[0] == worst.accuracy[0] == 1
    assert best.accuracy[-1] == worst.accuracy[-1] == pytest.approx(float((labels == 0).double().mean()))
    assert best.area < worst.area
    numbers = deletion_curve(network, x, network(x), importance)
    assert numbers.accuracy is None
    assert numbers.loss[0] == pytest.approx(0, abs=1e-12)
    assert numbers.loss[1] < numbers.loss[-1]


def test_permuting_an_input_that_nothing_reads_costs_nothing():
    network = of_weights([[1.0, 0.0], [-1.0, 0.0]])
    x = drawn(100, 2)
    found = permutation(network, x, network(x).argmax(1))
    assert found[0] > 0.1
    assert found[1] == 0
    assert torch.equal(found, permutation(network, x, network(x).argmax(1)))


def test_a_compact_network_is_read_at_the_inputs_it_kept():
    network = of_weights([[0.0, 1.0, 0.0, 2.0]], [[1.0], [-1.0]])
    small, x = compact(network), drawn(20, 4)
    assert small.units[0].tolist() == [1, 3]
    torch.testing.assert_close(path_product(small, x), path_product(network, x)[:, [1, 3]])


def test_inputs_of_another_size_are_refused():
    network = of_weights([[1.0, 2.0]])
    with pytest.raises(InputError, match=r"must have 2 inputs a sample, as the network has\. Got 3 instead"):
        path_product(network, torch.zeros(5, 3))
    with pytest.raises(InputError, match="at least one sample"):
        gradient_input(network, torch.zeros(0, 2))
    with pytest.raises(InputError, match="one of absolute, signed, count"):
        path_product(network, kind="squared")
    with pytest.raises(InputError, match="number for each of 2 inputs"):
        deletion_curve(network, torch.zeros(3, 2), torch.zeros(3, dtype=torch.long), torch.zeros(3))
