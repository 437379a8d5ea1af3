"""Every operator family between two layers: what its rule claims is held against what the operator computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from laws.reference import check_laws, redraw
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import secateur
from secateur.graph.rules import RULES, rule

CHANNELS = 16


class Sandwich(nn.Module):
    """A convolution that makes 16 channels of 4 x 4, an operator, and a linear layer that reads every entry."""

    def __init__(self, operator: Callable[..., Tensor], at: int | None = None) -> None:
        super().__init__()
        self.stem, self.given, self.at = nn.Conv2d(3, CHANNELS, 1), operator, at
        with torch.no_grad():
            width = self.operator(torch.zeros(2, CHANNELS, 4, 4)).flatten(1).shape[1]
        self.head = nn.Linear(width, 5)

    def operator(self, x: Tensor) -> Tensor:
        return self.given(x) if self.at is None else self.given(x, self.at)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.operator(self.stem(x)).flatten(1))


def swapped(x: Tensor) -> Tensor:
    """Neighbouring channels exchanged by slices with a stride."""
    return torch.cat([x[:, 1::2], x[:, ::2]], 1)


def interleaved(x: Tensor) -> Tensor:
    """Even channels times odd ones."""
    return x[:, ::2] * x[:, 1::2]


def rotated(x: Tensor) -> Tensor:
    half = x.shape[1] // 2
    return torch.cat([-x[:, half:], x[:, :half]], 1) + x


def shuffled(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def turned(x: Tensor) -> Tensor:
    """Pairs of channels as complex numbers, turned by an angle for each place."""
    pairs = torch.view_as_complex(x.view(2, -1, 2, 4, 4).movedim(2, -1).contiguous())
    places = torch.polar(torch.ones(4, 4), torch.arange(16.0).view(4, 4)).to(pairs.dtype)
    return torch.view_as_real(pairs * places).movedim(-1, 2).reshape(x.shape[0], -1, 4, 4)


def packed(x: Tensor) -> Tensor:
    """Sequences of 16 and 9 steps without the padding, and with it again."""
    rows = pack_padded_sequence(x.flatten(2).mT, torch.tensor([16, 9]), batch_first=True)
    return pad_packed_sequence(rows, batch_first=True)[0]


FREE: dict[str, tuple[Callable[[Tensor], Tensor], list[int]]] = {
    "relu": (F.relu, [16]),
    "in place": (lambda x: x.clone().relu_().mul_(2), [16]),
    "gelu": (F.gelu, [16]),
    "hardswish": (F.hardswish, [16]),
    "sigmoid": (torch.sigmoid, [16]),
    "exp": (torch.exp, [16]),
    "clamp": (lambda x: x.clamp(-1, 0.5), [16]),
    "where": (lambda x: torch.where(x > 0, x, -0.1 * x), [16]),
    "masked_fill": (lambda x: x.masked_fill(x > 1, 0.0), [16]),
    "power and root": (lambda x: (x**2 + 1).sqrt(), [16]),
    "max pool": (lambda x: F.max_pool2d(x, 2), [16]),
    "average pool": (lambda x: F.avg_pool2d(x, 2), [16]),
    "pool over one axis": (lambda x: F.avg_pool2d(x.flatten(2).mT[:, None], (2, 1), (2, 1))[:, 0].mT, [16]),
    "adaptive pool": (lambda x: F.adaptive_avg_pool2d(x, 3), [16]),
    "adaptive max pool": (lambda x: F.adaptive_max_pool2d(x, 2), [16]),
    "upsample": (lambda x: F.interpolate(x, scale_factor=2), [16]),
    "bilinear": (lambda x: F.interpolate(x, size=(6, 6), mode="bilinear"), [16]),
    "reflect": (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), [16]),
    "spatial zeros": (lambda x: F.pad(x, (1, 0, 2, 0)), [16]),
    "channel zeros": (lambda x: F.pad(x, (0, 0, 0, 0, 3, 2)), [16]),
    "spatial mean": (lambda x: x.mean((2, 3), keepdim=True), [16]),
    "spatial maximum": (lambda x: x.amax((2, 3)), [16]),
    "spatial norm": (lambda x: torch.linalg.vector_norm(x, dim=(2, 3)), [16]),
    "spatial softmax": (lambda x: x.flatten(2).softmax(-1), [16]),
    "spatial order": (lambda x: x.flatten(2).cumsum(-1).flip(-1).roll(1, -1), [16]),
    "filter in space": (lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * 0.5) + torch.fft.fft2(x).real, [16]),
    "windows": (lambda x: x.unfold(2, 2, 1).mean(-1), [16]),
    "sort in space": (lambda x: x.flatten(2).sort(-1)[0], [16]),
    "permute": (lambda x: x.permute(0, 3, 1, 2), [16]),
    "transpose": (lambda x: x.flatten(2).transpose(1, 2), [16]),
    "view": (lambda x: x.view(2, -1, 2, 16), [8]),
    "view across": (lambda x: x.reshape(2, 2, -1), [8]),
    "unflatten": (lambda x: x.unflatten(1, (2, -1)).sum(1), [8]),
    "unsqueeze": (lambda x: x.unsqueeze(1).squeeze(1), [16]),
    "expand": (lambda x: x.mean((2, 3), keepdim=True).expand(2, -1, 4, 4) + x, [16]),
    "concatenate": (lambda x: torch.cat([x, x.relu(), torch.ones(2, 3, 4, 4)], 1), [16]),
    "stack": (lambda x: torch.stack([x, 2 * x], 2), [16]),
    "repeat": (lambda x: x.repeat(1, 3, 1, 1), [16]),
    "repeat interleaved": (lambda x: x.repeat_interleave(2, 1), [16]),
    "chunk": (lambda x: x.chunk(2, 1)[0] + x.chunk(2, 1)[1].relu(), [8]),
    "gated linear unit": (lambda x: F.glu(x, 1), [8]),
    "stride": (swapped, [8]),
    "interleaved": (interleaved, [8]),
    "rotate half": (rotated, [8]),
    "turned in pairs": (turned, [8]),
    "spatial slice": (lambda x: x[:, :, 1:3, ::2], [16]),
    "spatial index": (lambda x: x[:, :, 0] + x.select(3, 1), [16]),
    "index in space": (lambda x: x.flatten(2)[:, :, torch.tensor([3, 1, 1])], [16]),
    "gather with a repeated index": (
        lambda x: x.flatten(2).gather(2, torch.tensor([3, 1, 0])[None, None].repeat(2, x.shape[1], 1)),
        [16],
    ),
    "channel shuffle": (lambda x: torch.channel_shuffle(x, 2), [8]),
    "shuffle by view": (shuffled, [8]),
    "pixel shuffle": (lambda x: F.pixel_shuffle(x, 2), [4]),
    "pixel unshuffle": (lambda x: F.pixel_unshuffle(x, 2), [16]),
    "unfold": (lambda x: F.unfold(x, 2), [16]),
    "fold": (lambda x: F.fold(x.flatten(2)[..., :9], (4, 4), 2), [4]),
    "packed": (packed, [16]),
    "gram": (lambda x: x.flatten(2).transpose(1, 2) @ x.flatten(2), [16]),
    "einsum": (lambda x: torch.einsum("nchw,ncvw->nhv", x, x.relu()), [16]),
    "attention": (lambda x: F.scaled_dot_product_attention(*[x.flatten(2).transpose(1, 2)] * 3, scale=0.5), [16]),
    "channel sum": (lambda x: x.sum(1), [16]),
    "channel mean": (lambda x: x.mean(1), [16]),
    "channel maximum": (lambda x: x.amax(1), [16]),
    "channel softmax": (lambda x: x.softmax(1), [16]),
    "channel norm": (lambda x: F.normalize(x, dim=1), [16]),
    "one entry left": (lambda x: x.mean((1, 2, 3))[:, None], [16]),
}

PLACED: dict[str, tuple[Callable[[Tensor, int], Tensor], list[int]]] = {
    "slice": (lambda x, at: torch.cat([x[:, at:], x[:, :at]], 1), [6, 10]),
    "narrow": (lambda x, at: x.narrow(1, 0, at) * 2, [6, 10]),
    "uneven split": (lambda x, at: torch.cat(x.split([at, x.shape[1] - at], 1)[::-1], 1), [6, 10]),
    "tensor split": (lambda x, at: x.tensor_split([at], 1)[1] + 1, [6, 10]),
}

STATISTICS = {"channel mean", "channel maximum", "channel softmax", "one entry left"}

FROZEN: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "selected channel": (lambda x: x[:, 2], "picked by position"),
    "unbound channels": (lambda x: x.unbind(1)[0] + x.unbind(1)[15], "one by one|picked by position"),
    "gathered channels": (lambda x: x[:, torch.tensor([1, 1, 4])], "looked up by index"),
    "channel order": (lambda x: x.flip(1), "order of its entries"),
    "channel sums": (lambda x: x.cumsum(1), "order of its entries"),
    "sorted channels": (lambda x: x.sort(1)[0], "order of its entries"),
    "position of the largest": (lambda x: x.argmax(1).to(x.dtype) + x.amax(1), "position of an entry"),
    "fixed table": (lambda x: x + torch.arange(16.0)[:, None, None], "fixed size"),
    "cut inside a run": (lambda x: x.flatten(1)[:, 5:], "inside a run|cut"),
    "cropped channels": (lambda x: F.pad(x, (0, 0, 0, 0, -3, 0)), "cropped by position"),
    "fourier": (lambda x: torch.fft.fft(x, dim=1).real, "order of its entries"),
    "triangular factor": (lambda x: torch.linalg.qr(x.flatten(1))[1][:, :16], "no rule"),
}


def stem_units(groups: secateur.Groups) -> list[int]:
    return sorted(g.units for g in groups if any(m.name == "stem.weight" for m in g.members))


@pytest.mark.parametrize("name", [n for n in FREE if n not in STATISTICS])
def test_what_a_rule_leaves_free_can_be_cut(name: str) -> None:
    operator, units = FREE[name]
    groups, _ = check_laws(Sandwich(operator), torch.randn(2, 3, 4, 4))
    assert stem_units(groups) == units
    assert groups.unknown == ()


@pytest.mark.parametrize("name", PLACED)
def test_a_place_that_the_module_remembers_moves_with_the_cut(name: str) -> None:
    operator, units = PLACED[name]
    groups, _ = check_laws(Sandwich(operator, 6), torch.randn(2, 3, 4, 4))
    assert stem_units(groups) == units


@pytest.mark.parametrize("name", sorted(STATISTICS))
def test_what_depends_on_how_many_there_are_is_marked(name: str) -> None:
    operator, units = FREE[name]
    groups = secateur.groups(redraw(Sandwich(operator)), torch.randn(2, 3, 4, 4))
    assert stem_units(groups) == units
    assert groups[0].proof == "kept statistics"
    slim = secateur.slim(groups, secateur.plan(groups, budget="80% params", round_to=1))
    assert secateur.record(slim).proof.statistics <= 1e-9


@pytest.mark.parametrize("name", FROZEN)
def test_what_a_rule_freezes_is_told_with_a_reason(name: str) -> None:
    operator, reason = FROZEN[name]
    groups = secateur.groups(redraw(Sandwich(operator)), torch.randn(2, 3, 4, 4))
    assert stem_units(groups) == []
    stop = next(f for f in groups.frozen if f.name == "stem.weight[0]")
    assert stop.units == CHANNELS
    assert stop.operator
    assert any(word in stop.reason for word in reason.split("|"))


class Between(nn.Module):
    """A module with weights of its own between a layer that makes maps of `shape` and one that reads every entry."""

    def __init__(self, inner: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        makers = {1: nn.Linear, 2: nn.Conv1d, 3: nn.Conv2d, 4: nn.Conv3d}
        self.first = makers[len(shape)](3, shape[0], *([1] * (len(shape) > 1)))
        self.inner = inner
        with torch.no_grad():
            width = inner.eval()(torch.zeros(2, *shape)).flatten(1).shape[1]
        self.last = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.inner(torch.tanh(self.first(x))).flatten(1)))


WEIGHTS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[int]]] = {
    "conv1d": (lambda: nn.Conv1d(6, 10, 3), (6, 5), [6, 10]),
    "conv2d": (lambda: nn.Conv2d(6, 10, 3, stride=2, dilation=1), (6, 4, 4), [6, 10]),
    "conv3d": (lambda: nn.Conv3d(4, 6, 2), (4, 3, 3, 3), [4, 6]),
    "grouped": (lambda: nn.Conv2d(8, 12, 1, groups=4), (8, 2, 2), [4]),
    "two groups": (lambda: nn.Conv2d(8, 12, 1, groups=2), (8, 2, 2), [4, 6]),
    "depthwise": (lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8), (8, 4, 4), [8]),
    "depthwise with a multiplier": (lambda: nn.Conv2d(6, 12, 1, groups=6), (6, 2, 2), [6]),
    "transposed": (lambda: nn.ConvTranspose2d(6, 10, 2, stride=2), (6, 2, 2), [6, 10]),
    "transposed in groups": (lambda: nn.ConvTranspose2d(8, 12, 2, groups=4), (8, 2, 2), [4]),
    "transposed depthwise": (lambda: nn.ConvTranspose1d(6, 6, 3, groups=6), (6, 4), [6]),
    "one channel": (lambda: nn.Conv2d(1, 6, 1), (1, 4, 4), [6]),
    "linear": (lambda: nn.Linear(8, 6), (8,), [6, 8]),
    "linear over positions": (lambda: nn.Linear(8, 6), (4, 8), [4]),
    "batch norm": (lambda: nn.BatchNorm1d(8), (8,), [8]),
    "batch norm of maps": (lambda: nn.BatchNorm2d(8, affine=False), (8, 2, 2), [8]),
    "layer norm": (lambda: nn.LayerNorm(8), (8,), [8]),
    "group norm": (lambda: nn.GroupNorm(4, 16), (16, 2, 2), [4]),
    "instance norm": (lambda: nn.InstanceNorm2d(8, affine=True), (8, 3, 3), [8]),
    "prelu": (lambda: nn.PReLU(8), (8, 2, 2), [8]),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_layers_with_weights(name: str) -> None:
    build, shape, units = WEIGHTS[name]
    groups, _ = check_laws(Between(build(), shape), torch.randn(2, 3, *shape[1:]))
    assert sorted(g.units for g in groups) == units


@torch.library.custom_op("secateur_tests::opaque", mutates_args=())
def opaque(x: Tensor) -> Tensor:
    return x * 2.0


@opaque.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Opaque(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(6, 12), nn.Linear(12, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.middle(opaque(self.first(x)))))


def test_an_unknown_operator_freezes_what_it_touches_and_is_listed() -> None:
    groups, _ = check_laws(Opaque(), torch.randn(3, 6))
    assert [g.name for g in groups] == ["middle"]
    assert groups.unknown == ("secateur_tests.opaque in ''",)
    stop = next(f for f in groups.frozen if f.name == "first.weight[0]")
    assert (stop.reason, stop.operator) == ("there is no rule for this operator", "secateur_tests.opaque")


def test_a_rule_of_a_user_makes_it_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur.graph.rules.base.RULES", dict(RULES))
    from secateur.graph.rules import base

    @rule("secateur_tests::opaque")
    def same(terms: object, call: object) -> list[object]:
        return [call["x"].dims]  # type: ignore[index]

    assert "secateur_tests::opaque" in base.RULES
    groups, _ = check_laws(Opaque(), torch.randn(3, 6))
    assert [g.name for g in groups] == ["first", "middle"]
    assert groups.unknown == ()
