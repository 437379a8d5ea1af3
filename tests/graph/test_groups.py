"""Groups: their names, members and roles, what is frozen and why."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from laws.networks import NETWORKS, Auxiliary, ConvNext, Flatten, Square, Tied, Transformer, Twice, network
from laws.reference import random_plan, redraw
from torch import Tensor, nn

import secateur
from secateur.graph.units import Group, Groups


def roles(group: Group) -> dict[str, str]:
    """Member name and dimension -> role."""
    return {f"{m.name}[{m.dim}]": m.role for m in group.members}


@pytest.mark.parametrize("name", NETWORKS)
def test_names_are_unique_and_found(name: str) -> None:
    groups = secateur.groups(*network(name))
    names = [g.name for g in groups]
    assert len(set(names)) == len(names)
    assert all(groups[n].name == n for n in names)
    for group in groups:
        assert group.members
        assert any(m.role == "producer" for m in group.members)
        for member in group.members:
            assert tuple(groups.tensor(member.name).shape) == member.shape
            assert member.entries.shape == (group.units,)
            assert (member.entries > 0).all()
            assert set(group.modules) >= {member.name.rpartition(".")[0]}


def test_roles_in_a_convolutional_network() -> None:
    groups = secateur.groups(Flatten().eval(), torch.zeros(1, 3, 8, 8))
    assert [g.name for g in groups] == ["conv1", "conv2", "fc1"]
    assert roles(groups["conv1"]) == {
        "conv1.weight[0]": "producer",
        "conv1.bias[0]": "producer",
        "bn1.weight[0]": "producer",
        "bn1.bias[0]": "producer",
        "bn1.running_mean[0]": "producer",
        "bn1.running_var[0]": "producer",
        "conv2.weight[1]": "consumer",
    }
    assert {m.name for m in groups["conv1"].members if m.buffer} == {"bn1.running_mean", "bn1.running_var"}
    reader = groups["conv2"].consumers[0]
    assert reader.name == "fc1.weight"
    assert reader.labels.tolist() == [i // 16 for i in range(160)]
    assert all(g.proof == "exact" for g in groups)


def test_depthwise_weights_are_producers() -> None:
    groups = secateur.groups(ConvNext().eval(), torch.zeros(1, 3, 8, 8))
    stream = next(g for g in groups if g.units == 16)
    assert roles(stream) == {
        "stem.weight[0]": "producer",
        "stem.bias[0]": "producer",
        "dw.weight[0]": "producer",
        "dw.bias[0]": "producer",
        "norm.weight[0]": "producer",
        "norm.bias[0]": "producer",
        "up.weight[1]": "consumer",
        "down.weight[0]": "producer",
        "down.bias[0]": "producer",
        "scale[0]": "producer",
        "fc.weight[1]": "consumer",
    }
    assert stream.proof == "kept statistics"
    assert groups["up"].proof == "exact"


@pytest.mark.parametrize(("kind", "layer"), [(Square, "square"), (Twice, "shared")])
def test_a_square_layer_holds_both_roles(kind: type[nn.Module], layer: str) -> None:
    groups = secateur.groups(kind().eval(), torch.zeros(3, 6))
    assert [g.name for g in groups] == ["first"]
    held = roles(groups["first"])
    assert held[f"{layer}.weight[0]"] == "producer"
    assert held[f"{layer}.weight[1]"] == "consumer"
    assert held["last.weight[1]"] == "consumer"


def test_attention_heads_and_head_sizes() -> None:
    model, example = network("Transformer")
    whole = secateur.groups(model, example)["blocks.0.qkv"]
    assert (whole.units, whole.multiple, whole.proof) == (4, 6, "exact")
    assert roles(whole) == {
        "blocks.0.qkv.weight[0]": "producer",
        "blocks.0.qkv.bias[0]": "producer",
        "blocks.0.proj.weight[1]": "consumer",
    }
    assert whole.members[0].labels.tolist() == [i // 6 for i in range(24)] * 3
    inner = secateur.groups(model, example, heads="inner")["blocks.0.qkv"]
    assert inner.units == 6
    assert inner.members[0].labels.tolist() == list(range(6)) * 12


def test_rotate_half_keeps_pairs_together() -> None:
    groups = secateur.groups(*network("Rotary"), heads="inner")
    pairs = next(g for g in groups if any(m.name == "q.weight" for m in g.members))
    own = next(m for m in pairs.members if m.name == "q.weight")
    assert pairs.units == 4
    assert own.labels.tolist() == [0, 1, 2, 3] * 12
    assert "cos[1]" in roles(pairs)


def test_a_tied_table_is_one_member_read_and_written() -> None:
    groups = secateur.groups(Tied().eval(), torch.zeros(2, 5, dtype=torch.long))
    stream = next(g for g in groups if g.units == 16)
    assert [m.name for m in stream.members].count("table.weight") == 1
    assert "out.weight" not in {m.name for m in stream.members}
    assert next(f for f in groups.frozen if f.name == "table.weight[0]").units == 11


@pytest.mark.parametrize("name", NETWORKS)
def test_the_outputs_of_the_last_layer_never_leave(name: str) -> None:
    model, example = network(name)
    groups = secateur.groups(model, example)
    last = [f for f in groups.frozen if f.reason == "it is an output of the model"]
    assert last
    assert all(f.units == model(example).shape[-1] for f in last)
    slim = secateur.slim(groups, random_plan(groups, share=0.4))
    assert slim(example).shape == model(example).shape


def test_reasons_name_operator_and_module() -> None:
    groups = secateur.groups(*network("Flatten"))
    first = next(f for f in groups.frozen if f.name == "conv1.weight[1]")
    assert (first.units, first.operator, first.module) == (3, "aten.convolution", "conv1")
    assert "fixed size" in first.reason
    groups = secateur.groups(Transformer().eval(), torch.zeros(2, 5, 7))
    inner = next(f for f in groups.frozen if f.name == "blocks.0.qkv.weight[0]")
    assert "other factor is pruned" in inner.reason


def test_auxiliary_heads_follow_the_cut() -> None:
    model = redraw(Auxiliary())
    groups = secateur.groups(model, torch.randn(2, 3, 8, 8))
    assert roles(groups["conv"])["aux.weight[1]"] == "consumer"
    assert groups["aux"].units == 12
    slim = secateur.slim(groups, random_plan(groups))
    assert secateur.record(slim).proof.holds
    for module in slim.train()(torch.randn(2, 3, 8, 8)):
        assert module.shape == (2, 5)
    assert slim.aux.in_features == 8


def test_googlenet_keeps_its_auxiliary_heads() -> None:
    model = torchvision.models.googlenet(init_weights=False, num_classes=7)
    groups = secateur.groups(model.eval(), torch.randn(1, 3, 64, 64))
    assert groups.unreached == ()
    slim = secateur.slim(groups, random_plan(groups), verify=False)
    outs = slim.train()(torch.randn(2, 3, 96, 96))
    assert [tuple(o.shape) for o in outs] == [(2, 7)] * 3
    assert slim.aux1.fc1.out_features < model.aux1.fc1.out_features


def test_layers_that_no_run_reaches_are_told() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.unused = nn.Linear(6, 12), nn.Linear(12, 4), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x)))

    groups = secateur.groups(Spare().eval(), torch.randn(3, 6))
    assert groups.unreached == ("unused.weight", "unused.bias")
    assert [g.name for g in groups] == ["a"]
    slim = secateur.slim(groups, random_plan(groups))
    assert slim.unused.weight.shape == (3, 12)


def test_wrappers_are_taken_off() -> None:
    model, example = network("Flatten")
    names = [g.name for g in secateur.groups(model, example)]
    for wrapped in (torch.compile(model), nn.DataParallel(model), torch.compile(nn.DataParallel(model))):
        groups = secateur.groups(wrapped, example)
        assert groups.model is model
        assert [g.name for g in groups] == names
        assert type(secateur.slim(groups, random_plan(groups))) is Flatten
    sequential = nn.Sequential(model)
    assert secateur.groups(sequential, example).model is sequential


def test_buffers_and_raw_parameters_are_cut() -> None:
    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(6, 12))
            self.register_buffer("scale", torch.rand(12) + 0.5)
            self.register_buffer("shift", torch.rand(12), persistent=False)
            self.plain = torch.rand(12)
            self.out = nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.tanh((x @ self.matrix) * self.scale + self.shift - self.plain))

    groups = secateur.groups(Raw().eval(), torch.randn(3, 6))
    assert roles(groups[0]) == {
        "matrix[1]": "producer",
        "scale[0]": "producer",
        "shift[0]": "producer",
        "plain[0]": "producer",
        "out.weight[1]": "consumer",
    }
    slim = secateur.slim(groups, random_plan(groups))
    assert secateur.record(slim).proof.holds
    assert slim.scale.shape == slim.shift.shape == slim.plain.shape == (6,)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_model_is_left_alone(name: str) -> None:
    model, example = network(name)
    before = copy.deepcopy(model.state_dict())
    attributes = {path: dict(vars(m)) for path, m in model.named_modules()}
    versions = [p._version for p in model.parameters()]
    groups = secateur.groups(model, example)
    secateur.slim(groups, random_plan(groups))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [p._version for p in model.parameters()] == versions
    for path, module in model.named_modules():
        assert vars(module).keys() == attributes[path].keys()
        assert all(vars(module)[k] is v for k, v in attributes[path].items())


def test_a_group_is_frozen_by_hand() -> None:
    from secateur.graph.units import Frozen

    groups: Groups = secateur.groups(*network("Flatten"))
    groups.freeze("conv2", Frozen("conv2", 10, "because I say so"))
    assert [g.name for g in groups] == ["conv1", "fc1"]
    assert groups.frozen[-1].reason == "because I say so"
    slim = secateur.slim(groups, random_plan(groups))
    assert slim.conv2.out_channels == 10


def test_units_of_models_with_small_widths() -> None:
    """Two channels, one channel, no channel to spare: widths of one are constants."""
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1), nn.ReLU(), nn.Conv2d(1, 4, 1))
    groups = secateur.groups(model.eval(), torch.randn(1, 3, 4, 4))
    assert [(g.name, g.units) for g in groups] == [("0", 2)]
    slim = secateur.slim(groups, random_plan(groups))
    assert slim[0].out_channels == 1
    assert secateur.record(slim).proof.holds
