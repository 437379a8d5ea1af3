"""What the code of language models does beside its layers, each on the smallest network that does it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from laws.reference import check_laws, difference, outputs, random_plan, redraw, zeroed
from torch import Tensor, nn

import secateur
from secateur.errors import InputError
from secateur.graph.units import Groups
from secateur.planning import Plan


class Attention(nn.Module):
    """Packed queries, keys and values, split by a number that says how wide each is."""

    def __init__(self, width: int = 12, heads: int = 4, size: int = 3) -> None:
        super().__init__()
        self.split, self.size = heads * size, size
        self.norm, self.packed, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * self.split), nn.Linear(12, width)

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        n, length, _ = x.shape
        parts = self.packed(self.norm(x)).split(self.split, dim=2)
        q, k, v = (t.view(n, length, -1, self.size).transpose(1, 2) for t in parts)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        weights = (q @ k.transpose(-1, -2) * 0.5).softmax(-1)
        return x + self.out((weights @ v).transpose(1, 2).reshape(n, length, -1)), (k, v)


class Remembering(nn.Module):
    """Two blocks as wide as their stream, and a cache that goes out and comes back in."""

    def __init__(self, memory: str = "past") -> None:
        super().__init__()
        self.memory = memory
        self.table, self.blocks = nn.Embedding(17, 12), nn.ModuleList(Attention() for _ in range(2))
        self.head = nn.Linear(12, 17)

    def forward(self, ids: Tensor, past: list[Any] | None = None) -> dict[str, Any]:
        x, memory = self.table(ids), []
        for block, known in zip(self.blocks, past or [None, None], strict=True):
            x, kept = block(x, known)
            memory.append(kept)
        return {"logits": self.head(x), self.memory: memory}


def units(groups: Groups) -> dict[str, int]:
    return {g.name: g.units for g in groups}


def test_a_cache_that_goes_back_into_the_model_is_cut_with_its_heads() -> None:
    model, ids = redraw(Remembering()), torch.randint(0, 17, (2, 5))
    groups = secateur.groups(model, ids)
    assert units(groups) == {"blocks.0.out": 12, "blocks.0.packed": 4, "blocks.1.packed": 4}
    heads = {"blocks.0.packed": torch.tensor([0, 3]), "blocks.1.packed": torch.tensor([1, 2, 3])}
    plan = Plan.of(groups, {"blocks.0.out": torch.arange(12), **heads})
    slim = secateur.slim(groups, plan)
    assert secateur.record(slim).proof.holds
    masked = zeroed(groups, plan.keep).float()
    for ours, theirs in ((slim(ids), masked(ids)), (in_two_steps(slim, ids), in_two_steps(masked, ids))):
        assert torch.allclose(ours["logits"], theirs["logits"], atol=1e-5)
        for cut, full, kept in zip(ours["past"], theirs["past"], heads.values(), strict=True):
            assert torch.allclose(cut[0], full[0][:, kept], atol=1e-5)


def in_two_steps(model: nn.Module, ids: Tensor) -> dict[str, Any]:
    result: dict[str, Any] = model(ids[:, 3:], model(ids[:, :3])["past"])
    return result


def test_widths_of_results_that_are_no_memory_stay() -> None:
    ids = torch.randint(0, 17, (2, 5))
    groups = secateur.groups(redraw(Remembering("keys")), ids)
    assert units(groups) == {"blocks.0.out": 12}
    again = secateur.groups(redraw(Remembering()), {"ids": ids, "past": Remembering()(ids)["past"]})
    assert units(again) == {"blocks.0.out": 12}, "what the caller passes has the widths it has"


def test_results_that_nobody_wants_may_shrink() -> None:
    model, ids = redraw(Remembering("keys")), torch.randint(0, 17, (2, 5))
    groups = secateur.groups(model, ids, outputs=["logits"])
    assert units(groups) == {"blocks.0.out": 12, "blocks.0.packed": 4, "blocks.1.packed": 4}
    slim = secateur.slim(groups, random_plan(groups))
    assert secateur.record(slim).proof.holds
    assert slim(ids)["keys"][0][0].shape == (2, 2, 5, 3)
    with pytest.raises(InputError, match=r"'outputs' parameter of groups holds 'loss'. .* has 'logits', 'keys'"):
        secateur.groups(model, ids, outputs=["loss"])


def test_numbers_of_several_layers_are_told_by_their_place() -> None:
    """`split` equals the width of the stream; it belongs to the heads of its own block."""
    groups = secateur.groups(redraw(Remembering()), torch.randint(0, 17, (2, 5)))
    assert not groups.solution.equal or all(a == b for a, b in groups.solution.equal[4:])
    slim = secateur.slim(groups, random_plan(groups, seed=5))
    for block in slim.blocks:
        assert block.split == block.packed.out_features // 3 == block.out.in_features
    assert groups.balance({"blocks.0.out": 5, "blocks.0.packed": 2, "blocks.1.packed": 3}) == {
        "blocks.0.out": 5, "blocks.0.packed": 2, "blocks.1.packed": 3,
    }  # fmt: skip


class Selective(nn.Module):
    """One projection is split into a rank and two states, as state-space models do; another number equals the rank."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.rank, self.state = 4, 4, 6
        self.project, self.rise, self.out = nn.Linear(8, 16), nn.Linear(4, 10), nn.Linear(6, 5)
        self.last = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        step, b, c = self.project(F.pad(x, (0, 0, self.kernel, 0))).split([self.rank, self.state, self.state], -1)
        return self.last(torch.tanh(self.rise(step))) + self.out(b * c)


