"""Paths, parts, contributions and symmetries of small networks, beside what walking all paths tells."""

from __future__ import annotations

import pytest
import torch
from explained import all_paths, of_weights, permuted, random_network, rescaled
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from secateur.errors import InputError
from secateur.explain import (
    components,
    contributions,
    map_symmetry,
    reachability,
    subgraph,
    swap_symmetry,
    weight_symmetry,
)
from secateur.sparse import compact, live

networks = st.builds(
    random_network,
    widths=st.lists(st.integers(1, 4), min_size=2, max_size=5).map(tuple),
    share=st.floats(0, 1),
    seed=st.integers(0, 10**6),
)


@settings(max_examples=25, deadline=None)
@given(networks)
def test_reachability_and_components_are_those_of_all_paths(network):
    paths = all_paths(network)
    assert set(map(tuple, reachability(network).nonzero().tolist())) == {(path[-1], path[0]) for path in paths}
    found = components(network)
    home = {
        (column, unit): number
        for number, part in enumerate(found)
        for column, units in enumerate(part.units)
        for unit in units
    }
    assert home.keys() == {(i, unit) for path in paths for i, unit in enumerate(path)}
    assert all(len({home[i, unit] for i, unit in enumerate(path)}) == 1 for path in paths)
    assert sum(len(part) for one in found for part in one.units) == sum(int(c.sum()) for c in live(network).units)


def test_separate_parts_are_components_of_their_own():
    network = of_weights([[1, 1, 0, 0], [0, 0, 1, 0]], [[1, 0], [0, 1]])
    assert [part.units for part in components(network)] == [((0, 1), (0,), (0,)), ((2,), (1,), (1,))]
    assert reachability(network).tolist() == [[True, True, False, False], [False, False, True, False]]
    joined = of_weights([[1, 1, 0, 0], [0, 0, 1, 0]], [[1, 0], [1, 1]])
    assert len(components(joined)) == 1


@settings(max_examples=25, deadline=None)
@given(networks, st.integers(0, 10**6))
def test_contributions_sum_to_the_outputs_exactly(network, seed):
    x = torch.randn(7, network.width, generator=torch.Generator().manual_seed(seed)).double()
    found = contributions(network, x)
    torch.testing.assert_close(found.outputs, network(x), atol=1e-12, rtol=1e-12)
    assert not found.inputs[:, ~reachability(network)].any()


def test_contributions_are_slope_times_input():
    network = random_network(share=0.9, seed=3)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    found = contributions(network, x.detach())
    for k in range(3):
        (slope,) = torch.autograd.grad(network(x)[:, k].sum(), x)
        torch.testing.assert_close(found.inputs[:, k], slope * x.detach())


def test_contributions_of_a_smooth_network_are_refused():
    with pytest.raises(InputError, match="Layer '0' has tanh; use gradient_input"):
        contributions(random_network(activation=nn.Tanh), torch.zeros(1, 6))


@settings(max_examples=25, deadline=None)
@given(networks)
def test_the_subgraph_of_an_output_computes_that_output(network):
    x = torch.randn(5, network.width, generator=torch.Generator().manual_seed(0))
    for k in range(len(network.units[-1])):
        part = subgraph(network, k)
        torch.testing.assert_close(part(x)[:, k], network(x)[:, k])
        own = {path for path in all_paths(network) if path[-1] == k}
        assert set(all_paths(part)) == own
    with pytest.raises(InputError, match="must be an int in"):
        subgraph(network, len(network.units[-1]))


def test_sums_and_differences_are_found_by_weights_and_by_swapping():
    """y = |x0 - x1| + (x2 + x3)+ + x4."""
    network = of_weights([[1, -1, 0, 0, 0], [-1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]], [[1, 1, 1, 1]])
    cosine = weight_symmetry(network)
    assert cosine[0, 1] == pytest.approx(-1)
    assert cosine[2, 3] == pytest.approx(1)
    assert cosine[0, 2] == cosine[4, 3] == 0
    torch.testing.assert_close(cosine.diagonal(), torch.ones(5, dtype=torch.float64))
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)).double()
    difference, total = sorted(swap_symmetry(network, x), key=lambda pair: pair.first)
    assert (difference.first, difference.second, total.first, total.second) == (0, 1, 2, 3)
    assert total.swapped == pytest.approx(0, abs=1e-12)
    assert total.negated > 0.5
    assert difference.negated == pytest.approx(0, abs=1e-12)
    assert difference.swapped == pytest.approx(0, abs=1e-12)  # |x0 - x1| is symmetric too


def test_symmetry_does_not_depend_on_how_the_network_is_written():
    network = random_network(share=0.9)
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).double()
    for other in (rescaled(network, 0, 1, 16.0), permuted(network, 0, [4, 3, 2, 1, 0])):
        torch.testing.assert_close(weight_symmetry(other), weight_symmetry(network))
        assert components(other)[0].inputs == components(network)[0].inputs
        torch.testing.assert_close(reachability(other), reachability(network))
        for a, b in zip(swap_symmetry(other, x), swap_symmetry(network, x), strict=True):
            assert (a.first, a.second) == (b.first, b.second)
            assert (a.swapped, a.negated) == pytest.approx((b.swapped, b.negated), rel=1e-4)


def test_dead_inputs_are_like_nothing():
    network = of_weights([[1.0, 0.0, 1.0]])
    assert weight_symmetry(network).tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 1]]
    assert weight_symmetry(compact(network)).tolist() == [[1, 1], [1, 1]]


def test_a_map_is_compared_with_its_mirror_images():
    kept = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 0, 0]])
    found = map_symmetry(kept)
    assert found == pytest.approx({"left-right": 0.5, "top-bottom": 0.5, "half turn": 0.5, "transposed": 1.0})
    assert map_symmetry(torch.zeros(2, 3))["half turn"] == 0
    with pytest.raises(InputError, match="height, width"):
        map_symmetry(torch.zeros(4))
