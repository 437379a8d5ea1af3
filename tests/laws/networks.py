"""Small networks that are odd in one way each: what real models do, at a size that runs in a moment."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Flatten(nn.Module):
    """VGG's end: channels x positions flattened into a linear layer."""

    example = (2, 3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 10, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(10 * 16, 14), nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        return self.fc2(F.relu(self.fc1(torch.flatten(F.relu(self.conv2(x)), 1))))


class Residual(nn.Module):
    """Two residual blocks with squeeze and excitation, and an option-A shortcut that slices and pads."""

    example = (2, 3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.a, self.b = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 3, padding=1)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.down, self.bn2 = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16)
        self.up = nn.Conv2d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        y = self.b(F.relu(self.a(x)))
        gate = torch.sigmoid(self.excite(F.silu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        x = F.relu(x + y * gate)
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        x = F.relu(self.up(F.relu(self.bn2(self.down(x)))) + short)
        return self.fc(x.mean((2, 3)))


class Dense(nn.Module):
    """Concatenations of concatenations."""

    example = (2, 3, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(8 + 6 * i, 6, 3, padding=1) for i in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 6 * i) for i in range(3))
        self.end, self.fc = nn.BatchNorm2d(26), nn.Linear(26, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = torch.cat([x, layer(F.relu(norm(x)))], 1)
        return self.fc(F.relu(self.end(x)).mean((2, 3)))


class Shuffle(nn.Module):
    """ShuffleNet's unit: chunk, a depthwise branch, concatenation and channel shuffle by view and transpose."""

    example = (2, 3, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 1)
        self.a, self.dw, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)
        self.c, self.fc = nn.Conv2d(16, 12, 1), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = F.relu(self.stem(x)).chunk(2, dim=1)
        right = F.relu(self.b(self.dw(F.relu(self.a(right)))))
        x = torch.cat([left, right], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.fc(F.relu(self.c(x)).mean((2, 3)))


class Grouped(nn.Module):
    """Grouped, transposed, one- and three-dimensional convolutions and a pixel shuffle."""

    example = (2, 4, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 16, 1)
        self.grouped, self.norm = nn.Conv2d(16, 24, 3, padding=1, groups=4), nn.BatchNorm2d(24)
        self.up = nn.ConvTranspose2d(24, 16, 2, stride=2)
        self.up_grouped = nn.ConvTranspose2d(16, 16, 3, padding=1, groups=2)
        self.wide = nn.Conv2d(16, 32, 1)
        self.line, self.volume = nn.Conv1d(8, 10, 3), nn.Conv3d(10, 6, (3, 1, 1))
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.grouped(F.relu(self.stem(x)))))
        x = F.relu(self.up_grouped(F.relu(self.up(x))))
        x = F.pixel_shuffle(self.wide(x), 2)
        x = F.relu(self.line(x.flatten(2)))
        x = self.volume(x[:, :, :, None, None])
        return self.fc(F.gelu(x).amax((2, 3, 4)))


class Attention(nn.Module):
    """Pre-norm attention with a packed qkv projection, cut by reshape, permute and unbind, written by hand."""

    def __init__(self, width: int = 24, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.norm = nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        qkv = self.qkv(self.norm(x)).reshape(n, length, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        weights = (q @ k.transpose(-2, -1) * 0.4).softmax(-1)
        return x + self.proj((weights @ v).transpose(1, 2).reshape(n, length, self.heads * self.head_dim))


class Feed(nn.Module):
    """A pre-norm feed-forward part with a residual connection."""

    def __init__(self, width: int = 24, hidden: int = 40) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Transformer(nn.Module):
    """Two blocks of attention and feed-forward parts over an embedding of a continuous sequence."""

    example = (2, 5, 7)

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(7, 24), nn.Parameter(0.1 * torch.randn(1, 5, 24))
        self.blocks = nn.Sequential(Attention(), Feed(), Attention(), Feed())
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(x) + self.position)).mean(1))


class Multihead(nn.Module):
    """torch's own MultiheadAttention between two linear layers."""

    example = (2, 5, 7)

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(7, 24), nn.LayerNorm(24)
        self.attention = nn.MultiheadAttention(24, 4, batch_first=True)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm(x)
        return self.head(x + self.attention(y, y, y, need_weights=False)[0])


