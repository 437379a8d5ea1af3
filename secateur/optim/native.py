"""Kernels for the CPU, in C++: sampling, and sampling with Adam's update, over many tensors at once.

They are what `hashing`, `gradients` and `kernel` say, in one pass through memory and one call for a whole list of
parameters. Compiling them takes a second, once for a machine: torch does it, with the flags and the cache of
`torch.compile`.

A tensor is given as the order of its memory: `rows` x `places` x `columns` entries, of which the one at (r, s, c) has
the index `start + r outer + s + c inner`. Row-major tensors are one row of one place; channels-last kernels have as
many places as pixels.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.hashing import FIRST, SECOND, Draw
from secateur.optim.places import grid

SOURCE = """
#include <algorithm>
#include <cmath>
#include <cstdint>

constexpr int64_t BLOCK = 1 << 14;

struct Keys { uint32_t first, second, bound; };

static inline bool kept(uint32_t index, const Keys& k) {
    uint32_t x = index ^ k.first;
    x = (x ^ (x >> 16)) * FIRSTu + k.second;
    x = (x ^ (x >> 15)) * SECONDu;
    return (x & 0x7FFFFFFFu) < k.bound;
}

template <class T> struct Adam { T *p; const T *g; T *m, *v, *largest; const T* c; };

template <class T, bool AMSGRAD, bool LINE>
static void update(const Adam<T>& a, int64_t from, int64_t to, uint32_t index, uint32_t inner, const Keys k) {
    T* __restrict__ p = a.p; const T* __restrict__ g = a.g;
    T* __restrict__ m = a.m; T* __restrict__ v = a.v; T* __restrict__ largest = a.largest;
    const T sign = a.c[0], coupled = a.c[1], shrink = a.c[2], new_m = a.c[3], old_v = a.c[4];
    const T new_v = a.c[5], size = a.c[6], root = a.c[7], eps = a.c[8];
    const int64_t n = to - from;
    p += from; g += from; m += from; v += from; largest += AMSGRAD ? from : 0;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t at = index + (LINE ? uint32_t(i) : uint32_t(i) * inner);
        const T before = p[i];
        const T phi = (kept(at, k) ? g[i] : T(0)) * sign + before * coupled;
        const T first = m[i] + (phi - m[i]) * new_m;
        T second = v[i] * old_v + phi * phi * new_v;
        m[i] = first;
        v[i] = second;
        if (AMSGRAD) largest[i] = second = std::max(largest[i], second);
        p[i] = before * shrink - first * size / (std::sqrt(second) * root + eps);
    }
}

template <class T, bool LINE>
static void sample(const T* __restrict__ g, T* __restrict__ out, int64_t n, uint32_t index, uint32_t inner, Keys k) {
    for (int64_t i = 0; i < n; i++)
        out[i] = kept(index + (LINE ? uint32_t(i) : uint32_t(i) * inner), k) ? g[i] : T(0);
}

// Calls f(from, to, index, line) for every stretch of the memory of one tensor, on all threads if it is long.
template <class F> static void walk(const int64_t* t, int threads, F f) {
    const int64_t rows = t[0], places = t[1], columns = t[2];
    const uint32_t start = uint32_t(t[3]), outer = uint32_t(t[4]);
    if (rows == 1 && places == 1) {
        const int64_t blocks = (columns + BLOCK - 1) / BLOCK;
        #pragma omp parallel for num_threads(threads) if (threads > 1 && blocks > 3)
        for (int64_t b = 0; b < blocks; b++)
            f(b * BLOCK, std::min(columns, (b + 1) * BLOCK), start + uint32_t(b * BLOCK), true);
        return;
    }
    #pragma omp parallel for num_threads(threads) if (threads > 1 && rows * places * columns > 3 * BLOCK)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t s = 0; s < places; s++) {
            const int64_t from = (r * places + s) * columns;
            f(from, from + columns, start + uint32_t(r) * outer + uint32_t(s), false);
        }
}

