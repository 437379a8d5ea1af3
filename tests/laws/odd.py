"""Code as people write it beside the textbook: one small network for each habit, with what ought to be found in it.

`ODD` names with each the groups that must exist and what stays whole, with the reason that must be given.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce, repeat
from einops.layers.torch import Rearrange
from torch import Tensor, nn
from torch.ao.quantization import DeQuantStub, QuantStub
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class BiasCache(nn.Module):
    """A forward that keeps a table by device in a dict and a mask in an attribute, as LeViT and GPT-2 do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.proj = nn.Linear(6, 16), nn.Linear(16, 48), nn.Linear(16, 5)
        self.heads, self.table = 4, nn.Parameter(torch.randn(4, 9))
        self.index = torch.arange(5)[:, None] - torch.arange(5)[None] + 4
        self.biases: dict[str, Tensor] = {}
        self.mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        key = str(x.device)
        if key not in self.biases:
            self.biases[key] = self.table[:, self.index]
        if self.mask is None or self.mask.shape[-1] != length:
            self.mask = torch.full((length, length), -1e4, dtype=x.dtype).triu(1)
        q, k, v = self.qkv(self.embed(x)).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT * 0.5 + self.biases[key] + self.mask).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(n, length, -1))


class RawParameters(nn.Module):
    """Matrices, scales and tokens that belong to no layer, in a parameter list and a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shift = nn.Parameter(torch.randn(6, 12)), nn.Parameter(torch.randn(12))
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.layers = nn.ParameterList([nn.Parameter(torch.randn(12, 10)), nn.Parameter(torch.randn(10, 12))])
        self.ends = nn.ParameterDict({"out": nn.Parameter(torch.randn(12, 5))})

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x @ self.first + self.shift], 1)
        x = x + torch.tanh(x @ self.layers[0]) @ self.layers[1]
        return torch.relu(x) @ self.ends["out"]


class SharedModules(nn.Module):
    """One block under two names, called on two streams, and an encoder called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(3, 12, 1)
        self.block = nn.Sequential(nn.Conv2d(12, 10, 3, padding=1), nn.BatchNorm2d(10), nn.ReLU(), nn.Conv2d(10, 12, 1))
        self.parts = nn.ModuleDict({"again": self.block, "head": nn.Linear(12, 5)})

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.left(x), self.right(x)
        a, b = a + self.block(a), b + self.parts["again"](b)
        return self.parts["head"]((a - b).mean((2, 3)))


class Standardised(nn.Conv2d):
    """A convolution that standardises its weight when it runs."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        deviation = (self.weight - mean).pow(2).mean((1, 2, 3), keepdim=True).sqrt()
        return F.conv2d(x, (self.weight - mean) / (deviation + 1e-5), self.bias, padding=self.padding)


class FunctionalWeights(nn.Module):
    """Weights that are computed: standardised, of low rank, gated, and under a parametrization."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 12, 1), Standardised(12, 10, 3, padding=1)
        self.down, self.up = nn.Parameter(torch.randn(6, 10)), nn.Parameter(torch.randn(14, 6))
        self.gain, self.normed, self.head = nn.Parameter(torch.rand(14)), weight_norm(nn.Linear(14, 9)), nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(F.relu(self.stem(x)))).mean((2, 3))
        x = torch.tanh(F.linear(x, (self.up @ self.down) * self.gain[:, None]))
        return self.head(F.relu(self.normed(x)))


