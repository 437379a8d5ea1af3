"""Kernels of gates for the CPU, in C++: a sample, the gradients of a gated weight, and Adam, in one pass each.

They compute what the eager forms in `secateur.methods.sampling` do: the same samples, and slopes to rounding. Compiling
them takes seconds, once for a machine: torch does it, with the flags and the cache of `torch.compile`. Where there is
no compiler the eager forms stay.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from secateur.hashing import FIRST, SECOND

SOURCE = """
#include <ATen/cpu/vec/vec.h>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>

using V = at::vec::Vectorized<float>;
constexpr int64_t BLOCK = 1 << 13, CHUNK = 256;

static double total(V sum) {
    float parts[V::size()];
    sum.store(parts);
    return std::accumulate(parts, parts + V::size(), 0.0);
}

static int64_t sample(const float* d, float* z, float* s, int64_t n, uint32_t at, uint32_t first, uint32_t second,
                      float cold) {
    float u[CHUNK];
    V open(0);
    for (int64_t from = 0; from < n; from += CHUNK, at += CHUNK) {
        const int64_t here = std::min(CHUNK, n - from);
        for (uint32_t i = 0; i < CHUNK; i++) {
            uint32_t x = (at + i) ^ first;
            x = (x ^ (x >> 16)) * FIRSTu + second;
            x = ((x ^ (x >> 15)) * SECONDu) & 0x7FFFFFFFu;
            u[i] = float(int32_t(2 * (x >> 8) + 1)) * 0x1p-24f;
        }
        for (int64_t i = 0; i < here; i += V::size()) {
            const int count = int(std::min<int64_t>(V::size(), here - i));
            const V x = V::loadu(u + i), lifted = V::loadu(d + from + i, count) + (x / (V(1) - x)).log();
            const V soft = (V(1) + (V(0) - lifted * V(cold)).exp_u20()).reciprocal();
            const V gate = V::set(V(0), lifted.gt(V(0)), count);
            gate.store(z + from + i, count);
            open = open + gate;
            ((V(1) - soft) * soft * V(cold)).store(s + from + i, count);
        }
    }
    return int64_t(total(open));
}

// A row of the table: logits, sample, slope, how many, index of the first, where their number goes.
extern "C" void sample_all(const int64_t* table, int64_t rows, uint32_t first, uint32_t second, float cold,
                           int threads) {
    for (const int64_t* t = table; t < table + 6 * rows; t += 6) {
        const int64_t n = t[3], blocks = (n + BLOCK - 1) / BLOCK;
        int64_t open = 0;
        #pragma omp parallel for num_threads(threads) reduction(+:open) if (threads > 1 && blocks > 3)
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t from = b * BLOCK;
            open += sample((const float*)t[0] + from, (float*)t[1] + from, (float*)t[2] + from,
                           std::min(BLOCK, n - from), uint32_t(t[4] + from), first, second, cold);
        }
        *(float*)t[5] = float(open);
    }
}

static void gradients(const float* __restrict__ g, const float* __restrict__ w, const float* __restrict__ z,
                      const float* __restrict__ s, float* __restrict__ gw, float* __restrict__ gd, int64_t n,
                      float price) {
    for (int64_t i = 0; i < n; i++) {
        gw[i] = g[i] * z[i];
        gd[i] = (g[i] * w[i] + price) * s[i];
    }
}

extern "C" void gradients_of(const float* g, const float* w, const float* z, const float* s, float* gw, float* gd,
                             int64_t n, float price, int threads) {
    #pragma omp parallel for num_threads(threads) if (threads > 1 && n > 3 * BLOCK)
    for (int64_t b = 0; b < n; b += BLOCK)
        gradients(g + b, w + b, z + b, s + b, gw + b, gd + b, std::min(BLOCK, n - b), price);
}

static double total(const float* g, int64_t n) {
    V sum(0);
    for (int64_t i = 0; i < n; i += V::size()) sum = sum + V::loadu(g + i, int(std::min<int64_t>(V::size(), n - i)));
    return total(sum);
}

// c: 1 - beta1, beta2, 1 - beta2, lr / (1 - beta1^t), (1 - beta2^t)^-1/2, eps
static void adam(float* __restrict__ p, const float* __restrict__ g, float* __restrict__ m, float* __restrict__ v,
                 int64_t n, const float* __restrict__ c) {
    const V c0(c[0]), c1(c[1]), c2(c[2]), c3(c[3]), c4(c[4]), c5(c[5]);
    for (int64_t i = 0; i < n; i += V::size()) {
        const int k = int(std::min<int64_t>(V::size(), n - i));
        const V x = V::loadu(g + i, k), before = V::loadu(m + i, k);
        const V first = before + (x - before) * c0, other = V::loadu(v + i, k) * c1 + x * x * c2;
        first.store(m + i, k);
        other.store(v + i, k);
        (V::loadu(p + i, k) - first * c3 / (other.sqrt() * c4 + c5)).store(p + i, k);
    }
}