def test_sizes_that_add_up_change_together() -> None:
    groups, slim = check_laws(Selective(), torch.randn(2, 3, 8))
    assert sorted(units(groups).values()) == [4, 6, 10]
    assert (slim.kernel, slim.rank, slim.state) == (4, 2, 3)


class Modulated(nn.Module):
    """Two parts as wide as the stream, whose width the code reads from its input, and a few gates."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.level = nn.Linear(12, 27), 2
        self.one, self.other = nn.Linear(12, 12), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        query, context, gates = torch.split(self.into(x), (width, width, self.level + 1), -1)
        return x + self.one(query * gates[..., 0, None]) + self.other(context * gates[..., 1, None])


def test_several_sizes_that_follow_one_width() -> None:
    model = nn.Sequential(nn.Linear(6, 12), Modulated(), Modulated(), nn.Linear(12, 5))
    groups, slim = check_laws(model, torch.randn(2, 3, 6))
    assert groups.cost(groups.balance({g.name: 1 for g in groups})).params < groups.cost().params / 4
    assert slim[1].one.in_features < 12


class Literal(nn.Module):
    """Four heads, written as a number in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        return self.last(self.first(x).reshape(n, length, 4, -1).softmax(1).flatten(2))


def test_where_heads_cannot_be_cut_the_size_of_a_head_may() -> None:
    groups, _ = check_laws(Literal(), torch.randn(2, 5, 6))
    assert units(groups) == {"first": 6}
    reason = next(f.reason for f in groups.frozen if f.units == 4)
    assert "own code does not follow the new width" in reason


class Table(nn.Module):
    """A table of relative positions, read from a place that the code computes from a number."""

    def __init__(self) -> None:
        super().__init__()
        self.span = 9
        self.table, self.first, self.last = nn.Parameter(torch.randn(18, 8)), nn.Linear(6, 8), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        near = self.table[self.span - 3 : self.span + 3]
        return self.last(torch.tanh(self.first(x)) @ near.t())


def test_entries_read_from_the_wrong_place_are_noticed() -> None:
    model = Table()
    groups, slim = check_laws(model, torch.randn(2, 6))
    assert slim(torch.randn(2, 6)).shape == (2, 5)
    assert "first" in units(groups)


@functools.lru_cache
def ramp(n: int, device: torch.device) -> Tensor:
    return torch.arange(n, device=device) / n


