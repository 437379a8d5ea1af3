"""What the blocks of vision models do beside their layers, each on the smallest network that does it."""

from __future__ import annotations

import pytest
import torch
from laws.reference import check_laws, difference, outputs, random_plan, redraw
from torch import Tensor, nn

import secateur
from secateur.graph.rules import RULES, Terms, rule
from secateur.graph.trace import Call
from secateur.graph.units import Groups
from secateur.planning import Plan


class Tokens(nn.Module):
    """A stream of tokens: a linear layer in, some blocks, a linear layer out."""

    def __init__(self, width: int, *blocks: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Linear(6, width), nn.Sequential(*blocks), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(torch.tanh(self.stem(x))).mean(1))


def units(groups: Groups) -> dict[str, int]:
    return {g.name: g.units for g in groups}


def repaired(groups: Groups) -> set[str]:
    return {r.attribute for r in groups.solution.repairs}


class Cascade(nn.Module):
    """Heads one after the other, each on its part of the stream; two numbers say how wide all of them are."""

    def __init__(self, width: int = 32, heads: int = 4, key: int = 8, value: int = 8) -> None:
        super().__init__()
        self.key, self.value = key, value
        self.packed = nn.ModuleList(nn.Linear(width // heads, 2 * key + value) for _ in range(heads))
        self.out = nn.Linear(heads * value, width)

    def forward(self, x: Tensor) -> Tensor:
        made = []
        for packed, part in zip(self.packed, x.chunk(len(self.packed), dim=-1), strict=True):
            q, k, v = packed(part + made[-1] if made else part).split([self.key, self.key, self.value], dim=-1)
            made.append((q @ k.transpose(-1, -2) * 0.3).softmax(-1) @ v)
        return x + self.out(torch.cat(made, -1))


def test_one_number_may_say_the_width_of_several_layers() -> None:
    groups, slim = check_laws(Tokens(32, *(Cascade() for _ in range(3))), torch.randn(2, 5, 6))
    assert repaired(groups) == {"key", "value"}
    for block in slim.blocks:
        assert {p.out_features for p in block.packed} == {2 * block.key + block.value}
    assert {block.key for block in slim.blocks} == {4}


class Branches(nn.Module):
    """Depthwise branches of equal widths beside an identity; a list says where each ends."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        quarter = width // 4
        self.sizes = [quarter] * 4
        self.branches = nn.ModuleList(nn.Conv2d(quarter, quarter, 3, padding=1, groups=quarter) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        first, *parts = torch.split(x, self.sizes, dim=1)
        return torch.cat([first, *(b(p) for b, p in zip(self.branches, parts, strict=True))], dim=1)


def test_sizes_in_a_list_follow_the_call_that_reads_them() -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 1), Branches(), nn.Conv2d(32, 40, 1), Branches(40), nn.Conv2d(40, 5, 1))
    groups, slim = check_laws(model, torch.randn(2, 3, 4, 4))
    assert slim[1].sizes == [4, 4, 4, 4]
    assert slim[3].sizes == [5, 5, 5, 5]
    assert len(groups) == 8


class Scales(nn.Module):
    """Chunks that do not divide the width: all are as wide as the first, but the last."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.tanh(part) * (i + 1) for i, part in enumerate(x.chunk(3, dim=-1))], -1)


@pytest.mark.parametrize("seed", [0, 1])
def test_chunks_that_do_not_divide_a_width_keep_their_difference(seed: int) -> None:
    groups, slim = check_laws(Tokens(14, Scales()), torch.randn(2, 4, 6), seed=seed)
    assert sorted(units(groups).values()) == [4, 5, 5]
    assert slim.stem.out_features == 8
    assert [t.shape[-1] for t in torch.zeros(1, 8).chunk(3, dim=-1)] == [3, 3, 2]


class Heads(nn.Module):
    """Packed attention that reckons its head size from the stream, so that the two go together."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.packed, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, c = x.shape
        q, k, v = self.packed(x).reshape(n, length, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(-1, -2) * 0.3).softmax(-1) @ v
        return x + self.out(y.transpose(1, 2).reshape(n, length, c))


class Others(Heads):
    """Of another class, so that nothing is learned of it from `Heads`."""


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_few_heads_meet_no_equality_by_chance(count: int) -> None:
    model = redraw(Tokens(32, *(Heads(32, 4) for _ in range(count)), Others(32, 4)))
    groups = secateur.groups(model, torch.randn(2, 5, 6))
    names = [g.name for g in groups]
    for name in names:  # one group as small as can be, all others whole, and the other way round
        for small in ({name}, set(names) - {name}):
            counts = groups.balance({g.name: g.minimum if g.name in small else g.units for g in groups})
            slim = secateur.slim(groups, Plan.of(groups, {n: torch.arange(c) for n, c in counts.items()}))
            proof = secateur.record(slim).proof
            assert proof.holds if counts != units(groups) else proof is None
            assert [g.name for g in groups] == names


def test_an_equality_with_whole_heads_leaves_room_to_cut() -> None:
    groups, slim = check_laws(Tokens(24, Heads(24, 3)), torch.randn(2, 5, 6))
    assert units(groups)["stem"] == 24
    assert (slim.stem.out_features, slim.blocks[0].heads) == (16, 2)


def test_parts_of_an_equal_size_grow_evenly() -> None:
    """Three chunks of the stream are equal and together as wide as whole heads."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend = Heads(48, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.attend(torch.cat([torch.tanh(part) for part in x.chunk(3, -1)], -1))

    _, slim = check_laws(Tokens(48, Both()), torch.randn(2, 5, 6))
    assert slim.stem.out_features == 24


class Biased(nn.Module):
    """Attention whose bias for pairs of places is looked up once and kept until the mode changes."""

    def __init__(self, width: int = 12, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.packed, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.table, self.kept = nn.Parameter(torch.randn(heads, 9)), {}
        self.register_buffer("places", torch.arange(5)[:, None] - torch.arange(5) + 4)

    def train(self, mode: bool = True) -> Biased:
        self.kept = {}
        return super().train(mode)

    def bias(self, device: torch.device) -> Tensor:
        if device not in self.kept:
            self.kept[device] = self.table[:, self.places]
        return self.kept[device]

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = self.packed(x).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(-1, -2) * 0.3 + self.bias(x.device)).softmax(-1) @ v
        return x + self.out(y.transpose(1, 2).flatten(2))


def test_what_a_forward_has_kept_of_the_wide_model_is_dropped() -> None:
    model, example = redraw(Tokens(12, Biased())), torch.randn(2, 5, 6)
    with torch.no_grad():
        model(example)
    groups = secateur.groups(model, example)
    slim = secateur.slim(groups, random_plan(groups))
    assert slim.blocks[0].table.shape[0] == 2
    assert slim(example).shape == (2, 5)
    assert model.blocks[0].kept[example.device].shape[0] == 4, "the model keeps its own"
    assert not any(m.training for m in slim.modules())


def test_a_module_that_others_share_is_found_under_its_first_name() -> None:
    class Parent(nn.Module):
        def __init__(self, shared: nn.Module) -> None:
            super().__init__()
            self.heads, self.shared = 4, shared
            self.packed, self.out = nn.Linear(10, 12), nn.Linear(12, 10)

        def forward(self, x: Tensor) -> Tensor:
            n, length, _ = x.shape
            parts = self.packed(x).view(n, length, self.heads, 3)
            return x + self.out(self.shared(parts.softmax(1).flatten(2)))

    class Sharing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Sequential(nn.Tanh())
            self.body = Tokens(10, Parent(self.shared), Parent(self.shared))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    groups, slim = check_laws(Sharing(), torch.randn(2, 4, 6))
    assert units(groups) == {"body.stem": 10, "body.blocks.0.packed": 4, "body.blocks.1.packed": 4}
    assert slim.body.blocks[0].shared is slim.body.blocks[1].shared is slim.shared


def test_a_pointwise_convolution_leaves_places_as_they_are() -> None:
    """Three vectors are mixed by a convolution along their entries, each entry for itself."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sides, self.mix = nn.ModuleList(nn.Linear(6, 12) for _ in range(3)), nn.Conv1d(3, 1, 1)
            self.head = nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.mix(torch.stack([torch.tanh(s(x)) for s in self.sides], 1)).squeeze(1))

    groups, slim = check_laws(Mixed(), torch.randn(2, 6))
    assert units(groups) == {"sides.0": 12}
    assert slim.head.in_features == 6


def test_windows_leave_other_dimensions_in_place() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 12, 1), nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(self.first(x)).unfold(2, 4, 2).unfold(3, 4, 2)
            return self.last(x.reshape(x.shape[0], 12 if self.training else -1, 9, 16).amax(3).mean(2))

    groups, slim = check_laws(Windows(), torch.randn(2, 3, 8, 8))
    assert units(groups) == {"first": 12}
    assert slim.last.in_features == 6


def test_infinite_limits_are_no_broken_weights() -> None:
    class Clipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 5)
            self.register_buffer("least", torch.tensor(-float("inf")))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.maximum(self.first(x), self.least))

    model, example = redraw(Clipped()), torch.randn(2, 6)
    model.least.fill_(-float("inf"))
    groups = secateur.groups(model, example)
    slim = secateur.slim(groups, random_plan(groups))
    assert secateur.record(slim).proof.holds
    assert difference(outputs(slim, groups.inputs), outputs(slim.float(), groups.inputs)) < 1e-9


def test_a_number_needed_for_nothing_is_no_repair() -> None:
    """`heads` and `total` must change together, since the code checks them; `ratio` is 4 as there are 4 heads."""

    class Reduced(Heads):
        def __init__(self) -> None:
            super().__init__(24, 4)
            self.ratio, self.total = 4, 24

        def forward(self, x: Tensor) -> Tensor:
            n, length, _ = x.shape
            packed = self.packed(x)
            assert packed.shape[-1] == 3 * self.total == 18 * self.heads
            q, k, v = packed.view(n, length, 3, self.heads, 6).permute(2, 0, 3, 1, 4)
            y = (q @ k.transpose(-1, -2) * 0.3).softmax(-1) @ v
            return x + self.out(y.transpose(1, 2).reshape(n, length, self.total)) / (2 if self.ratio > 1 else 1)

    groups, slim = check_laws(Tokens(24, Reduced()), torch.randn(2, 5, 6))
    assert repaired(groups) == {"heads", "total"}
    assert (slim.blocks[0].heads, slim.blocks[0].total, slim.blocks[0].ratio) == (2, 12, 4)


def test_a_rule_that_claims_wrong_sizes_freezes_what_it_touches() -> None:
    @rule("relu")
    def wrong(terms: Terms, call: Call) -> list[list[tuple[int, ...]]]:
        return [[(3,) for _ in call["self"].shape]]

    try:
        model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 5)).eval()
        groups = secateur.groups(model, torch.randn(2, 6))
    finally:
        del RULES["relu"]
    assert units(groups) == {"2": 10}
    assert groups.unknown == ("aten.relu in '1'",)


def test_how_results_lie_in_memory_is_no_matter_of_widths() -> None:
    """Norms give their statistics or nothing, as their input lies in memory; nobody reads them."""

    class Laid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.last = nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.Conv2d(12, 5, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            odd = x.shape[1] % 2 == 1
            return self.last(self.norm(x.contiguous(memory_format=torch.channels_last) if odd else x))

    groups, slim = check_laws(Laid(), torch.randn(2, 3, 8, 8), share=0.25)
    assert units(groups) == {"first": 12}
    assert slim.first.out_channels == 3


def test_a_result_laid_anew_in_memory_is_the_same_result() -> None:
    """Pools over places lay their result out as their input lies, which for one channel may be either way."""

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.attend, self.last = nn.Conv2d(3, 12, 1), Heads(12, 4), nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(self.first(x))
            x = self.attend(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)
            if x.shape[1] != 12:
                x = x.contiguous(memory_format=torch.channels_last)
            return self.last(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))

    groups, slim = check_laws(Pooled(), torch.randn(2, 3, 4, 4))
    assert units(groups) == {"first": 12, "attend.packed": 4}
    assert slim.last.in_features == 6


def test_a_width_read_long_before_it_is_asked_for_is_learned() -> None:
    class Long(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.packed, self.out = 4, nn.Linear(24, 24), nn.Linear(24, 10)

        def forward(self, x: Tensor) -> Tensor:
            n, length, c = x.shape
            parts = self.packed(x).view(n, length, self.heads, 6)
            for i in range(40):
                parts = torch.tanh(parts * (1 + i / 40))
            return self.out(parts.transpose(2, 3).transpose(2, 3).reshape(n, length, c))

    model = nn.Sequential(nn.Linear(6, 24), nn.Tanh(), Long())
    groups, slim = check_laws(model, torch.randn(2, 4, 6))
    assert units(groups) == {"0": 24, "2.packed": 4}
    assert (slim[0].out_features, slim[2].heads) == (12, 2)
