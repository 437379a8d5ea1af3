"""Attributes that follow sizes and sizes that must be equal, found by running cut models beside their recording."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from laws.fuzzing import Network, Spec, example, failure
from laws.networks import Shuffle
from laws.reference import check_laws, redraw
from torch import Tensor, nn

import secateur
from secateur.graph import trial
from secateur.graph.repair import sub_products
from secateur.graph.terms import atom, cat, size


class Remembers(nn.Module):
    """A module whose forward reads sizes from attributes, tuples and a configuration."""

    example = (2, 5, 6)

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.hidden, self.shape = how, 24, (4, 6)
        self.config = HeadConfig(4, 6)
        self.first, self.last = nn.Linear(6, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        x = torch.tanh(self.first(x))
        if self.how == "attribute":
            x = x.reshape(n * length, self.hidden).reshape(n, length, self.hidden)
        elif self.how == "tuple":
            x = x.reshape(n, length, *self.shape).relu().reshape(n, length, -1)
        elif self.how == "configuration":
            x = x.reshape(n, length, self.config.heads, self.config.size).softmax(1).flatten(2)
        else:
            x = torch.zeros(n, length, self.hidden) + x
        return self.last(x)


@dataclass
class HeadConfig:
    heads: int
    size: int


REMEMBERED = {"attribute": 12, "tuple": 2, "configuration": 2, "creation": 12}


@pytest.mark.parametrize("how", REMEMBERED)
def test_attributes_follow_the_cut(how: str) -> None:
    model = Remembers(how)
    groups, slim = check_laws(model, torch.randn(2, 5, 6))
    assert [len(k) for k in secateur.record(slim).kept["first.weight"].values()] == [12]
    if how == "tuple":
        assert (slim.shape, model.shape) == ((2, 6), (4, 6))
    elif how == "configuration":
        assert (slim.config.heads, slim.config.size) == (2, 6)
        assert (model.config.heads, model.config.size) == (4, 6), "the configuration belongs to the copy"
    else:
        assert (slim.hidden, model.hidden) == (12, 24)
    assert {r.attribute for r in groups.solution.repairs} <= {"hidden", "shape", "config.heads", "config.size"}


def test_chunks_keep_equal_sizes() -> None:
    groups = secateur.groups(Shuffle().eval(), torch.randn(2, 3, 6, 6))
    left, right = (g.name for g in groups if any(m.name == "stem.weight" for m in g.members))
    counts = groups.balance({left: 3, right: 5})
    assert counts[left] == counts[right] == 5


def test_a_width_read_from_another_tensor_is_learned_as_an_equality() -> None:
    class Borrowed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(12, 5)
            self.other = nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            x, y = torch.tanh(self.a(x)), torch.tanh(self.b(x))
            return self.out(x) + self.other(y.reshape(y.shape[0], x.shape[1]))

    groups, _ = check_laws(Borrowed(), torch.randn(3, 6))
    assert [g.name for g in groups] == ["a", "b"]
    assert groups.balance({"a": 4, "b": 7}) == {"a": 7, "b": 7}


def test_code_that_cannot_follow_is_frozen_with_its_words_and_the_rest_is_cut() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 12), nn.Linear(12, 10), nn.Linear(10, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.relu(self.b(torch.relu(self.a(x)).view(-1, 12))))

    groups, _ = check_laws(Stubborn(), torch.randn(3, 6))
    assert [g.name for g in groups] == ["b"]
    stop = next(f for f in groups.frozen if f.name == "a")
    assert "own code does not follow the new width" in stop.reason
    assert "invalid for input of size" in stop.reason


@pytest.mark.parametrize("how", ["constant", "list", "root", "filled"])
def test_constants_made_of_a_width_keep_that_width(how: str) -> None:
    """Cutting the width would change the number, and with it the function."""

    class Correlates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 12), nn.Linear(12, 10), nn.Linear(10, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.a(x))
            y = torch.relu(self.b(x))
            width = y.shape[1]
            scale = {
                "constant": lambda: torch.tensor(width).sqrt(),
                "list": lambda: torch.tensor([1.0, 1.0 / width])[1],
                "root": lambda: torch.tensor(width**0.5),
                "filled": lambda: torch.full((1,), width),
            }[how]()
            return torch.cat([self.c(y) / scale, y.new_zeros(0)])  # an empty tensor is no size either

    groups, _ = check_laws(Correlates(), torch.randn(3, 6))
    stop = next(f for f in groups.frozen if f.name == "b")
    assert "a number is computed from this width" in stop.reason
    assert [g.name for g in groups] == ["a"]


def test_a_number_that_equals_a_size_by_chance_is_no_size() -> None:
    """`mode` is 8 as the stream is wide: following the width would change the branch that runs."""

    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mode, self.heads, self.size = 8, 2, 3
            self.qkv, self.proj = nn.Linear(8, 18), nn.Linear(6, 8)

        def forward(self, x: Tensor) -> Tensor:
            n, length, _ = x.shape
            packed = self.qkv(x)
            if self.mode % 3:
                q, k, v = packed.view(n, length, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
            else:
                q, k, v = (t.view(n, length, self.heads, self.size).transpose(1, 2) for t in packed.chunk(3, -1))
            weights = (q @ k.transpose(-1, -2) * 0.5).softmax(-1)
            return x + self.proj((weights @ v).transpose(1, 2).reshape(n, length, self.heads * self.size))

    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 8), Moody(), nn.Linear(8, 5))
    groups, slim = check_laws(model, torch.randn(2, 4, 6))
    assert {"0", "2"} <= {g.name for g in groups}
    assert slim[3].mode == 8


def test_groups_of_one_class_learn_from_each_other() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = 4
            self.inner, self.outer = nn.Linear(12, 20), nn.Linear(20, 12)

        def forward(self, x: Tensor) -> Tensor:
            n, length, _ = x.shape
            y = self.inner(x).reshape(n, length, self.heads, -1)
            return x + self.outer(F.normalize(y, dim=1).reshape(n, length, -1))

    model = nn.Sequential(nn.Linear(6, 12), *(Heads() for _ in range(6)), nn.Linear(12, 5))
    groups, slim = check_laws(model, torch.randn(2, 3, 6))
    assert len(groups) == 7
    assert [slim[i].heads for i in range(1, 7)] == [2] * 6
    assert {r.module for r in groups.solution.repairs} == {str(i) for i in range(1, 7)}


def test_what_no_shape_tells_is_compared() -> None:
    """Two shuffles of one class: the number of groups that one's code follows is the other's operator's own."""
    spec = Spec("tokens", (("Shuffle", 13), ("Shuffle", 30)), "mean", seed=10404)
    assert failure(spec) == ""
    model = redraw(Network(spec), spec.seed)
    groups = secateur.groups(model, example(spec))
    assert [r.module for r in groups.solution.repairs] == ["steps.1"]
    assert {g.name: g.units for g in groups} == {"stem": 4, "hidden": 9}