// A row of the table: logits, gradient, both moments, how many. Nothing moves where a gradient is not finite: 0 then.
extern "C" int adam_all(const int64_t* table, int64_t rows, const float* c, int threads) {
    for (const int64_t* t = table; t < table + 5 * rows; t += 5)
        if (!std::isfinite(total((const float*)t[1], t[4]))) return 0;
    for (const int64_t* t = table; t < table + 5 * rows; t += 5) {
        const int64_t n = t[4];
        #pragma omp parallel for num_threads(threads) if (threads > 1 && n > 3 * BLOCK)
        for (int64_t b = 0; b < n; b += BLOCK)
            adam((float*)t[0] + b, (const float*)t[1] + b, (float*)t[2] + b, (float*)t[3] + b,
                 std::min(BLOCK, n - b), c);
    }
    return 1;
}
"""
FLAGS = ("-ftree-loop-vectorize", "-ffp-contract=off")  # torch leaves the first to code that is written with vectors


def sample(
    logits: Sequence[Tensor], starts: Sequence[int], keys: tuple[int, int], cold: float
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The samples of several tensors of logits (float32, without gaps), their slopes, and how many gates are open."""
    sizes = [d.numel() for d in logits]
    z, s, counts = (torch.empty(n) for n in (sum(sizes), sum(sizes), len(sizes)))
    table = array("q")
    z_at, s_at, count_at = z.data_ptr(), s.data_ptr(), counts.data_ptr()
    for number, (d, size, start) in enumerate(zip(logits, sizes, starts, strict=True)):
        table.extend((d.data_ptr(), z_at, s_at, size, start, count_at + 4 * number))
        z_at, s_at = z_at + 4 * size, s_at + 4 * size
    first, second = (ctypes.c_uint32(key & 0xFFFFFFFF) for key in keys)
    rows, threads = ctypes.c_int64(len(sizes)), ctypes.c_int(torch.get_num_threads())
    _library().sample_all(ctypes.c_void_p(table.buffer_info()[0]), rows, first, second, ctypes.c_float(cold), threads)
    return list(z.split(sizes)), list(s.split(sizes)), list(counts.unbind())


def gradients(gradient: Tensor, weight: Tensor, z: Tensor, slope: Tensor, price: float) -> tuple[Tensor, Tensor]:
    """The gradients of a weight and of its logits: g z and (g w + price) slope."""
    of_weight, of_logits = torch.empty_like(weight), torch.empty_like(slope)
    tensors = (gradient, weight, z, slope, of_weight, of_logits)
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    threads = ctypes.c_int(torch.get_num_threads())
    _library().gradients_of(*pointers, ctypes.c_int64(z.numel()), ctypes.c_float(price), threads)
    return of_weight, of_logits


def adam(
    logits: Sequence[Tensor],
    gradients: Sequence[Tensor],
    moments: Sequence[tuple[Tensor, Tensor]],
    numbers: Sequence[float],
) -> bool:
    """Whether gradients were finite, and logits and both moments moved by them.

    `numbers` are 1 - beta1, beta2, 1 - beta2, lr / (1 - beta1^t), (1 - beta2^t)^-1/2 and eps.
    """
    table = array("q")
    for d, g, (first, second) in zip(logits, gradients, moments, strict=True):
        table.extend((d.data_ptr(), g.data_ptr(), first.data_ptr(), second.data_ptr(), d.numel()))
    constants = (ctypes.c_float * 6)(*numbers)
    rows, threads = ctypes.c_int64(len(logits)), ctypes.c_int(torch.get_num_threads())
    return bool(_library().adam_all(ctypes.c_void_p(table.buffer_info()[0]), rows, constants, threads))


@cache
def there() -> bool:
    """Whether the kernels can be had: they are compiled when this is first asked."""
    try:
        return _library() is not None
    except Exception:  # a missing compiler shows in many ways, and the eager forms do the same
        return False


@cache
def _library() -> Any:
    from torch._inductor.codecache import CppCodeCache

    source = SOURCE.replace("FIRST", str(FIRST)).replace("SECOND", str(SECOND))
    return CppCodeCache.load(source, extra_flags=FLAGS)
