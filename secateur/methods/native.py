"""Kernels of gates for the CPU, in C++: a sample, the gradients of a gated weight, and Adam, in one pass each.

They compute what the eager forms in `secateur.methods.sampling` do: the same samples, and slopes to rounding. Compiling
them takes seconds, once for a machine: torch does it, with the flags and the cache of `torch.compile`. Where there is
no compiler the eager forms stay.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from ctypes import c_double, c_float, c_int, c_int64, c_uint32, c_void_p
from functools import cache
from typing import Any

import torch
from torch import Tensor

from secateur.hashing import FIRST, SECOND
from secateur.methods.noise import EXPONENT, LN2, SERIES

SOURCE = """
#include <ATen/cpu/vec/vec.h>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>

using V = at::vec::Vectorized<float>;
constexpr int64_t BLOCK = 1 << 13, CHUNK = 256;

static double total(V sum) {
    float parts[V::size()];
    sum.store(parts);
    return std::accumulate(parts, parts + V::size(), 0.0);
}

static int32_t bits(float x) {
    int32_t found;
    std::memcpy(&found, &x, sizeof x);
    return found;
}

static float real(int32_t x) {
    float found;
    std::memcpy(&found, &x, sizeof x);
    return found;
}

static void noise(float* l, uint32_t at, uint32_t first, uint32_t second) {
    for (uint32_t i = 0; i < CHUNK; i++) {
        uint32_t x = (at + i) ^ first;
        x = (x ^ (x >> 16)) * FIRSTu + second;
        x = (x ^ (x >> 15)) * (2 * SECONDu);  // a hash has 31 bits
        const float a = float(int32_t((x >> 8) | 1)), b = 0x1p24f - a;
        const int32_t e = (bits(a) - bits(b) + (1 << 22)) & EXPONENT;
        const float c = real(bits(b) + e), s = (a - c) / (a + c), t = s * s;
        l[i] = float(e) * LN2f + s * (SERIES);
    }
}

static int64_t draw(const float* d, const float* w, float* z, float* s, int64_t n, uint32_t at, uint32_t first,
                    uint32_t second, float cold) {
    const V zero(0), one(1), minus(-0.0f);
    float l[CHUNK];
    V open(0);
    for (int64_t from = 0; from < n; from += CHUNK, at += CHUNK) {
        const int64_t here = std::min(CHUNK, n - from);
        noise(l, at, first, second);
        for (int64_t i = 0; i < here; i += V::size()) {
            const int count = int(std::min<int64_t>(V::size(), here - i));
            const V lifted = V::loadu(d + from + i, count) + V::loadu(l + i);
            const V rest = (zero - lifted.abs() * V(cold)).exp_u20(), whole = one + rest;
            const V opened = V::set(zero, lifted > zero, count), slope = rest * V(cold) / (whole * whole);
            (w ? V::loadu(w + from + i, count) & opened : one & opened).store(z + from + i, count);
            V::blendv(slope | minus, slope, opened).store(s + from + i, count);
            open = open + (one & opened);
        }
    }
    return int64_t(total(open));
}

// A row of the table: logits, weight (none: z is the sample), z, slopes, how many, index of the first, their number.
extern "C" void draw_all(const int64_t* table, int64_t rows, uint32_t first, uint32_t second, float cold, int threads) {
    for (const int64_t* t = table; t < table + 7 * rows; t += 7) {
        const float *d = (const float*)t[0], *w = (const float*)t[1];
        float *z = (float*)t[2], *s = (float*)t[3];
        const int64_t n = t[4];
        int64_t open = 0;
        #pragma omp parallel for num_threads(threads) reduction(+:open) if (threads > 1 && n > 3 * BLOCK)
        for (int64_t b = 0; b < n; b += BLOCK)
            open += draw(d + b, w ? w + b : w, z + b, s + b, std::min(BLOCK, n - b), uint32_t(t[5] + b), first, second,
                         cold);
        *(float*)t[6] = float(open);
    }
}

static void gradients(const float* __restrict__ g, const float* __restrict__ w, const float* __restrict__ s,
                      float* __restrict__ gw, float* __restrict__ gd, int64_t n, float price) {
    for (int64_t i = 0; i < n; i++) {
        const int32_t slope = bits(s[i]);
        gw[i] = real(bits(g[i]) & ~(slope >> 31));
        gd[i] = (g[i] * w[i] + price) * real(slope & 0x7FFFFFFF);
    }
}