class Rotary(nn.Module):
    """Rotate-half position embeddings over a head size that both halves share."""

    example = (2, 5, 7)

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.head_dim = 6, 8
        self.q, self.k, self.v = (nn.Linear(7, 48, bias=False) for _ in range(3))
        angle = torch.arange(5.0)[:, None] * (0.5 ** torch.arange(4.0))
        self.register_buffer("cos", torch.cat([angle, angle], -1).cos())
        self.register_buffer("sin", torch.cat([angle, angle], -1).sin())
        self.out, self.head = nn.Linear(48, 16), nn.Linear(16, 5)

    def rotate(self, x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        return x * self.cos + torch.cat([-x[..., half:], x[..., :half]], -1) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = (f(x).view(n, length, self.heads, self.head_dim).transpose(1, 2) for f in (self.q, self.k, self.v))
        weights = (self.rotate(q) @ self.rotate(k).transpose(-2, -1) * 0.3).softmax(-1)
        return self.head(F.relu(self.out((weights @ v).transpose(1, 2).flatten(2))))


class Tied(nn.Module):
    """A language model whose output layer is its embedding table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 16)
        self.block = Feed(16, 20)
        self.out = nn.Linear(16, 11, bias=False)
        self.out.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.block(self.table(tokens)))


class Twice(nn.Module):
    """One layer called twice, so that its input and its output are the same units."""

    example = (3, 6)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.last = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        for _ in range(2):
            x = torch.relu(self.shared(x))
        return self.last(x)


class Square(nn.Module):
    """A square linear layer in a residual: the group's units are its rows and its columns."""

    example = (3, 6)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.square, self.last = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.last(torch.tanh(x + self.square(x)))


class Scaled(nn.Module):
    """A width that goes into a number of the forward, beside one that does not."""

    example = (3, 6)

    def __init__(self, how: str = "power") -> None:
        super().__init__()
        self.how = how
        self.first, self.middle, self.last = nn.Linear(6, 16), nn.Linear(16, 20), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        width = x.shape[1]
        if self.how == "power":
            x = x * width**-0.5
        elif self.how == "root":
            x = x / math.sqrt(width)
        elif self.how == "tensor":
            x = x / torch.sqrt(torch.tensor(float(width)))
        else:
            x = x / width
        return self.last(torch.relu(self.middle(x)))


class Caching(nn.Module):
    """A forward that writes caches into its module: an attribute, a dict and a list."""

    example = (3, 6)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 4)
        self.cache: dict[str, Tensor] = {}
        self.seen: list[Tensor] = []
        self.latest: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        self.latest = x
        self.seen.append(x)
        self.cache["bias"] = self.first.bias * 2
        self.fresh = x.sum()
        return self.last(x + self.cache["bias"])


class Auxiliary(nn.Module):
    """A second head that runs in training alone."""

    example = (2, 3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.aux, self.aux_out = nn.Linear(16, 12), nn.Linear(12, 5)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = F.relu(self.bn(self.conv(x))).mean((2, 3))
        return (self.fc(x), self.aux_out(F.relu(self.aux(x)))) if self.training else self.fc(x)


class ConvNext(nn.Module):
    """A ConvNeXt block: depthwise convolution, channels-last layer norm, two linear layers, layer scale."""

    example = (2, 3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 2, stride=2)
        self.dw, self.norm = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 40), nn.Linear(40, 16)
        self.scale = nn.Parameter(1e-6 * torch.ones(16, 1, 1))
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        x = x + self.scale * self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2)
        return self.fc(x.mean((2, 3)))


class GroupNormed(nn.Module):
    """Group norm and RMS norm over pruned channels."""

    example = (2, 3, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 24, 3, padding=1), nn.GroupNorm(4, 24)
        self.up, self.rms = nn.Conv2d(24, 20, 1), nn.RMSNorm(20, eps=1e-6)
        self.fc = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(F.relu(self.norm(self.conv(x)))).mean((2, 3))
        return self.fc(F.silu(self.rms(x)))


NETWORKS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        Flatten, Residual, Dense, Shuffle, Grouped, Transformer, Multihead, Rotary, Twice, Square, Auxiliary, ConvNext,
        GroupNormed,
    )
}  # fmt: skip


def network(name: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """A network of this file with its example, both from a seed."""
    torch.manual_seed(seed)
    model = NETWORKS[name]().eval()
    return model, torch.randn(model.example)