class Einops(nn.Module):
    """Attention, a patch embedding and pooling written in einops."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.patches = nn.Sequential(Rearrange("b c (h p) (w q) -> b (h w) (p q c)", p=2, q=2), nn.Linear(12, 16))
        self.token, self.qkv, self.out = nn.Parameter(torch.randn(16)), nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.head = nn.Linear(16, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        x = torch.cat([repeat(self.token, "c -> b 1 c", b=x.shape[0]), x], 1)
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        weights = einsum(q, k, "b h i d, b h j d -> b h i j").mul(0.5).softmax(-1)
        y = rearrange(einsum(weights, v, "b h i j, b h j d -> b h i d"), "b h n d -> b n (h d)")
        return self.head(reduce(torch.relu(self.up(x + self.out(y))), "b n c -> b c", "mean"))


class ShapeBranches(nn.Module):
    """Control flow that asks for shapes: of the input, of equal widths, and of a width that may be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.same, self.wide = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 3, padding=1), nn.Conv2d(12, 16, 1)
        self.short, self.extra, self.head = nn.Conv2d(12, 16, 1), nn.Conv2d(16, 16, 1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        while x.shape[-1] > 4:
            x = F.avg_pool2d(x, 2)
        y = F.relu(self.same(x))
        x = x + y if y.shape == x.shape else y
        y = self.wide(x)
        y = F.relu(y) + (x if y.shape[1] == x.shape[1] else self.short(x))
        if y.shape[1] >= 14:
            y = self.extra(y)
        return self.head(y.mean((2, 3)))


@dataclass
class Answer:
    """A dataclass of tensors and of other things."""

    scores: Tensor
    boxes: list[Tensor]
    name: str = "answer"


Pair = namedtuple("Pair", "mean spread")


class SeveralEnds(nn.Module):
    """Inputs in a tuple and a dict, outputs in a dataclass, a named tuple and a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Conv2d(3, 12, 1), nn.Embedding(11, 12)
        self.trunk, self.scores, self.box = nn.Linear(12, 14), nn.Linear(14, 5), nn.Linear(14, 4)
        self.mean, self.spread, self.extra = nn.Linear(14, 3), nn.Linear(14, 3), nn.Linear(12, 2)

    def forward(self, pair: tuple[Tensor, Tensor], more: dict[str, Any], scale: float = 1.0) -> dict[str, Any]:
        image, tokens = pair
        seen = self.image(image).mean((2, 3)) * scale + self.text(tokens).sum(1)
        y = torch.relu(self.trunk(seen + self.text(more["tokens"]["ids"]).sum(1)))
        return {
            "answer": Answer(self.scores(y), [self.box(y), self.box(-y)]),
            "pair": Pair(self.mean(y), F.softplus(self.spread(y))),
            "rest": (None, [{"extra": self.extra(seen)}]),
        }


class Frozen(nn.Module):
    """A backbone whose parameters are not trained, and a part that runs without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 10, 1)
        )
        self.backbone.requires_grad_(False)
        self.teacher, self.head = nn.Linear(10, 8), nn.Linear(18, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.backbone(x).mean((2, 3))
        with torch.no_grad():
            told = torch.tanh(self.teacher(x.detach()))
        return self.head(torch.cat([F.relu(x), told.clone()], 1))


class Packed(nn.Module):
    """Recurrent layers of three kinds, one over packed sequences, one with a state it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.lstm = nn.Embedding(11, 12), nn.LSTM(12, 10, batch_first=True, bidirectional=True)
        self.gru, self.rnn, self.head = nn.GRU(20, 8), nn.RNN(8, 6, nonlinearity="relu"), nn.Linear(6, 5)
        self.start = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, tokens: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.table(tokens), torch.tensor([5, 3]), batch_first=True)
        out, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        out, _ = self.gru(out.transpose(0, 1), self.start.expand(-1, out.shape[0], -1).contiguous())
        return self.head(self.rnn(out)[1][-1])


class Stubs(nn.Module):
    """A network made ready for quantisation: stubs, and an addition as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.a, self.norm, self.b = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.Conv2d(12, 12, 1)
        self.add, self.head = nn.quantized.FloatFunctional(), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.a(self.quant(x))))
        x = self.add.add_relu(x, self.b(x))
        return self.dequant(self.head(self.add.cat([x], 1).mean((2, 3))))


class Convolutions(nn.Module):
    """Convolutions of one, two and three dimensions, forth and back, in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.volume, self.up3 = nn.Conv3d(2, 8, 3, padding=1), nn.ConvTranspose3d(8, 6, 2, stride=2)
        self.plane, self.up2 = (
            nn.Conv2d(6, 12, 3, padding=1, groups=2),
            nn.ConvTranspose2d(12, 16, 2, stride=2, groups=4),
        )
        self.line, self.up1 = nn.Conv1d(16, 10, 3), nn.ConvTranspose1d(10, 9, 3, padding=1, output_padding=1, stride=2)
        self.depth, self.head = nn.ConvTranspose1d(9, 9, 3, groups=9), nn.Conv1d(9, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.up3(F.relu(self.volume(x)))).mean(2)
        x = F.relu(self.up2(F.relu(self.plane(x)))).flatten(2)
        return self.head(self.depth(F.gelu(self.up1(F.gelu(self.line(x))))))


class Weighted(nn.Module):
    """BiFPN: levels of a pyramid added with weights that are learned and sum to one."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList([nn.Conv2d(3, 10, 3, padding=1), nn.Conv2d(10, 14, 3, stride=2, padding=1)])
        self.laterals = nn.ModuleList([nn.Conv2d(10, 12, 1), nn.Conv2d(14, 12, 1)])
        self.fast, self.soft = nn.Parameter(torch.rand(2)), nn.Parameter(torch.rand(3))
        self.fuse = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.Conv2d(12, 12, 1), nn.BatchNorm2d(12))
        self.head = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low = F.relu(self.levels[0](x))
        a, b = self.laterals[0](low), self.laterals[1](F.relu(self.levels[1](low)))
        w = F.relu(self.fast)
        w = w / (w.sum() + 1e-4)
        top = self.fuse(F.silu(w[0] * a + w[1] * F.interpolate(b, scale_factor=2)))
        s = self.soft.softmax(0)
        stacked = torch.stack([b, F.max_pool2d(top, 2), F.avg_pool2d(a, 2)], -1)
        return self.head(top), self.head(F.silu((stacked * s).sum(-1)))


