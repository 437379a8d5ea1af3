from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import SmallNet
from torch import nn

from secateur.errors import InputError
from secateur.graph.elements import blocks, elements

IMAGE = torch.zeros(1, 1, 8, 8)


def names(groups):
    return [g.name for g in groups]


def test_every_matrix_is_a_group_of_its_entries():
    net = SmallNet()
    groups = elements(net)
    assert groups.kind == "elements"
    assert {g.name: g.units for g in groups} == {name: p.numel() for name, p in net.named_parameters() if p.dim() > 1}
    assert {f.name for f in groups.frozen} == {name for name, p in net.named_parameters() if p.dim() == 1}
    assert all("vector" in f.reason for f in groups.frozen)


def test_tied_weights_appear_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(11, 6), nn.Linear(6, 11, bias=False)
            self.head.weight = self.embed.weight

    groups = elements(Tied())
    assert names(groups) == ["embed.weight"]
    assert groups.cost().weights == 66
    assert names(elements(Tied(), include=["head.weight"])) == ["embed.weight"]


def test_scales_and_tokens_with_dimensions_of_one_are_left_alone():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1, 1, 8))
            self.scale = nn.Parameter(torch.ones(8, 1, 1))
            self.positions = nn.Parameter(torch.zeros(1, 5, 8))
            self.one_output = nn.Linear(8, 1)

    assert names(elements(Block())) == ["positions", "one_output.weight"]


def test_include_and_exclude_take_modules_names_and_patterns():
    net = SmallNet()
    assert names(elements(net, include=[net.fc1])) == ["fc1.weight"]
    assert names(elements(net, include="conv*.weight")) == ["conv1.weight", "conv2.weight"]
    assert names(elements(net, exclude=["re:fc[12]", "conv1"])) == ["conv2.weight"]
    with pytest.raises(InputError, match=r"'exclude' parameter holds 'conv3', which matches nothing.*'conv1'"):
        elements(net, exclude=["conv3"])
    with pytest.raises(InputError, match="none of its 11 parameters was chosen"):
        elements(net, include="conv1", exclude="conv1")
    with pytest.raises(InputError, match="is not part of the model"):
        elements(net, include=[nn.Linear(2, 2)])


def test_parameters_without_a_shape_are_an_error():
    with pytest.raises(InputError, match=r"'0.weight' has no shape yet"):
        elements(nn.Sequential(nn.LazyLinear(3)))


def test_macs_are_counted_where_each_weight_is_used():
    net = SmallNet()
    dense = 64 * 9 * 16 + 64 * 9 * 16 * 32 + 128 * 24 + 240
    groups = elements(net, IMAGE)
    cost = groups.cost()
    assert (cost.macs, cost.nonzero_macs) == (dense, dense)
    assert cost.params == cost.weights == sum(p.numel() for p in net.parameters())
    half = groups.cost({"conv2.weight": 16 * 32 * 9 // 2})
    assert (half.macs, half.params) == (dense, cost.params)
    assert half.nonzero_macs == dense - 64 * 9 * 16 * 32 // 2
    assert half.weights == cost.weights - 16 * 32 * 9 // 2


def test_macs_are_zero_without_an_example():
    cost = elements(SmallNet()).cost()
    assert (cost.macs, cost.nonzero_macs) == (0, 0)
    assert cost.weights == cost.params > 0


def test_attention_counts_its_packed_projection_and_its_products_of_activations():
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x = torch.zeros(1, 5, 8)
    groups = elements(attention, (x, x, x))
    cost = groups.cost()
    projections, products = 5 * 8 * 24 + 5 * 8 * 8, 2 * 5 * 5 * 8
    assert cost.macs == projections + products
    empty = groups.cost(dict.fromkeys(names(groups), 0))
    assert empty.nonzero_macs == products


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4))
def test_blocks_cover_every_entry_once(rows, columns, r, c):
    net = nn.Linear(columns, rows)
    group = blocks(net, r, c)["weight"]
    assert group.units == math.ceil(rows / r) * math.ceil(columns / c)
    assert int(group.members[0].entries.sum()) == rows * columns
    assert blocks(net, r, c).cost({"weight": group.units}).weights == rows * columns + rows


def test_blocks_sizes_must_be_positive_integers():
    for r, c in ((0, 1), (1, -2), (1.5, 1), (True, 1)):
        with pytest.raises(InputError, match="must be a positive integer"):
            blocks(nn.Linear(4, 4), r, c)
