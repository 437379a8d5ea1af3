"""A random bit for every (seed, step, index), by a hash and without a generator.

    u(seed, t, i) = h(h(i xor key(seed)) + t K) mod 2^31,    K = 2^32 / golden ratio, h = 32-bit finaliser

Index `i` is kept at step `t` if `u < rate 2^31`. Nothing is drawn, so there is no state to save, every rank and every
device finds the same bits, and other random draws are not shifted. Two rounds are needed: one round of `i + t K` would
make the mask of a step a shifted copy of another's. The finaliser is a xor-multiply chain with constants of low bias
(C. Wellons, "Prospecting for hash functions", 2018).

Numbers are int32 that wrap, which every device and every compiler has. With 31 bits, `u - bound` does not overflow, and
its sign, spread over a word, is the mask: all ones or all zeros, ready to be combined with the bits of a gradient. That
is many times faster than to compare and to choose, and as safe for numbers that are not finite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

FIRST, SECOND = 0x7FEB352D, 0x846CA68B
GOLDEN = 0x9E3779B9
_WORD = 0xFFFFFFFF
_POSITIVE = 0x7FFFFFFF


def signed(number: int) -> int:
    """The low 32 bits of `number` as an int32."""
    number &= _WORD
    return number - (1 << 32) if number >> 31 else number


def mixed(x: Tensor) -> Tensor:
    """The hash h of int32 numbers, in a new tensor; shifts are logical."""
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * signed(FIRST)
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * signed(SECOND)
    return x ^ ((x >> 16) & 0xFFFF)


def mix_(x: Tensor, scratch: Tensor) -> Tensor:
    """As `mixed`, in place; `scratch` is another int32 tensor of the same shape."""
    for shift, factor in ((16, FIRST), (15, SECOND), (16, None)):
        torch.bitwise_right_shift(x, shift, out=scratch)
        x.bitwise_xor_(scratch.bitwise_and_(_WORD >> shift))
        if factor is not None:
            x.mul_(signed(factor))
    return x


def mixed_number(x: int) -> int:
    """The hash h of one number in [0, 2^32)."""
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

    def key(self, high: int = 0) -> int:
        """The int32 that indices are combined with; `high` holds the bits of the index above the 32nd."""
        low_word, high_word = self.seed & _WORD, (self.seed >> 32) & _WORD
        return signed(mixed_number(mixed_number(mixed_number(low_word) ^ high_word) ^ (high & _WORD)))

    @property
    def shift(self) -> int | Tensor:
        """What the step adds to a hashed index: t K, int32."""
        if isinstance(self.step, Tensor):
            return (self.step.long() * GOLDEN).to(torch.int32)
        return signed(self.step * GOLDEN)

    @property
    def bound(self) -> int:
        """The smallest number in [1, 2^31) that is not kept."""
        return min(max(round(self.rate * (1 << 31)), 1), (1 << 31) - 1)

    def kept(self, indices: Tensor, high: int = 0) -> Tensor:
        """Bool of the shape of `indices` (int32 that wrap): true where the gradient is kept."""
        return (mixed(mixed(indices ^ self.key(high)) + self.shift) & _POSITIVE) < self.bound

    def words_(self, indices: Tensor, scratch: Tensor, high: int = 0) -> Tensor:
        """As `kept`, in place of `indices`: -1 where kept and 0 elsewhere; `scratch` is int32 of their shape."""
        mix_(indices.bitwise_xor_(self.key(high)), scratch)
        mix_(indices.add_(self.shift), scratch)
        return indices.bitwise_and_(_POSITIVE).sub_(self.bound).bitwise_right_shift_(31)

    def fill_(self, words: Tensor, start: int, high: int = 0) -> Tensor:
        """As `words_` of the indices from `start` on, into `words`, by a compiled kernel."""
        numbers = [signed(start), self.key(high), signed(int(self.shift)), self.bound]
        _compiled_fill()(words, torch.tensor(numbers, dtype=torch.int32, device=words.device))
        return words


def _fill(words: Tensor, numbers: Tensor) -> None:
    start, key, shift, bound = numbers.unbind()
    indices = torch.arange(words.numel(), dtype=torch.int32, device=words.device) + start
    words.copy_(((mixed(mixed(indices ^ key) + shift) & _POSITIVE) - bound) >> 31)


@cache
def _compiled_fill() -> Callable[[Tensor, Tensor], None]:
    return torch.compile(_fill, fullgraph=True, dynamic=False)
