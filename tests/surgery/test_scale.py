"""Attention whose head size is cut keeps the scale of the full model, in a checkpoint and in a second cut too."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur
from secateur.surgery.scale import keep_scale


class Attention(nn.Module):
    """Packed projections and attention that states no scale."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, self.size).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return x + self.out(mixed.reshape(n, length, self.heads * self.size))


class Net(nn.Module):
    """Two attentions on one stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = nn.Linear(6, 32), Attention(), Attention(), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(self.stem(x))))


@pytest.fixture(scope="module")
def slim():
    torch.manual_seed(0)
    found = secateur.groups(Net().eval(), torch.randn(2, 7, 6), heads="inner")
    keep = {g.name: torch.arange(g.units)[1::2] for g in found if g.name.endswith("qkv")}
    return secateur.slim(found, secateur.Plan.of(found, keep))


def test_the_head_size_is_cut_and_the_scale_kept(slim):
    entry = secateur.record(slim)
    assert entry.scales == {"a": 8**-0.5, "b": 8**-0.5}
    assert slim.a.size == 4
    assert entry.proof.holds
    assert entry.proof.masked is not None


def test_without_its_scale_the_slim_model_computes_something_else(slim):
    x = torch.randn(2, 7, 6)
    plain = copy.deepcopy(slim)
    for module in (plain.a, plain.b):
        module.__class__ = Attention
    assert not torch.allclose(plain(x), slim(x), rtol=1e-5)


def test_a_checkpoint_and_a_second_cut_keep_it(slim, tmp_path):
    x = torch.randn(2, 7, 6)
    secateur.save(slim, tmp_path)
    loaded = secateur.load(Net, tmp_path)
    assert torch.equal(loaded(x), slim(x))
    found = secateur.groups(loaded, x, heads="inner")
    again = secateur.slim(found, secateur.Plan.of(found, {g.name: torch.arange(2) for g in found if g.units == 4}))
    assert secateur.record(again).proof.holds
    assert secateur.record(again).scales == {"a": 8**-0.5, "b": 8**-0.5}
    secateur.save(again, tmp_path)
    assert torch.equal(secateur.load(Net, tmp_path)(x), again(x))


def test_keeping_a_scale_leaves_the_class_recognisable():
    module = Attention()
    keep_scale(module, 0.5)
    assert isinstance(module, Attention)
    assert type(module).__name__ == "Attention"
    assert type(Attention()) is not type(module)


def test_an_attention_that_states_its_scale_needs_nothing_kept():
    class Stated(Attention):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.size)).permute(2, 0, 3, 1, 4).unbind(0)
            mixed = F.scaled_dot_product_attention(q, k, v, scale=0.3).transpose(1, 2)
            return x + self.out(mixed.flatten(2))

    model = nn.Sequential(nn.Linear(6, 32), Stated(), nn.Linear(32, 5)).eval()
    found = secateur.groups(model, torch.randn(2, 7, 6), heads="inner")
    keep = {g.name: torch.arange(4) for g in found if g.name.endswith("qkv")}
    small = secateur.slim(found, secateur.Plan.of(found, keep))
    assert secateur.record(small).scales == {}
    assert secateur.record(small).proof.holds