template <class T> static void update_all(const int64_t* table, int64_t count, int threads) {
    for (int64_t n = 0; n < count; n++) {
        const int64_t* t = table + WIDTH * n;
        const Keys k{uint32_t(t[6]), uint32_t(t[7]), uint32_t(t[8])};
        const Adam<T> a{(T*)t[9], (const T*)t[10], (T*)t[11], (T*)t[12], (T*)t[13], (const T*)t[14]};
        const uint32_t inner = uint32_t(t[5]);
        walk(t, threads, [&](int64_t from, int64_t to, uint32_t index, bool line) {
            if (a.largest) line ? update<T, true, true>(a, from, to, index, 1, k)
                                : update<T, true, false>(a, from, to, index, inner, k);
            else line ? update<T, false, true>(a, from, to, index, 1, k)
                      : update<T, false, false>(a, from, to, index, inner, k);
        });
    }
}

template <class T> static void sample_all(const int64_t* table, int64_t count, int threads) {
    for (int64_t n = 0; n < count; n++) {
        const int64_t* t = table + WIDTH * n;
        const Keys k{uint32_t(t[6]), uint32_t(t[7]), uint32_t(t[8])};
        const T* g = (const T*)t[9]; T* out = (T*)t[10];
        const uint32_t inner = uint32_t(t[5]);
        walk(t, threads, [&](int64_t from, int64_t to, uint32_t index, bool line) {
            line ? sample<T, true>(g + from, out + from, to - from, index, 1, k)
                 : sample<T, false>(g + from, out + from, to - from, index, inner, k);
        });
    }
}

extern "C" void update_4(const int64_t* t, int64_t n, int threads) { update_all<float>(t, n, threads); }
extern "C" void update_8(const int64_t* t, int64_t n, int threads) { update_all<double>(t, n, threads); }
extern "C" void sample_2(const int64_t* t, int64_t n, int threads) { sample_all<uint16_t>(t, n, threads); }
extern "C" void sample_4(const int64_t* t, int64_t n, int threads) { sample_all<uint32_t>(t, n, threads); }
extern "C" void sample_8(const int64_t* t, int64_t n, int threads) { sample_all<uint64_t>(t, n, threads); }
"""
FLAGS = ("-ftree-loop-vectorize", "-fno-math-errno")  # torch leaves both to code that is written with vectors
WIDTH = 15  # numbers a tensor has in the table


class Table:
    """The tensors of one call, as the kernels read them."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self._numbers = array("q")

    def add(self, like: Tensor, start: int, high: int, pointers: Sequence[int]) -> None:
        """Add tensors that are laid out as `like`, whose first entry has the index `start`."""
        found = grid(like)
        assert found is not None, "only tensors that have a grid are added"
        first, second = self.draw.keys(high)
        keys = (int(first) & 0xFFFFFFFF, int(second) & 0xFFFFFFFF, self.draw.bound)
        row = (*found.shape, start & 0xFFFFFFFF, found.outer, found.inner, *keys, *pointers)
        self._numbers.extend(row)
        self._numbers.extend((0,) * (WIDTH - len(row)))

    def run(self, name: str, itemsize: int) -> None:
        """Call the kernel `name` for all that was added."""
        address, length = self._numbers.buffer_info()
        if length:
            threads = ctypes.c_int(torch.get_num_threads())
            kernel = getattr(_library(), f"{name}_{itemsize}")
            kernel(ctypes.c_void_p(address), ctypes.c_int64(length // WIDTH), threads)


@cache
def _library() -> Any:
    """The compiled kernels. Raises `InputError` where there is no compiler."""
    from torch._inductor.codecache import CppCodeCache

    names = {"FIRST": FIRST, "SECOND": SECOND, "WIDTH": WIDTH}
    source = SOURCE
    for name, value in names.items():
        source = source.replace(name, str(value))
    try:
        return CppCodeCache.load(source, extra_flags=FLAGS)
    except Exception as error:
        raise InputError(
            f"The 'compiled' forms of StochGradAdam need a C++ compiler that torch.compile can use. It said: {error}. "
            "Leave 'compiled' out, or name a compiler in the environment variable CXX."
        ) from error
