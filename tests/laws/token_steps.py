"""Steps of random networks on tokens: attention of every build, feed-forward parts, recurrent layers."""

from __future__ import annotations

from random import Random

import torch
import torch.nn.functional as F
from laws.steps import Step
from torch import Tensor, nn

LENGTH = 8


class Tokens(Step, layout="tokens"):
    pass


class Linear(Tokens):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(pick.choice((8, 12, 16)))
        self.a = nn.Linear(c, self.out, bias=pick.random() < 0.7)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.a(x))


class Layer(Tokens):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.norm = pick.choice((nn.LayerNorm(c), nn.LayerNorm(c, bias=False), nn.RMSNorm(c)))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Feed(Tokens):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.norm, self.a, self.b = nn.LayerNorm(c), nn.Linear(c, 10), nn.Linear(10, c)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(F.gelu(self.a(self.norm(x))))


class Gated(Tokens):
    """SwiGLU, from one layer or two."""

    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.one = pick.random() < 0.5
        self.up, self.gate = nn.Linear(c, 20 if self.one else 10), nn.Linear(c, 10)
        self.down = nn.Linear(10, c)

    def forward(self, x: Tensor) -> Tensor:
        if self.one:
            gate, up = self.up(x).chunk(2, -1)
            return x + self.down(F.silu(gate) * up)
        return x + self.down(F.silu(self.gate(x)) * self.up(x))


class Attention(Tokens):
    """Packed queries, keys and values, taken apart by views, chunks or unbind; the scale is a number."""

    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.heads, self.size = pick.choice((2, 3, 4)), pick.choice((3, 4))
        inner = self.heads * self.size
        self.qkv, self.proj = nn.Linear(c, 3 * inner), nn.Linear(inner, c)
        self.packed, self.fused, self.open = pick.random() < 0.6, pick.random() < 0.5, pick.random() < 0.3

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        qkv = self.qkv(x)
        if self.packed:
            q, k, v = qkv.view(n, length, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        else:
            size = -1 if self.open else self.size
            q, k, v = (t.view(n, length, self.heads, size).transpose(1, 2) for t in qkv.chunk(3, -1))
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, scale=0.5)
        else:
            y = (q @ k.transpose(-1, -2) * 0.5).softmax(-1) @ v
        y = y.transpose(1, 2)
        return x + self.proj(y.flatten(2) if self.open else y.reshape(n, length, self.heads * self.size))


class Queries(Tokens):
    """Attention with fewer heads of keys than of queries; no scale is stated."""

    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.groups, self.times, self.size = pick.choice((2, 3)), 2, pick.choice((3, 4))
        self.q = nn.Linear(c, self.groups * self.times * self.size)
        self.k, self.v = nn.Linear(c, self.groups * self.size), nn.Linear(c, self.groups * self.size)
        self.o, self.how = nn.Linear(self.groups * self.times * self.size, c), pick.choice(("repeat", "expand", "own"))

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = (t.view(n, length, -1, self.size).transpose(1, 2) for t in (self.q(x), self.k(x), self.v(x)))
        if self.how == "repeat":
            k, v = k.repeat_interleave(self.times, 1), v.repeat_interleave(self.times, 1)
        elif self.how == "expand":
            k, v = (t[:, :, None].expand(-1, -1, self.times, -1, -1).flatten(1, 2) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.how == "own")
        return x + self.o(y.transpose(1, 2).reshape(n, length, -1))


class Multihead(Tokens, divisor=2):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.norm, self.first = nn.LayerNorm(c), pick.random() < 0.5
        self.attention = nn.MultiheadAttention(c, 2, batch_first=self.first, bias=pick.random() < 0.7)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        if self.first:
            return x + self.attention(y, y, y, need_weights=False)[0]
        y = y.transpose(0, 1)
        return x + self.attention(y, y, y)[0].transpose(0, 1)