def runs(model: nn.Module, example: Tensor, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many trial cuts are run."""
    made: list[int] = []
    compare = trial.compare
    monkeypatch.setattr(trial, "compare", lambda *args: (made.append(1), compare(*args))[1])
    secateur.groups(model, example)
    return len(made)


def test_attention_needs_few_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
    assert runs(layer.eval(), torch.randn(2, 3, 16), monkeypatch) < 25


@pytest.mark.parametrize("settings", [{}, {"kdim": 12, "vdim": 12}], ids=["one width", "three widths"])
def test_attributes_of_torchs_attention_follow(settings: dict[str, int]) -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.memory = nn.Linear(6, 16), nn.Linear(6, settings.get("kdim", 16))
            self.attention = nn.MultiheadAttention(16, 4, batch_first=True, **settings)
            self.head = nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            read = self.memory(x)
            return self.head(self.attention(self.stem(x), read, read)[0])

    torch.manual_seed(0)
    groups = secateur.groups(Attends(), torch.randn(2, 3, 6))
    slim = secateur.slim(groups, secateur.plan(groups, budget="50% channels", allocation="uniform", round_to=1))
    small = slim.attention
    assert slim.stem.out_features < 16
    assert small.embed_dim == slim.stem.out_features == small.num_heads * small.head_dim
    assert small.kdim == small.vdim == slim.memory.out_features
    assert secateur.record(slim).proof.holds


def test_instance_norms_without_tensors_follow() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.InstanceNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    _, slim = check_laws(model, torch.randn(2, 3, 5, 5))
    assert slim[1].num_features == slim[0].out_channels == 4


def test_sizes_that_code_may_speak_of() -> None:
    heads, inner = atom(4), atom(6)
    assert sorted(size(d) for d in sub_products((3, *heads, *inner))) == [4, 6, 12, 24, 24, 72][:0] + sorted(
        size(d) for d in ((3, *heads, *inner), (3, *heads), heads, (*heads, *inner), inner)
    )
    assert sorted(size(d) for d in sub_products(cat([heads, inner, (2,)]))) == [4, 6, 10, 12]
