"""Networks that nobody wrote: drawn at random, cut at random, and held against the laws.

Each network is a list of small steps on a tensor of channels (images) or tokens (sequences), printed when it fails.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import currently_in_test_context, given, note, settings
from hypothesis import strategies as st
from laws.reference import difference, masked_outputs, outputs, permuted, random_plan, redraw
from torch import Tensor, nn

import secateur
from secateur.errors import BudgetError


class Step(nn.Module):
    """One step of a random network: `kind` and a number choose what it does to `[n, c, ...]`."""

    def __init__(self, kind: str, width: int, choice: int) -> None:
        super().__init__()
        self.kind, self._choice = kind, choice  # a bare number might be taken for a size
        self.out = width
        getattr(self, f"make_{kind}")(width, choice)

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, f"run_{self.kind}")(x)

    # Images

    def make_conv(self, c: int, choice: int) -> None:
        self.out = (8, 12, 16)[choice % 3]
        self.a = nn.Conv2d(c, self.out, (1, 3)[choice % 2], padding=choice % 2)

    def run_conv(self, x: Tensor) -> Tensor:
        return F.relu(self.a(x))

    def make_grouped(self, c: int, choice: int) -> None:
        groups = (2, 4)[choice % 2]
        self.out = groups * (3, 4)[choice // 2 % 2]
        self.a = nn.Conv2d(c, self.out, 3, padding=1, groups=groups, bias=choice % 3 > 0)

    def run_grouped(self, x: Tensor) -> Tensor:
        return F.silu(self.a(x))

    def make_depthwise(self, c: int, choice: int) -> None:
        times = (1, 2)[choice % 2]
        self.out = c * times
        self.a = nn.Conv2d(c, self.out, 3, padding=1, groups=c)

    def run_depthwise(self, x: Tensor) -> Tensor:
        return self.a(x)

    def make_transposed(self, c: int, choice: int) -> None:
        self.out = 8
        self.a = nn.ConvTranspose2d(c, 8, 3, padding=1, groups=(1, 2, 4)[choice % 3])

    def run_transposed(self, x: Tensor) -> Tensor:
        return torch.tanh(self.a(x))

    def make_batch(self, c: int, choice: int) -> None:
        self.norm = nn.BatchNorm2d(c)

    def run_batch(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(x))

    def make_group(self, c: int, choice: int) -> None:
        self.norm = nn.GroupNorm((2, 4)[choice % 2], c)

    def run_group(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def make_residual(self, c: int, choice: int) -> None:
        hidden = (6, 10)[choice % 2]
        self.a, self.b, self.norm = nn.Conv2d(c, hidden, 1), nn.Conv2d(hidden, c, 3, padding=1), nn.BatchNorm2d(hidden)

    def run_residual(self, x: Tensor) -> Tensor:
        return x + self.b(F.relu(self.norm(self.a(x))))

    def make_concat(self, c: int, choice: int) -> None:
        grown = (4, 6, 8)[choice % 3]
        self.out = c + grown
        self.a = nn.Conv2d(c, grown, 1)

    def run_concat(self, x: Tensor) -> Tensor:
        parts = [x, self.a(x)]
        return torch.cat(parts[:: -1 if self._choice % 2 else 1], 1)

    def make_chunk(self, c: int, choice: int) -> None:
        self.a = nn.Conv2d(c // 2, c // 2, 3, padding=1)

    def run_chunk(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1) if self._choice % 2 else x.split(x.shape[1] // 2, 1)
        return torch.cat([left, F.relu(self.a(right))], 1)

    def make_gate(self, c: int, choice: int) -> None:
        self.out = c // 2

    def run_gate(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        return left * torch.sigmoid(right)

    def make_uneven(self, c: int, choice: int) -> None:
        self.at = 2 + choice % (c - 3)
        self.a, self.b = nn.Conv2d(self.at, 6, 1), nn.Conv2d(c - self.at, 6, 1)
        self.out = 6

    def run_uneven(self, x: Tensor) -> Tensor:
        return F.gelu(self.a(x[:, : self.a.in_channels])) + self.b(x[:, self.a.in_channels :])

    def make_shuffle(self, c: int, choice: int) -> None:
        self.groups = (2, 4)[choice % 2]

    def run_shuffle(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if self._choice % 3 == 0:
            return torch.channel_shuffle(x, self.groups)
        return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)

    def make_excite(self, c: int, choice: int) -> None:
        self.a, self.b = nn.Conv2d(c, 5, 1), nn.Conv2d(5, c, 1)

    def run_excite(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.b(F.relu(self.a(x.mean((2, 3), keepdim=True)))))

    def make_pixel(self, c: int, choice: int) -> None:
        self.out = 4
        self.a = nn.Conv2d(c, 16, 1)

    def run_pixel(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.pixel_shuffle(self.a(x), 2), 2)

    def make_pad(self, c: int, choice: int) -> None:
        self.a = nn.Conv2d(c, c + 4, 1)
        self.out = c + 4

    def run_pad(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, 2, 2)) + self.a(x)

    # Sequences, laid out [n, c, length] between steps

    def make_linear(self, c: int, choice: int) -> None:
        self.out = (8, 12, 16)[choice % 3]
        self.a = nn.Linear(c, self.out)

    def run_linear(self, x: Tensor) -> Tensor:
        return F.gelu(self.a(x.transpose(1, 2))).transpose(1, 2)

    def make_layer(self, c: int, choice: int) -> None:
        self.norm = nn.LayerNorm(c, bias=choice % 2 > 0)

    def run_layer(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)

    def make_feed(self, c: int, choice: int) -> None:
        self.norm, self.a, self.b = nn.LayerNorm(c), nn.Linear(c, 10), nn.Linear(10, c)

    def run_feed(self, x: Tensor) -> Tensor:
        return x + self.b(F.gelu(self.a(self.norm(x.transpose(1, 2))))).transpose(1, 2)

    def make_attention(self, c: int, choice: int) -> None:
        self.heads = (2, 4)[choice % 2] if c % 4 == 0 else 2
        self.size = (3, 4)[choice // 2 % 2]
        self.qkv, self.proj = nn.Linear(c, 3 * self.heads * self.size), nn.Linear(self.heads * self.size, c)

    def run_attention(self, x: Tensor) -> Tensor:
        n, _, length = x.shape
        packed = self.qkv(x.transpose(1, 2))
        if self._choice % 3:
            q, k, v = packed.view(n, length, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = (t.view(n, length, self.heads, self.size).transpose(1, 2) for t in packed.chunk(3, -1))
        if self._choice % 2:
            y = F.scaled_dot_product_attention(q, k, v, scale=0.5)
        else:
            y = (q @ k.transpose(-1, -2) * 0.5).softmax(-1) @ v
        return x + self.proj(y.transpose(1, 2).reshape(n, length, self.heads * self.size)).transpose(1, 2)

    def make_multihead(self, c: int, choice: int) -> None:
        self.norm, self.attention = nn.LayerNorm(c), nn.MultiheadAttention(c, 2, batch_first=True)

    def run_multihead(self, x: Tensor) -> Tensor:
        y = self.norm(x.transpose(1, 2))
        return x + self.attention(y, y, y, need_weights=False)[0].transpose(1, 2)

    def make_line(self, c: int, choice: int) -> None:
        self.out = 8
        self.a = nn.Conv1d(c, 8, 3, padding=1)

    def run_line(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.a(x))


IMAGE = (
    "conv grouped depthwise transposed batch group residual concat chunk gate uneven shuffle excite pixel pad".split()
)
SEQUENCE = "linear layer feed attention multihead line".split()
DIVISOR = {"grouped": 4, "transposed": 4, "group": 4, "chunk": 2, "gate": 4, "shuffle": 4, "multihead": 2, "uneven": 1}


class Network(nn.Module):
    """Steps on images, steps on sequences, and a head that flattens or averages."""

    def __init__(self, steps: list[tuple[str, int]], flatten: bool) -> None:
        super().__init__()
        self.stem, self.flatten = nn.Conv2d(3, 16, 1), flatten
        width, built, self.spec = 16, [], ["conv 3 -> 16"]
        sequence = False
        for kind, choice in steps:
            sequence = sequence or kind in SEQUENCE
            if (sequence and kind in IMAGE) or width % DIVISOR.get(kind, 1) or width < 4 or width > 40:
                continue
            built.append(Step(kind, width, choice))
            self.spec.append(f"{kind}({choice}) {width} -> {built[-1].out}")
            width = built[-1].out
        self.steps = nn.ModuleList(built)
        self.hidden = nn.Linear(width * (9 if flatten else 1), 9)
        self.head = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for step in self.steps:
            x = step(x.flatten(2) if step.kind in SEQUENCE and x.dim() == 4 else x)
        x = x.flatten(1) if self.flatten else x.flatten(2).mean(2)
        return self.head(F.relu(self.hidden(x)))


def choices() -> Any:
    image = st.tuples(st.sampled_from(IMAGE), st.integers(0, 11))
    sequence = st.tuples(st.sampled_from(SEQUENCE), st.integers(0, 11))
    return st.tuples(st.lists(image, max_size=5), st.lists(sequence, max_size=4)).map(lambda t: [*t[0], *t[1]])


def tell(text: str) -> None:
    """Printed with the example that fails."""
    (note if currently_in_test_context() else print)(text)


def check(steps: list[tuple[str, int]], flatten: bool, seed: int, share: float) -> None:
    """A random plan of a random network gives the masked network or an error in words, never another function."""
    torch.manual_seed(seed)
    model = redraw(Network(steps, flatten), seed)
    tell("\n".join([f"Network(steps={steps}, flatten={flatten}), seed={seed}, share={share}:", *model.spec]))
    example = torch.randn(2, 3, 3, 3)
    groups = secateur.groups(model, example)
    tell("groups: " + ", ".join(f"{g.name} {g.units} {g.proof}" for g in groups))
    assert len(groups) > 0
    assert not groups.unknown
    dense = outputs(model, groups.inputs)
    assert difference(outputs(permuted(groups, seed), groups.inputs), dense) < 1e-9
    plan = random_plan(groups, seed=seed, share=share)
    slim = secateur.slim(groups, plan)
    tell("frozen by the proof: " + ", ".join(f"{f.name}: {f.reason}" for f in groups.frozen if "proven" in f.reason))
    assert {f.name for f in groups.frozen if "proven" in f.reason} == set()
    assert sum(p.numel() for p in slim.parameters()) == plan.reached.params
    assert difference(outputs(slim, groups.inputs), masked_outputs(groups, plan.keep)) < 1e-9


@settings(max_examples=30)
@given(choices(), st.booleans(), st.integers(0, 99), st.sampled_from([0.3, 0.5, 0.75]))
def test_random_networks(steps: list[tuple[str, int]], flatten: bool, seed: int, share: float) -> None:
    check(steps, flatten, seed, share)


@pytest.mark.slow
@settings(max_examples=200)
@given(choices(), st.booleans(), st.integers(0, 99), st.sampled_from([0.1, 0.3, 0.5, 0.75]))
def test_many_random_networks(steps: list[tuple[str, int]], flatten: bool, seed: int, share: float) -> None:
    check(steps, flatten, seed, share)


@pytest.mark.parametrize("kind", [*IMAGE, *SEQUENCE])
def test_every_step_alone(kind: str) -> None:
    for choice in range(4):
        check([(kind, choice)], choice % 2 == 0, choice, 0.5)


@settings(max_examples=15)
@given(choices(), st.floats(0.05, 0.95))
def test_a_budget_is_met_or_refused_in_words(steps: list[tuple[str, int]], share: float) -> None:
    model = redraw(Network(steps, flatten=False))
    tell("\n".join(model.spec))
    groups = secateur.groups(model, torch.randn(1, 3, 3, 3))
    least = groups.cost(groups.balance(dict.fromkeys((g.name for g in groups), 1))).params
    budget = f"{100 * share:.4g}% params"
    if share * groups.cost().params < least:
        with pytest.raises(BudgetError, match="cannot be reached"):
            secateur.plan(groups, budget=budget, round_to=1, minimum=1)
        return
    plan = secateur.plan(groups, budget=budget, round_to=1, minimum=1)
    slim = secateur.slim(groups, plan)
    assert sum(p.numel() for p in slim.parameters()) == plan.reached.params <= 1.01 * share * plan.dense.params
    assert secateur.record(slim).proof is None or secateur.record(slim).proof.holds
