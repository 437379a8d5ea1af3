"""A random bit for every (seed, step, index), by a hash and without a generator.

    x = i xor first,   x = (x xor x >> 16) A + second,   u(seed, t, i) = (x xor x >> 15) B mod 2^31

Index `i` is kept at step `t` if `u < rate 2^31`. Both keys, `first` and `second`, are hashes of seed and step. Nothing
is drawn, so there is no state to save, every rank and every device finds the same bits, and other random draws are not
shifted. Two keys are needed: with the first alone, the mask of a step would be another's in a different order.

The chain is a 32-bit finaliser of low bias (C. Wellons, "Prospecting for hash functions", 2018) less its last
xor-shift, which mixes bits that the comparison does not look at; two multiplications an entry are most of its cost.

Numbers are int32 that wrap, which every device and every compiler has. With 31 bits, `u - bound` does not overflow, and
its sign, spread over a word, is the mask: all ones or all zeros, ready to be combined with the bits of a gradient. That
is many times faster than to compare and to choose, and as safe for numbers that are not finite.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

FIRST, SECOND = 0x7FEB352D, 0x846CA68B
GOLDEN = 0x9E3779B9
_WORD = 0xFFFFFFFF
_POSITIVE = 0x7FFFFFFF

Key = int | Tensor


def signed(number: int) -> int:
    """The low 32 bits of `number` as an int32."""
    number &= _WORD
    return number - (1 << 32) if number >> 31 else number


def hashed(indices: Tensor, first: Key, second: Key) -> Tensor:
    """The numbers u of int32 indices, in a new tensor; shifts are logical."""
    x = indices ^ first
    x = (x ^ ((x >> 16) & 0xFFFF)) * signed(FIRST) + second
    return ((x ^ ((x >> 15) & 0x1FFFF)) * signed(SECOND)) & _POSITIVE


def hash_(x: Tensor, scratch: Tensor, first: Key, second: Key) -> Tensor:
    """As `hashed`, in place; `scratch` is another int32 tensor of the same shape."""
    torch.bitwise_right_shift(x.bitwise_xor_(first), 16, out=scratch)
    x.bitwise_xor_(scratch.bitwise_and_(0xFFFF)).mul_(signed(FIRST)).add_(second)
    torch.bitwise_right_shift(x, 15, out=scratch)
    return x.bitwise_xor_(scratch.bitwise_and_(0x1FFFF)).mul_(signed(SECOND)).bitwise_and_(_POSITIVE)


def mixed(x: Tensor) -> Tensor:
    """The whole finaliser over int32 numbers, in a new tensor."""
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * signed(FIRST)
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * signed(SECOND)
    return x ^ ((x >> 16) & 0xFFFF)


def mixed_number(x: int) -> int:
    """The whole finaliser over one number in [0, 2^32)."""
    x = (x ^ (x >> 16)) * FIRST & _WORD
    x = (x ^ (x >> 15)) * SECOND & _WORD
    return x ^ (x >> 16)


@dataclass(frozen=True)
class Draw:
    """The mask of one step: what `kept` needs beside the indices.

    `step` may be an integer tensor of one element, so that a replayed CUDA graph moves on by itself.
    """

    seed: int
    step: int | Tensor
    rate: float

    def keys(self, high: int = 0) -> tuple[Key, Key]:
        """Both keys, int32, tensors if the step is one; `high` holds the bits of indices above the 32nd."""
        if not isinstance(self.step, Tensor):
            return _keys(self.seed, self.step, high)
        count = (self.step.long() * GOLDEN).to(torch.int32)
        one, other = _bases(self.seed, high)
        return mixed(count + signed(one)), mixed(count + signed(other))

    @property
    def bound(self) -> int:
        """The smallest number in [1, 2^31) that is not kept."""
        return min(max(round(self.rate * (1 << 31)), 1), (1 << 31) - 1)

    def kept(self, indices: Tensor, high: int = 0) -> Tensor:
        """Bool of the shape of `indices` (int32 that wrap): true where the gradient is kept."""
        return hashed(indices, *self.keys(high)) < self.bound

    def words_(self, indices: Tensor, scratch: Tensor, high: int = 0) -> Tensor:
        """As `kept`, in place of `indices`: -1 where kept and 0 elsewhere; `scratch` is int32 of their shape."""
        return hash_(indices, scratch, *self.keys(high)).sub_(self.bound).bitwise_right_shift_(31)


@lru_cache(maxsize=64)
def _keys(seed: int, step: int, high: int) -> tuple[int, int]:
    one, other = (mixed_number((base + step * GOLDEN) & _WORD) for base in _bases(seed, high))
    return signed(one), signed(other)


@lru_cache(maxsize=64)
def _bases(seed: int, high: int) -> tuple[int, int]:
    """What the keys of all steps are made of."""
    low_word, high_word = seed & _WORD, (seed >> 32) & _WORD
    base = mixed_number(mixed_number(mixed_number(low_word) ^ high_word) ^ (high & _WORD))
    return base, mixed_number(base ^ GOLDEN)
