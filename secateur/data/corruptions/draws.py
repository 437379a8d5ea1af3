"""Random numbers for a batch of images, each from a stream of its own, the same on every device.

A stream is SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): number i is a hash of key + i * gamma. It has no state but
a position, so a whole batch is drawn at once, and what an image gets does not depend on the images beside it.
"""

from __future__ import annotations

from math import pi, prod

import torch
from torch import Tensor

from secateur.data.order import seed_of

_GAMMA = 0x9E3779B97F4A7C15 - 2**64  # 64-bit constants, as the signed numbers of torch
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


class Draws:
    """What is drawn for a batch: row i of every result comes from the stream of `keys[i]`, int64 [batch]."""

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys
        self._position = 0

    @classmethod
    def of(cls, seed: int, kind: str, severity: int, indices: Tensor) -> Draws:
        """One stream for each of `indices`, int64 [batch], as a function of all four."""
        base = seed_of(seed, int.from_bytes(kind.encode(), "little"), severity)
        return cls(_hashed(base + indices * _GAMMA))

    def halves(self, *shape: int) -> Tensor:
        """Random bits, int32 [batch, *shape]."""
        count = prod(shape)
        words = -(-count // 2)
        places = torch.arange(self._position + 1, self._position + 1 + words, device=self.keys.device) * _GAMMA
        self._position += words
        bits = self.keys.new_empty(len(self.keys), words)
        bits = _hashed(torch.add(self.keys.unsqueeze(1), places, out=bits)).view(torch.int32)
        return bits[:, :count].reshape(len(self.keys), *shape)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform over [low, high), in steps of 2**-24 of it: float32 [batch, *shape]."""
        return _share(self.halves(*shape)).mul_(high - low).add_(low)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, by Box and Muller: float32 [batch, *shape]."""
        count = prod(shape)
        pairs = _share(self.halves(2, -(-count // 2)))
        radius, angle = pairs[:, 0].neg_().log1p_().mul_(-2).sqrt_(), pairs[:, 1].mul_(2 * pi)
        both = torch.empty_like(pairs)
        torch.cos(angle, out=both[:, 0]).mul_(radius)
        torch.sin(angle, out=both[:, 1]).mul_(radius)
        return both.flatten(1)[:, :count].reshape(len(self.keys), *shape)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Whole numbers from `low` up to, not including, `high`: int64 [batch, *shape]."""
        words = self.halves(*shape).long() & 0xFFFFFFFF
        return low + (words * (high - low) >> 32)

    def signs(self, *shape: int) -> Tensor:
        """-1 or 1: int64 [batch, *shape]."""
        return 2 * self.integers(0, 2, *shape) - 1


def _share(bits: Tensor) -> Tensor:
    """The upper 24 of 32 bits as a float32 in [0, 1); `bits` are used up."""
    return bits.bitwise_right_shift_(8).bitwise_and_(0xFFFFFF).float().mul_(2.0**-24)


def _hashed(values: Tensor) -> Tensor:
    """The finaliser of SplitMix64, in place; products wrap around."""
    shifted = torch.empty_like(values)
    for by, factor in ((30, _FIRST), (27, _SECOND), (31, 1)):
        # zeros must come in where torch repeats the sign
        torch.bitwise_right_shift(values, by, out=shifted).bitwise_and_((1 << 64 - by) - 1)
        values.bitwise_xor_(shifted)
        if factor != 1:
            values.mul_(factor)
    return values
