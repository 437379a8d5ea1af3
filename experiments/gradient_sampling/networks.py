"""Networks for the paper's open question, whether transformers and recurrent networks behave as residual ones do."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, int, int]


class Rows(nn.Module):
    """Reads an image row by row: [batch, channels, rows, columns] -> [batch, rows, channels x columns]."""

    def forward(self, x: Tensor) -> Tensor:
        """The rows as a sequence."""
        return x.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Multi-head self-attention and a perceptron, each behind a layer norm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, width] -> the same."""
        batch, length, width = x.shape
        parts = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """A transformer over the rows of an image, averaged at its end."""

    def __init__(self, classes: int, shape: Shape, width: int = 64, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        channels, rows, columns = shape
        self.rows, self.embed = Rows(), nn.Linear(channels * columns, width)
        self.position = nn.Parameter(torch.randn(rows, width) * 0.02)
        self.blocks = nn.Sequential(*(Attention(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images -> class scores."""
        x = self.blocks(self.embed(self.rows(x)) + self.position)
        return self.head(self.norm(x.mean(1)))


class Recurrent(nn.Module):
    """A gated recurrent network (GRU) over the rows of an image, its two maps written as linear layers."""

    def __init__(self, classes: int, shape: Shape, width: int = 128) -> None:
        super().__init__()
        channels, _, columns = shape
        self.rows, self.width = Rows(), width
        self.inputs, self.state = nn.Linear(channels * columns, 3 * width), nn.Linear(width, 3 * width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images -> class scores."""
        given = self.inputs(self.rows(x))
        h = given.new_zeros(len(x), self.width)
        for step in given.unbind(1):
            r, z, n = step.chunk(3, 1)
            hr, hz, hn = self.state(h).chunk(3, 1)
            z = torch.sigmoid(z + hz)
            h = (1 - z) * torch.tanh(n + torch.sigmoid(r + hr) * hn) + z * h
        return self.head(h)


def transformer(classes: int = 10, shape: Shape = (1, 28, 28)) -> nn.Module:
    """The transformer: 204,618 parameters on 28x28 inputs."""
    return Transformer(classes, shape)


def recurrent(classes: int = 10, shape: Shape = (1, 28, 28)) -> nn.Module:
    """The recurrent network: 61,834 parameters on 28x28 inputs."""
    return Recurrent(classes, shape)