// A row of the table: gradient of z, weight, slopes, gradients of the weight and of the logits, how many.
extern "C" void gradients_of(const int64_t* table, int64_t rows, const float* prices, int threads) {
    for (int64_t row = 0; row < rows; row++) {
        const int64_t *t = table + 6 * row, n = t[5];
        const float *g = (const float*)t[0], *w = (const float*)t[1], *s = (const float*)t[2];
        float *gw = (float*)t[3], *gd = (float*)t[4];
        #pragma omp parallel for num_threads(threads) if (threads > 1 && n > 3 * BLOCK)
        for (int64_t b = 0; b < n; b += BLOCK)
            gradients(g + b, w + b, s + b, gw + b, gd + b, std::min(BLOCK, n - b), prices ? prices[row] : 0);
    }
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

// A row of the table: logits, gradient, both moments, the number of steps (a float), how many.
// Nothing moves where a gradient is not finite: 0 then.
extern "C" int adam_all(const int64_t* table, int64_t rows, double beta1, double beta2, double lr, double eps,
                        int threads) {
    for (const int64_t* t = table; t < table + 6 * rows; t += 6)
        if (!std::isfinite(total((const float*)t[1], t[5]))) return 0;
    for (const int64_t* t = table; t < table + 6 * rows; t += 6) {
        const int64_t n = t[5];
        const double now = *(float*)t[4] += 1;
        const double along = lr / (1 - std::pow(beta1, now)), across = 1 / std::sqrt(1 - std::pow(beta2, now));
        const float c[6] = {float(1 - beta1), float(beta2), float(1 - beta2), float(along), float(across), float(eps)};
        #pragma omp parallel for num_threads(threads) if (threads > 1 && n > 3 * BLOCK)
        for (int64_t b = 0; b < n; b += BLOCK)
            adam((float*)t[0] + b, (const float*)t[1] + b, (float*)t[2] + b, (float*)t[3] + b, std::min(BLOCK, n - b),
                 c);
    }
    return 1;
}
"""
FLAGS = ("-ftree-loop-vectorize", "-ffp-contract=off")  # torch leaves the first to code that is written with vectors


def draw(
    logits: Sequence[Tensor], weights: Sequence[Tensor] | None, keys: tuple[int, int], cold: float
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """What the gates of each group let through of its weight (of ones without weights), and how they stand.

    That is a slope a gate, below zero, be it -0, where it is closed; and how many are open, shape `[groups]`. Tensors
    are float32 and without gaps, the index of a gate is its place among all, `cold` the inverse of the temperature.
    """
    passed, slopes = [torch.empty_like(x) for x in weights or logits], [torch.empty_like(d) for d in logits]
    counts, table, start = torch.empty(len(slopes)), array("q"), 0
    at = counts.data_ptr()
    for number, (d, z, s) in enumerate(zip(logits, passed, slopes, strict=True)):
        w, size = weights[number].data_ptr() if weights else 0, d.numel()
        table.extend((d.data_ptr(), w, z.data_ptr(), s.data_ptr(), size, start, at + 4 * number))
        start += size
    first, second = (key & 0xFFFFFFFF for key in keys)
    _library().draw_all(table.buffer_info()[0], len(slopes), first, second, cold, torch.get_num_threads())
    return passed, slopes, counts


def gradients(
    gradients: Sequence[Tensor], weights: Sequence[Tensor], slopes: Sequence[Tensor], prices: Tensor | None
) -> tuple[list[Tensor], list[Tensor]]:
    """The gradients of weights and of their logits, g z and (g w + price) |slope|; slopes are those of `draw`."""
    of_weights, of_logits = [torch.empty_like(w) for w in weights], [torch.empty_like(s) for s in slopes]
    table = array("q")
    for tensors in zip(gradients, weights, slopes, of_weights, of_logits, strict=True):
        table.extend([tensor.data_ptr() for tensor in tensors])
        table.append(tensors[2].numel())
    at = prices.data_ptr() if prices is not None else None
    _library().gradients_of(table.buffer_info()[0], len(of_logits), at, torch.get_num_threads())
    return of_weights, of_logits


def adam(rows: Sequence[Sequence[Tensor]], betas: tuple[float, float], lr: float, eps: float) -> bool:
    """Whether gradients were finite, and logits, moments and numbers of steps moved by them.

    A row holds logits, gradient, both moments and the number of steps.
    """
    table = array("q")
    for row in rows:
        table.extend([tensor.data_ptr() for tensor in row])
        table.append(row[0].numel())
    at, threads = table.buffer_info()[0], torch.get_num_threads()
    return bool(_library().adam_all(at, len(rows), *betas, lr, eps, threads))


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

    series = "f + t * (".join(map(repr, SERIES)) + "f" + ")" * (len(SERIES) - 1)
    numbers = {"FIRST": FIRST, "SECOND": SECOND, "EXPONENT": EXPONENT, "LN2": LN2, "SERIES": series}
    source = SOURCE
    for name, number in numbers.items():
        source = source.replace(name, str(number))
    library = CppCodeCache.load(source, extra_flags=FLAGS)
    library.draw_all.argtypes = [c_void_p, c_int64, c_uint32, c_uint32, c_float, c_int]
    library.gradients_of.argtypes = [c_void_p, c_int64, c_void_p, c_int]
    library.adam_all.argtypes = [c_void_p, c_int64, c_double, c_double, c_double, c_double, c_int]
    library.draw_all.restype = library.gradients_of.restype = None
    return library