class Cached(nn.Module):
    """A method and a function that remember what they made."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 5)

    @staticmethod
    @functools.lru_cache(maxsize=4)
    def slope(n: int, device: torch.device) -> Tensor:
        return torch.ones(n, 1, device=device) * 2

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        x = torch.tanh(self.first(x) * self.slope(n, x.device) + ramp(n, x.device)[:, None])
        return self.last(x)


def test_what_functions_remember_does_not_outlast_a_trace() -> None:
    model, example = redraw(Cached()), torch.randn(2, 5, 6)
    groups = secateur.groups(model, example)
    assert units(groups) == {"first": 12}
    assert secateur.record(secateur.slim(groups, random_plan(groups))).proof.holds
    assert model(example).dtype == torch.float32, "proofs compute in float64"
    assert type(ramp(5, torch.device("cpu"))) is Tensor
    assert type(model.slope(5, torch.device("cpu"))) is Tensor


class Experts(nn.Module):
    """Rows sorted by the expert that a router chooses, multiplied by that expert's matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.router, self.head = nn.Linear(6, 16), nn.Linear(16, 3), nn.Linear(16, 5)
        self.up, self.down = nn.Parameter(torch.randn(3, 48, 16) / 4), nn.Parameter(torch.randn(3, 16, 24) / 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        weight, chosen = self.router(x).softmax(-1).max(-1)
        chosen, order = torch.sort(chosen)
        ends = torch.histc(chosen.float(), 3, 0, 2).cumsum(0).to(torch.int32)
        gate, value = F.grouped_mm(x[order], self.up.transpose(1, 2), offs=ends).chunk(2, -1)
        made = F.grouped_mm(F.silu(gate) * value, self.down.transpose(1, 2), offs=ends) * weight[order, None]
        return self.head(x + torch.zeros_like(x).index_copy(0, order, made))


def test_experts_lose_width_in_steps_that_their_kernel_can_read() -> None:
    model, x = redraw(Experts()), torch.randn(20, 6)
    groups = secateur.groups(model, x)
    assert units(groups) == {"down": 16, "up": 24}
    assert groups.balance({"down": 3, "up": 9}) == {"down": 8, "up": 16}
    plan = random_plan(groups)
    slim = secateur.slim(groups, plan)
    assert secateur.record(slim).proof.holds
    assert (slim.up.shape, slim.down.shape) == ((3, 32, 8), (3, 8, 16))
    assert torch.allclose(slim(x), zeroed(groups, plan.keep).float()(x), atol=1e-5)
    assert groups.cost(plan_counts(plan)).macs < groups.cost().macs


def plan_counts(plan: Plan) -> dict[str, int]:
    return {name: len(kept) for name, kept in plan.keep.items()}


def test_weights_over_their_norm() -> None:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(8, 8, 3, padding=1, groups=2), dim=2)
    model = redraw(nn.Sequential(nn.Conv1d(3, 8, 1), conv, nn.GELU(), nn.Conv1d(8, 5, 1)))
    groups = secateur.groups(model, torch.randn(2, 3, 9))
    assert not groups.unknown
    assert {g.units for g in groups} == {4}
    assert secateur.record(secateur.slim(groups, random_plan(groups))).proof.holds


class SmallConfig:
    def __init__(self, **numbers: Any) -> None:
        self.width, self.hidden, self.sizes, self.layers = 8, 12, [12, 20], 2
        vars(self).update(numbers)


class Layer(nn.Module):
    def __init__(self, config: SmallConfig, size: int) -> None:
        super().__init__()
        self.config = config
        self.up, self.down = nn.Linear(config.width, config.hidden), nn.Linear(config.hidden, config.width)
        self.side, self.back = nn.Linear(config.width, size), nn.Linear(size, config.width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x).reshape(-1, self.config.hidden).tanh()
        return x + self.down(y).view(x.shape) + self.back(self.side(x).relu())


class Configured(nn.Module):
    """Built from one configuration, which its layers share and read when they run."""

    def __init__(self, config: SmallConfig | None = None) -> None:
        super().__init__()
        self.config = config or SmallConfig()
        self.first = nn.Linear(6, self.config.width)
        self.layers = nn.ModuleList(Layer(self.config, size) for size in self.config.sizes)
        self.last = nn.Linear(self.config.width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return self.last(x)


@pytest.mark.parametrize("even", [True, False])
def test_configurations_tell_what_one_number_can_tell(even: bool, tmp_path: Path) -> None:
    model, x = redraw(Configured()), torch.randn(3, 6)
    groups = secateur.groups(model, x)
    kept = {"first": 5, "layers.0.up": 6, "layers.1.up": 6 if even else 9, "layers.0.side": 7, "layers.1.side": 11}
    plan = Plan.of(groups, {name: torch.arange(count) for name, count in kept.items()})
    slim = secateur.slim(groups, plan)
    assert secateur.record(slim).proof.holds
    assert (slim.config.width, slim.config.sizes, slim.config.layers) == (5, [7, 11], 2)
    assert slim.config.hidden == (6 if even else 12)
    assert [layer.config.hidden for layer in slim.layers] == [kept["layers.0.up"], kept["layers.1.up"]]
    assert vars(model.config) == vars(SmallConfig())
    if even:
        fresh = type(slim)(slim.config)
        fresh.load_state_dict(slim.state_dict())
        assert difference(outputs(fresh, groups.inputs), outputs(slim, groups.inputs)) == 0
    back = secateur.load(Configured, secateur.save(slim, tmp_path))
    assert torch.equal(back(x), slim(x))
    assert vars(back.config) == vars(slim.config)


def test_entries_that_only_longer_inputs_read_stay() -> None:
    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places, self.raised = nn.Parameter(torch.randn(20, 10)), nn.Linear(10, 8)
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.tanh(self.first(x) + self.raised(2 * self.places)[: x.shape[1]]))

    groups, slim = check_laws(Placed(), torch.randn(2, 7, 6))
    assert sorted(units(groups).values()) == [8, 10]
    assert slim(torch.randn(3, 20, 6)).shape == (3, 20, 5)


