"""Rules of operators that move entries about, make tensors, or treat every entry by itself."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from secateur.graph.rules.base import Dims, Terms, axes_of, axis_of, broadcast, dims_of, rule
from secateur.graph.terms import Dim, atom, cat, const, is_const, norm, size
from secateur.graph.trace import Call


@rule(
    "pointwise hardswish hardsigmoid hardtanh silu mish elu celu softplus leaky_relu rrelu_with_noise masked_fill "
    "where clamp bernoulli fill zero normal uniform _prelu_kernel nan_to_num addcmul addcdiv lerp copy relu6 "
    "threshold glu_jvp exponential dropout bitwise_not polar complex"
)
def pointwise(terms: Terms, call: Call) -> Sequence[Dims]:
    """Every entry of the result from the entries at its place."""
    dims = broadcast(terms, [dims_of(v) for v in call.tensors()], call.outs[0].shape)
    return [dims] * len(call.outs)


@rule("clone _to_copy detach alias lift contiguous positive native_dropout to _conj")
def identity(terms: Terms, call: Call) -> Sequence[Dims]:
    """The same entries at the same places."""
    return [dims_of(call.tensors()[0])] * len(call.outs)


@rule("view_as_real", "view_as_real_copy")
def view_as_real(terms: Terms, call: Call) -> Sequence[Dims]:
    return [[*dims_of(call["self"]), const(2)]]


@rule("view_as_complex", "view_as_complex_copy")
def view_as_complex(terms: Terms, call: Call) -> Sequence[Dims]:
    *dims, pair = dims_of(call["self"])
    terms.freeze(pair, "it holds the real and the imaginary part")
    return [dims]


@rule("t", "numpy_T")
def t(terms: Terms, call: Call) -> Sequence[Dims]:
    return [dims_of(call["self"])[::-1]]


@rule("transpose", "swapaxes")
def transpose(terms: Terms, call: Call) -> Sequence[Dims]:
    x = call["self"]
    dims = list(dims_of(x))
    a, b = axis_of(x, call["dim0"]), axis_of(x, call["dim1"])
    dims[a], dims[b] = dims[b], dims[a]
    return [dims]


@rule("permute")
def permute(terms: Terms, call: Call) -> Sequence[Dims]:
    return [[dims_of(call["self"])[axis_of(call["self"], d)] for d in call["dims"]]]


@rule("squeeze")
def squeeze(terms: Terms, call: Call) -> Sequence[Dims]:
    x = call["self"]
    chosen = axes_of(x, call.args.get("dim"))
    return [[d for i, d in enumerate(dims_of(x)) if not (i in chosen and x.shape[i] == 1)]]


@rule("unsqueeze")
def unsqueeze(terms: Terms, call: Call) -> Sequence[Dims]:
    dims = list(dims_of(call["self"]))
    dims.insert(call["dim"] % (len(dims) + 1), ())
    return [dims]


@rule("expand")
def expand(terms: Terms, call: Call) -> Sequence[Dims]:
    out = call.outs[0].shape
    dims = [()] * (len(out) - len(call["self"].shape)) + list(dims_of(call["self"]))
    grown = [atom(n) if n != 1 and size(d) == 1 else d for n, d in zip(out, dims, strict=True)]
    call.resize["size"] = grown
    return [grown]


@rule("view _unsafe_view reshape _reshape_alias _reshape_copy view_copy")
def view(terms: Terms, call: Call) -> Sequence[Dims]:
    """Row-major regrouping: minimal runs of equal products keep their factors."""
    x = call["self"]
    if "size" not in call.args:  # view.dtype
        return [dims_of(x)] if x.shape == call.outs[0].shape else []
    dims = regroup(terms, dims_of(x), call.outs[0].shape)
    call.resize["size"] = dims
    return [dims]


def regroup(terms: Terms, dims: Dims, shape: Sequence[int]) -> Dims:
    """The dimensions of a row-major tensor seen in another shape of the same number of entries."""
    out: Dims = []
    if prod(shape) == 0:
        return [const(n) for n in shape]
    i = j = 0
    old = [size(d) for d in dims]
    while j < len(shape):
        if shape[j] == 1 and (i >= len(old) or old[i] != 1):
            out.append(())
            j += 1
            continue
        if i < len(old) and old[i] == 1 and shape[j] != 1:
            i += 1
            continue
        first_in, first_out, a, b = i, j, old[i], shape[j]
        i, j = i + 1, j + 1
        while a != b:
            if a < b:
                a, i = a * old[i], i + 1
            else:
                b, j = b * shape[j], j + 1
        joined = tuple(f for d in dims[first_in:i] for f in d)
        if j - first_out == 1:
            out.append(joined)
        elif is_const(norm(joined)):
            out.extend(const(n) for n in shape[first_out:j])
        else:
            parts = [atom(n) for n in shape[first_out:j]]
            terms.unify(joined, tuple(f for p in parts for f in p))
            out.extend(parts)
    return out


@rule("cat", "concat", "_cat")
def concatenate(terms: Terms, call: Call) -> Sequence[Dims]:
    parts = [v for v in call["tensors"] if v.shape != (0,)]
    axis = axis_of(parts[0], call["dim"])
    dims = list(dims_of(parts[0]))
    for other in parts[1:]:
        for i, d in enumerate(dims_of(other)):
            if i != axis:
                terms.unify(dims[i], d)
    dims[axis] = cat([dims_of(v)[axis] for v in parts])
    return [dims]


@rule("stack")
def stack(terms: Terms, call: Call) -> Sequence[Dims]:
    parts = call["tensors"]
    dims = list(broadcast(terms, [dims_of(v) for v in parts], parts[0].shape))
    dims.insert(call["dim"] % (len(dims) + 1), const(len(parts)))
    return [dims]


@rule("slice")
def slice_(terms: Terms, call: Call) -> Sequence[Dims]:
    x = call["self"]
    axis, n, step = axis_of(x, call["dim"]), x.shape[axis_of(x, call["dim"])], call["step"]
    start, end = (_clamp(v, n, default) for v, default in ((call["start"], 0), (call["end"], n)))
    dims = list(dims_of(x))
    if step != 1:
        dims[axis] = _strided(terms, dims[axis], n, start, end, step)
        call.resize["end"] = norm(dims_of(x)[axis]) if end == n else const(end)
        return [dims]
    left, rest = terms.cut(dims[axis], start)
    middle, _ = terms.cut(rest, max(0, end - start))
    dims[axis] = middle
    call.resize["start"], call.resize["end"] = left, cat([left, middle])
    return [dims]


def _clamp(index: int | None, n: int, default: int) -> int:
    if index is None:
        return default
    return min(n, max(0, index + n if index < 0 else index))


def _strided(terms: Terms, dim: Dim, n: int, start: int, end: int, step: int) -> Dim:
    """Every `step`-th entry (interleaved rotary embeddings): the dimension becomes `(n / step, step)`."""
    if n % step or start >= step or end != n or is_const(norm(dim)):
        terms.freeze(dim, "it is read with a stride")
        return const(-(-(end - start) // step))
    rows = atom(n // step)
    terms.unify(dim, (*rows, step))
    return rows


@rule("split split_with_sizes split_copy split_with_sizes_copy unsafe_split")
def split(terms: Terms, call: Call) -> Sequence[Dims]:
    x = call["self"]
    axis = axis_of(x, call["dim"])
    rest, parts, results = dims_of(x)[axis], [], []
    for out in call.outs:
        part, rest = terms.cut(rest, out.shape[axis])
        parts.append(part)
        results.append([*dims_of(x)[:axis], part, *dims_of(x)[axis + 1 :]])
    if "split_size" in call.args:  # one size for all, often computed from the width at run time (chunk)
        for part in parts[1:]:
            short = size(parts[0]) - size(part)
            if short < len(parts):  # chunk rounds up: the last one may be shorter by less than the number of parts
                terms.same_size(parts[0], cat([part, const(short)]) if short else part)
    call.resize["split_sizes"] = parts
    return results


@rule("glu")
def glu(terms: Terms, call: Call) -> Sequence[Dims]:
    x = call["self"]
    axis = axis_of(x, call["dim"])
    dims = list(dims_of(x))
    values, gates = terms.cut(dims[axis], x.shape[axis] // 2)
    terms.unify(values, gates)
    dims[axis] = values
    return [dims]


@rule("unbind")
def unbind(terms: Terms, call: Call) -> Sequence[Dims]:
    x = call["self"]
    axis = axis_of(x, call["dim"])
    terms.freeze(dims_of(x)[axis], "its entries are taken apart one by one")
    return [[d for i, d in enumerate(dims_of(x)) if i != axis]] * len(call.outs)


@rule("select")
def select(terms: Terms, call: Call) -> Sequence[Dims]:
    x = call["self"]
    axis = axis_of(x, call["dim"])
    if id(call.outs[0]) not in terms.unused or call["index"] not in (0, -1):  # the ends are always there
        terms.freeze(dims_of(x)[axis], "one of its entries is picked by position")
    return [[d for i, d in enumerate(dims_of(x)) if i != axis]]


@rule("constant_pad_nd")
def pad(terms: Terms, call: Call) -> Sequence[Dims]:
    dims = list(dims_of(call["self"]))
    for i in range(0, len(call["pad"]), 2):
        axis = len(dims) - 1 - i // 2
        before, after = call["pad"][i], call["pad"][i + 1]
        if before < 0 or after < 0:
            terms.freeze(dims[axis], "it is cropped by position")
        if before < 0:
            _, dims[axis] = terms.cut(dims[axis], -before)
        if after < 0:
            dims[axis], _ = terms.cut(dims[axis], size(dims[axis]) + after)
        if before > 0 or after > 0:
            dims[axis] = cat([const(max(0, before)), dims[axis], const(max(0, after))])
    return [[norm(d) for d in dims]]


@rule("repeat")
def repeat(terms: Terms, call: Call) -> Sequence[Dims]:
    repeats = call["repeats"]
    dims = [()] * (len(repeats) - len(call["self"].shape)) + list(dims_of(call["self"]))
    times = [atom(r) if r != 1 and size(d) == 1 else const(r) for r, d in zip(repeats, dims, strict=True)]
    call.resize["repeats"] = times
    return [[(*r, *d) if size(r) != 1 else d for r, d in zip(times, dims, strict=True)]]


def _still(terms: Terms, dims: Dims) -> None:
    """Image sizes keep their size: entries are counted out over them."""
    for d in dims:
        terms.freeze(d, "it is an image size")


@rule("pixel_shuffle")
def pixel_shuffle(terms: Terms, call: Call) -> Sequence[Dims]:
    x, r = call["self"], call["upscale_factor"]
    _still(terms, dims_of(x)[-2:])
    channels = atom(call.outs[0].shape[-3])
    terms.unify(dims_of(x)[-3], (*channels, r, r))
    return [[*dims_of(x)[:-3], channels, *(const(n) for n in call.outs[0].shape[-2:])]]


@rule("pixel_unshuffle")
def pixel_unshuffle(terms: Terms, call: Call) -> Sequence[Dims]:
    x, r = call["self"], call["downscale_factor"]
    _still(terms, dims_of(x)[-2:])
    return [[*dims_of(x)[:-3], (*dims_of(x)[-3], r, r), *(const(n) for n in call.outs[0].shape[-2:])]]


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(terms: Terms, call: Call) -> Sequence[Dims]:
    x, g = call["self"], call["groups"]
    inner = atom(x.shape[1] // g)
    terms.unify(dims_of(x)[1], (g, *inner))
    return [[dims_of(x)[0], (*inner, g), *dims_of(x)[2:]]]


@rule("im2col")
def im2col(terms: Terms, call: Call) -> Sequence[Dims]:
    x, out = call["self"], call.outs[0].shape
    _still(terms, dims_of(x)[-2:])
    return [[*dims_of(x)[:-3], (*dims_of(x)[-3], prod(call["kernel_size"])), const(out[-1])]]


@rule("col2im")
def col2im(terms: Terms, call: Call) -> Sequence[Dims]:
    x, out = call["self"], call.outs[0].shape
    _still(terms, dims_of(x)[-1:])
    channels = atom(out[-3])
    terms.unify(dims_of(x)[-2], (*channels, prod(call["kernel_size"])))
    return [[*dims_of(x)[:-2], channels, const(out[-2]), const(out[-1])]]


@rule("as_strided")
def as_strided(terms: Terms, call: Call) -> Sequence[Dims]:
    x = call["self"]
    if tuple(call["size"]) == x.shape:
        call.resize["size"] = dims_of(x)
        return [dims_of(x)]
    for d in dims_of(x):
        terms.freeze(d, "its memory is read with free strides")
    return [[const(n) for n in call.outs[0].shape]]


@rule("zeros_like ones_like full_like empty_like rand_like randn_like randint_like")
def like(terms: Terms, call: Call) -> Sequence[Dims]:
    return [dims_of(call["self"])]


@rule("arange linspace eye scalar_tensor lift_fresh lift_fresh_copy logspace tril_indices triu_indices tensor")
def constant(terms: Terms, call: Call) -> Sequence[Dims]:
    return [[const(n) for n in out.shape] for out in call.outs]