class C2f(nn.Module):
    """YOLO's block: split in two, bottlenecks after one another, all parts side by side; then pools of pools (SPPF)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.c = nn.Conv2d(3, 12, 1), 8
        self.cv1, self.cv2 = nn.Conv2d(12, 2 * self.c, 1), nn.Conv2d(4 * self.c, 12, 1)
        self.m = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6), nn.SiLU(), nn.Conv2d(6, 8, 3, padding=1))
            for _ in range(2)
        )
        self.pool, self.spp, self.head = nn.MaxPool2d(3, 1, 1), nn.Conv2d(36, 10, 1), nn.Conv2d(10, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(F.silu(self.stem(x))).split((self.c, self.c), 1))
        y.extend(y[-1] + m(y[-1]) for m in self.m)
        y = [F.silu(self.cv2(torch.cat(y, 1)))]
        y.extend(self.pool(y[-1]) for _ in range(2))
        return self.head(F.silu(self.spp(torch.cat(y, 1))))


def image() -> Tensor:
    return torch.randn(2, 3, 8, 8)


def words(length: int = 5) -> Tensor:
    return torch.randint(0, 11, (2, length))


def several() -> dict[str, Any]:
    return {"pair": (image(), words()), "more": {"tokens": {"ids": words(3)}, "note": "kept"}, "scale": 0.5}


@dataclass(frozen=True)
class Odd:
    """One network: what it is called with, the units of each of its groups, and what is told of parts left whole."""

    kind: type[nn.Module]
    example: Callable[[], Any]
    groups: dict[str, int]
    left: dict[str, str] = field(default_factory=dict)


TRAINED = "normed.parametrizations.weight.original1"
ODD: dict[str, Odd] = {
    odd.kind.__name__: odd
    for odd in (
        Odd(BiasCache, lambda: torch.randn(2, 5, 6), {"embed": 16, "qkv": 4}, {"table[1]": "looked up by index"}),
        Odd(RawParameters, lambda: torch.randn(2, 4, 6), {"first": 12, "layers.0": 10}),
        Odd(SharedModules, image, {"left": 12, "block.0": 10}),
        Odd(FunctionalWeights, image, {"stem": 12, "conv": 10, "down": 6, "up": 14, TRAINED: 9}),
        Odd(Einops, image, {"patches.1": 16, "qkv": 4, "up": 20}),
        Odd(
            ShapeBranches,
            image,
            {"stem": 12},
            dict.fromkeys(("wide", "extra"), "own code does not follow the new width"),
        ),
        Odd(SeveralEnds, several, {"image": 12, "trunk": 14}, {"text.weight[0]": "looked up by index"}),
        Odd(Frozen, image, {"backbone.0": 12, "backbone.3": 10, "teacher": 8}),
        Odd(Packed, words, {"table": 12, "lstm.weight_ih_l0": 10, "gru.weight_ih_l0": 8, "rnn.weight_ih_l0": 6}),
        Odd(Stubs, image, {"a": 12}),
        Odd(
            Convolutions,
            lambda: torch.randn(2, 2, 2, 4, 4),
            {"volume": 8, "up3": 3, "plane": 3, "up2": 4, "line": 10, "up1": 9},
            {"plane.weight[0]": "other factor is pruned"},
        ),
        Odd(
            Weighted,
            image,
            {"levels.0": 10, "levels.1": 14, "laterals.0": 12},
            {"fast[0]": "picked by position", "soft[0]": "fixed size"},
        ),
        Odd(C2f, image, {"stem": 12, "cv1": 8, "cv1/2": 8, "m.0.0": 6, "m.1.0": 6, "cv2": 12, "spp": 10}),
    )
}