class Heads(nn.Module):
    """Reads the size of a head and neither the number of heads nor its window, which is as wide as a head."""

    def __init__(self, config: SmallConfig) -> None:
        super().__init__()
        self.heads, self.size, self.window = config.heads, 24 // config.heads, config.window
        self.into, self.out = nn.Linear(config.width, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.into(x).view(*x.shape[:-1], -1, self.size).softmax(1).flatten(2))


def test_a_number_that_equals_a_size_by_chance_stays_in_the_configuration() -> None:
    class Windowed(nn.Module):
        def __init__(self, config: SmallConfig | None = None) -> None:
            super().__init__()
            self.config = config or SmallConfig(heads=4, window=6)
            self.heads = Heads(self.config)

        def forward(self, x: Tensor) -> Tensor:
            return self.heads(x)

    groups = secateur.groups(redraw(Windowed()), torch.randn(2, 7, 8))
    assert units(groups) == {"heads.into": 4}
    slim = secateur.slim(groups, random_plan(groups))
    assert (slim.config.heads, slim.config.window, slim.config.width) == (2, 6, 8)
    inner = secateur.groups(groups.model, torch.randn(2, 7, 8), heads="inner")
    slim = secateur.slim(inner, random_plan(inner))
    assert (slim.heads.size, slim.config.heads, slim.config.window) == (3, 4, 6)


def test_numbers_that_must_agree_are_stated_together() -> None:
    class PairConfig(SmallConfig):
        def __init__(self) -> None:
            super().__init__(table=8)

    class Projected(Configured):
        """Another layer appears where two numbers differ."""

        def __init__(self, config: SmallConfig | None = None) -> None:
            super().__init__(config or PairConfig())
            self.bridge = (
                nn.Linear(self.config.table, self.config.width) if self.config.table != self.config.width else None
            )

    groups = secateur.groups(redraw(Projected()), torch.randn(3, 6))
    slim = secateur.slim(groups, Plan.of(groups, {g.name: torch.arange(g.units // 2) for g in groups}))
    assert (slim.config.width, slim.config.table) == (4, 4)


def test_spectra_are_proven_in_double_precision() -> None:
    class Spectral(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.fft.fft(torch.tanh(self.first(x)), dim=1).real)

    model = redraw(nn.Sequential(Spectral(), nn.ReLU(), nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 3)))
    groups = secateur.groups(model, torch.randn(2, 7, 6))
    assert secateur.record(secateur.slim(groups, random_plan(groups))).proof.holds
    assert groups["2"].units == 12


def test_hooks_that_a_forward_installs_are_taken_back() -> None:
    class Watched(nn.Module):
        """Collects the results of a layer by a hook that the first run installs."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last, self.seen = nn.Linear(6, 12), nn.Linear(12, 5), [[]]

        def forward(self, x: Tensor) -> Tensor:
            self.seen[0] = []
            if not hasattr(self, "installed"):
                self.first.register_forward_hook(lambda module, given, result: self.seen[0].append(result))
                self.installed = True
            self.last(self.first(x).tanh())
            return self.last(sum(self.seen[0]).tanh())

    model, x = redraw(Watched()), torch.randn(2, 6)
    groups = secateur.groups(model, x)
    assert not model.first._forward_hooks
    assert units(groups) == {"first": 12}
    assert secateur.record(secateur.slim(groups, random_plan(groups))).proof.holds


def test_what_a_fixed_table_makes_is_an_input() -> None:
    class Coordinates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("places", torch.randn(7, 4))
            self.mlp, self.first, self.last = nn.Linear(4, 8), nn.Linear(6, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.tanh(self.first(x) + self.mlp(self.places)))

    groups, _ = check_laws(Coordinates(), torch.randn(2, 7, 6))
    assert sorted(units(groups).values()) == [8]
    assert any(f.units == 4 and f.reason == "a fixed table alone makes its units" for f in groups.frozen)


def test_a_part_that_is_taken_for_its_shape_alone_stops_nothing() -> None:
    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(self.first(x))
            return self.last(x + torch.arange(x[:, :, -1].shape[1])[:, None])

    groups, _ = check_laws(Asking(), torch.randn(2, 7, 6))
    assert units(groups) == {"first": 12}
