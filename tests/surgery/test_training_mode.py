"""What a model does in training mode alone is cut and proven with the rest."""

from __future__ import annotations

import copy

import pytest
import torch
from laws.reference import random_plan, redraw
from torch import Tensor, nn

import secateur
from secateur.graph.state import set_mode
from secateur.surgery.verify import Verifier, worst


class SideHead(nn.Module):
    """An auxiliary head, seen in five parts, with a norm that no single example can train."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 8, 3, padding=1), nn.ReLU())
        self.side = nn.Sequential(nn.Conv2d(8, 10, 4), nn.BatchNorm2d(10), nn.ReLU(), nn.Dropout(0.5))
        self.last, self.side_last = nn.Linear(8, 5), nn.Linear(10, 5)
        self.parts, self.dropout = 5, dropout

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.stem(x)
        out = self.last(x.mean((2, 3)))
        if not self.training:
            return out
        side = self.side(x).flatten(1).view(len(x), self.parts, -1).transpose(1, 2).flatten(1)
        side = nn.functional.dropout(side, self.dropout, self.training)
        return out, self.side_last(side)


def example() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(1, 3, 4, 4)


@pytest.mark.parametrize("kind", [SideHead, lambda: SideHead().requires_grad_(False)])
def test_auxiliary_heads_are_cut_and_proven(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    found = secateur.groups(redraw(kind()), example())
    assert not found.unreached
    assert {g.name for g in found} >= {"stem.0", "stem.2"}
    plan = random_plan(found)
    small = secateur.slim(found, plan)
    assert secateur.record(small).proof.holds
    assert small.side[0].in_channels == 4
    masked = copy.deepcopy(found.model)
    tensors = {**dict(masked.named_parameters()), **dict(masked.named_buffers())}
    for group in found:
        stays = torch.zeros(group.units).index_fill_(0, plan.keep[group.name], 1.0)
        for member in group.members:
            tensors[member.name].data.mul_(member.expand(stays))
    for model in (small, masked):
        set_mode(model, training=True)
    for ours, theirs in zip(small(example()), masked(example()), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_an_attribute_that_only_training_reads_is_repaired() -> None:
    torch.manual_seed(0)
    found = secateur.groups(redraw(SideHead()), example())
    assert found["side.0"].units == 5
    plan = random_plan(found)
    small = secateur.slim(found, plan)
    assert small.parts == len(plan.keep["side.0"]) < 5
    small.train()
    assert [t.shape for t in small(torch.randn(2, 3, 4, 4))] == [(2, 5), (2, 5)]


def test_a_wrong_cut_of_an_auxiliary_head_is_seen() -> None:
    torch.manual_seed(0)
    found = secateur.groups(redraw(SideHead()), example())
    plan = random_plan(found)
    small = secateur.slim(found, plan)
    assert Verifier(found).prove(small, plan.keep).holds
    small.side[2] = nn.Sigmoid()
    assert not Verifier(found).prove(small, plan.keep).holds


def test_random_training_is_cut_but_not_compared() -> None:
    torch.manual_seed(0)
    found = secateur.groups(redraw(SideHead(dropout=0.5)), example())
    verifier = Verifier(found)
    assert [r.training for r in verifier.recordings] == [False]
    small = secateur.slim(found, random_plan(found))
    small.train()
    assert [t.shape for t in small(torch.randn(2, 3, 4, 4))] == [(2, 5), (2, 5)]


def test_layers_of_torch_stay_calm() -> None:
    model = SideHead()
    set_mode(model, training=True)
    assert [name for name, m in model.named_modules() if m.training] == ["", "stem", "side"]


def test_the_worst_of_several_proofs_counts() -> None:
    found = secateur.groups(redraw(SideHead()), example())
    plan = random_plan(found)
    proof = secateur.record(secateur.slim(found, plan)).proof
    nan = float("nan")
    bad = type(proof)(None, nan, None, proof.tolerance, proof.dtype)
    assert not worst([proof, bad]).holds
    assert not worst([bad, proof]).holds
    assert worst([proof, proof]) == proof
