"""Columns are put in orders that cross less; strongest paths are those of trying all paths."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from explained import all_paths, of_weights, random_network
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.explain.ordering import as_they_are, crossings, untangled
from secateur.explain.strongest import ranked, strongest_part, strongest_paths
from secateur.sparse import edges, live

networks = st.builds(
    random_network,
    widths=st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple),
    share=st.floats(0.1, 0.9),
    seed=st.integers(0, 10**6),
)


def crossed(network, orders):
    """Crossings by comparing every pair of edges."""
    place = [{int(unit): i for i, unit in enumerate(order)} for order in orders]
    drawn = [(int(e["layer"]), int(e["source"]), int(e["target"])) for e in edges(network)]
    pairs = itertools.combinations(drawn, 2)
    return sum(
        (place[a[0]][a[1]] - place[b[0]][b[1]]) * (place[a[0] + 1][a[2]] - place[b[0] + 1][b[2]]) < 0
        for a, b in pairs
        if a[0] == b[0]
    )


@settings(max_examples=30, deadline=None)
@given(networks)
def test_untangling_orders_every_unit_once_and_crosses_no_more(network):
    before, after = as_they_are(network), untangled(network)
    assert [sorted(order.tolist()) for order in after] == [order.tolist() for order in before]
    assert crossings(network, before) == crossed(network, before)
    assert crossings(network, after) == crossed(network, after) <= crossings(network, before)


def test_a_shuffled_ladder_is_untangled_to_no_crossing():
    shuffled = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    ladder = torch.eye(12)[shuffled]
    back = torch.eye(12)[:, shuffled]
    network = of_weights(ladder.tolist(), back.tolist())
    assert crossings(network, as_they_are(network)) > 30
    assert crossings(network, untangled(network)) == 0


def test_a_network_of_399_edges_crosses_much_less():
    network = random_network((180, 40, 25, 10), share=0.045, seed=2)
    assert 300 < network.counts["edges"] < 500
    assert crossings(network, untangled(network)) < 0.5 * crossings(network, as_they_are(network))


def test_strongest_paths_have_their_units_shares_and_signs():
    network = of_weights([[1, 0, 0], [0, -2, 3]], [[4, 0], [1, 1]])
    found = strongest_paths(network, torch.tensor([1.0, 1.0, 0.5]), most=3)
    assert [way.units for way in found] == [(0, 0, 0), (1, 1, 1), (2, 1, 1)]
    assert [way.sign for way in found] == [1, -1, 1]
    assert [way.share for way in found] == pytest.approx([4 / 8.5, 2 / 8.5, 1.5 / 8.5])


@settings(max_examples=25, deadline=None)
@given(networks, st.integers(1, 400))
def test_ranks_and_strengths_are_those_of_all_paths(network, most):
    scale = torch.arange(1, len(network.units[0]) + 1, dtype=torch.float64)
    found, result = edges(network), ranked(network, scale, most=most)
    number = {(int(e["layer"]), int(e["source"]), int(e["target"])): i for i, e in enumerate(found)}
    strength = {
        path: math.prod(abs(float(layer.weight[path[i + 1], path[i]])) for i, layer in enumerate(network.layers))
        * float(scale[path[0]])
        for path in all_paths(network)
    }
    order = sorted(strength, key=lambda path: -strength[path])
    assert result.paths == len(order)
    expected = np.full(len(found), len(order))
    for rank, path in reversed(list(enumerate(order[:most], start=1))):
        for i, ends in enumerate(itertools.pairwise(path)):
            expected[number[(i, *ends)]] = rank
    np.testing.assert_array_equal(result.rank, expected)
    through = np.zeros(len(found))
    for path, value in strength.items():
        for i, ends in enumerate(itertools.pairwise(path)):
            through[number[(i, *ends)]] += value
    np.testing.assert_allclose(result.strength, through, rtol=1e-6, atol=1e-12)
    if order:
        carried = np.cumsum([strength[path] for path in order[:most]]) / sum(strength.values())
        np.testing.assert_allclose(result.carried, carried, rtol=1e-6)


def test_the_strongest_part_has_whole_paths_and_no_more_than_asked():
    network = random_network((30, 20, 10, 3), share=0.6)
    scale = torch.ones(30)
    part = strongest_part(network, scale, edges_drawn=40, units_drawn=8)
    alive = live(part).units
    joined = [torch.zeros(len(column), dtype=torch.bool) for column in part.units]
    for i, layer in enumerate(part.layers):
        joined[i] |= (layer.weight != 0).any(0)
        joined[i + 1] |= (layer.weight != 0).any(1)
    assert all(torch.equal(a, b) for a, b in zip(alive, joined, strict=True))
    assert 10 < part.counts["edges"] <= 40
    assert all(int(column.sum()) <= 8 for column in joined)
    strongest = edges(network)[ranked(network, scale).strength.argmax()]
    assert part.layers[strongest["layer"]].weight[strongest["target"], strongest["source"]] == strongest["weight"]


@pytest.mark.parametrize("share", [0.0, 0.01])
def test_networks_of_hardly_any_edge_can_be_ordered_and_ranked(share):
    network = random_network(share=share)
    assert crossings(network, untangled(network)) == 0
    assert ranked(network).paths == len(all_paths(network))