class Encoder(Tokens, divisor=2):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.layer = nn.TransformerEncoderLayer(c, 2, 10, batch_first=True, norm_first=pick.random() < 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Rotary(Tokens):
    """Positions by rotation of halves; queries and keys are normed for each head."""

    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.heads, self.size = pick.choice((2, 3)), 4
        self.q, self.k, self.v, self.o = (nn.Linear(*s) for s in ((c, 4 * self.heads),) * 3 + ((4 * self.heads, c),))
        angle = torch.arange(float(LENGTH))[:, None] * (0.5 ** torch.arange(2.0))
        self.register_buffer("cos", torch.cat([angle, angle], -1).cos())
        self.register_buffer("sin", torch.cat([angle, angle], -1).sin())

    def rotate(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, -1)
        return x * self.cos + torch.cat([-right, left], -1) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = (f(x).view(n, length, self.heads, self.size).transpose(1, 2) for f in (self.q, self.k, self.v))
        weights = (self.rotate(F.normalize(q, dim=-1)) @ self.rotate(F.normalize(k, dim=-1)).mT * 3).softmax(-1)
        return x + self.o((weights @ v).transpose(1, 2).flatten(2))


class Latents(Tokens):
    """Tokens of its own that ask the others, and a relative table of biases; heads mix before the softmax."""

    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.heads, self.latents = 3, nn.Parameter(torch.randn(1, LENGTH, c))
        self.q, self.kv, self.o = nn.Linear(c, 12), nn.Linear(c, 24), nn.Linear(12, c)
        self.table, self.index = nn.Parameter(torch.randn(15, 3)), torch.arange(8)[:, None] - torch.arange(8) + 7
        self.talk = nn.Conv2d(3, 3, 1) if pick.random() < 0.5 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q = self.q(self.latents).view(1, LENGTH, self.heads, -1).transpose(1, 2)
        k, v = self.kv(x).view(n, length, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(LENGTH, LENGTH, -1).permute(2, 0, 1)
        weights = self.talk(q @ k.mT * 0.5 + bias).softmax(-1)
        return x + self.o((weights @ v).transpose(1, 2).reshape(n, length, -1))


class Kernel(Tokens, counted=True):
    """Linear attention: softmax over features and over places."""

    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.q, self.k, self.v, self.o = (nn.Linear(*s) for s in ((c, 12), (c, 12), (c, 12), (12, c)))
        self.heads = pick.choice((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = torch.einsum("bhld,bhde->bhle", q.softmax(-1), torch.einsum("bhld,bhle->bhde", k.softmax(-2), v))
        return x + self.o(y.transpose(1, 2).flatten(2))


class Recurrent(Tokens):
    def __init__(self, c: int, pick: Random) -> None:
        kind, both = pick.choice((nn.LSTM, nn.GRU, nn.RNN)), pick.random() < 0.4
        super().__init__(6 * (1 + both))
        self.rnn = kind(c, 6, batch_first=True, bidirectional=both, bias=pick.random() < 0.8)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x[:, :3])[0].repeat(1, 3, 1)[:, :LENGTH]


class Position(Tokens):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.table = nn.Embedding(10, c) if pick.random() < 0.5 else None
        self.line = nn.Parameter(torch.randn(1, LENGTH, c))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.line if self.table is None else self.table(torch.arange(x.shape[1])))


class ClassToken(Tokens):
    """A token put before the others, norm over all, and a layer that reads it beside their mean."""

    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(10)
        self.token, self.norm, self.a = nn.Parameter(torch.randn(1, 1, c)), nn.LayerNorm(c), nn.Linear(2 * c, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1))
        y = torch.cat([y[:, :1].expand_as(x), y[:, 1:]], -1)
        return self.a(y)


class Experts(Tokens, counted=True):
    """Every expert's answer, weighed by a router."""

    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.route = nn.Linear(c, 3)
        self.up, self.down = nn.Parameter(torch.randn(3, c, 6)), nn.Parameter(torch.randn(3, 6, c))
        self.batched = pick.random() < 0.5

    def forward(self, x: Tensor) -> Tensor:
        weights = self.route(x).softmax(-1)
        if self.batched:
            rows = x.flatten(0, 1).expand(3, -1, -1)
            y = torch.bmm(F.relu(torch.bmm(rows, self.up)), self.down).permute(1, 2, 0).unflatten(0, x.shape[:2])
            return x + (y @ weights.unsqueeze(-1)).squeeze(-1)
        y = torch.einsum("nlef,efc->nlec", F.relu(torch.einsum("nlc,ecf->nlef", x, self.up)), self.down)
        return x + torch.einsum("nlec,nle->nlc", y, weights)


class SpatialGate(Tokens):
    """gMLP's unit: halves, one of which is mixed over places."""

    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.up, self.norm, self.down = nn.Linear(c, 16), nn.LayerNorm(8), nn.Linear(8, c)
        self.mix = nn.Conv1d(LENGTH, LENGTH, 1) if pick.random() < 0.5 else nn.Linear(LENGTH, LENGTH)

    def forward(self, x: Tensor) -> Tensor:
        left, right = F.gelu(self.up(x)).chunk(2, -1)
        right = self.norm(right)
        right = self.mix(right) if isinstance(self.mix, nn.Conv1d) else self.mix(right.mT).mT
        return x + self.down(left * right)


class Reuse(Tokens):
    """A layer whose weight is used both ways, and a bilinear form."""

    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.a, self.form = nn.Linear(c, 7, bias=False), nn.Bilinear(c, 7, 5) if pick.random() < 0.5 else None
        self.back = nn.Linear(5, c)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.a(x))
        if self.form is not None:
            return self.back(self.form(x.contiguous(), y))
        return F.linear(y, self.a.weight.t()) + x
