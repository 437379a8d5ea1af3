"""Rules of operators that multiply, normalise, reduce and pool."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.graph.rules.base import RULES, Dims, Rule, Terms, axes_of, axis_of, broadcast, dims_of, rule
from secateur.graph.terms import Dim, atom, const, size
from secateur.graph.trace import Call, Value


def _product(terms: Terms, a: Value, b: Value, left: Dim, right: Dim) -> None:
    """Sum over `left` of `a` against `right` of `b`."""
    terms.contract(a, left)
    terms.contract(b, right)
    terms.unify(left, right)


@rule("mm bmm mv dot vdot")
def matmul(terms: Terms, call: Call) -> Sequence[Dims]:
    a = call["self"]
    b = next(v for name, v in call.args.items() if name != "self" and isinstance(v, Value))
    return [_matmul(terms, a, b)]


def _matmul(terms: Terms, a: Value, b: Value) -> Dims:
    left, right = dims_of(a), dims_of(b)
    inner = right[-2] if len(right) > 1 else right[0]
    _product(terms, a, b, left[-1], inner)
    batch = left[:-2]
    for x, y in zip(batch, right[:-2], strict=True) if len(right) > 2 else ():
        terms.unify(x, y)
    rows = [left[-2]] if len(left) > 1 else []
    return [*batch, *rows, *([right[-1]] if len(right) > 1 else [])]


@rule("addmm baddbmm addmv addbmm")
def addmm(terms: Terms, call: Call) -> Sequence[Dims]:
    first, second = (v for name, v in call.args.items() if name != "self" and isinstance(v, Value))
    out = _matmul(terms, first, second)
    broadcast(terms, [out, dims_of(call["self"])], call.outs[0].shape)
    return [out]


@rule("_grouped_mm", "transformers::grouped_mm_fallback")
def grouped_mm(terms: Terms, call: Call) -> Sequence[Dims]:
    """Rows sorted by expert, every run of them times the matrix of its own expert."""
    a, b, *other = call.tensors()
    if (len(a.shape), len(b.shape)) != (2, 3):
        return []
    for d in (dims_of(b)[0], *(d for v in other for d in dims_of(v))):
        terms.freeze(d, "its entries are chosen by the data")
    for d in dims_of(b)[1:]:
        terms.multiple_of(d, 8)  # rows of 16 bytes, whatever the precision
    _product(terms, a, b, dims_of(a)[1], dims_of(b)[1])
    return [[dims_of(a)[0], dims_of(b)[2]]]


@rule("linear")
def linear(terms: Terms, call: Call) -> Sequence[Dims]:
    x, w = call["input"], call["weight"]
    _product(terms, x, w, dims_of(x)[-1], dims_of(w)[-1])
    if call["bias"] is not None:
        terms.unify(dims_of(w)[0], dims_of(call["bias"])[0])
    return [[*dims_of(x)[:-1], *dims_of(w)[:-1]]]


@rule("_trilinear")
def trilinear(terms: Terms, call: Call) -> Sequence[Dims]:
    """Three tensors multiplied, each with sizes of one put in where it has no part, and summed over some dimensions."""
    rank, given = len(call["i1"].shape) + len(call["expand1"]), []
    for name in "123":
        own = iter(dims_of(call[f"i{name}"]))
        given.append([() if axis in call[f"expand{name}"] else next(own) for axis in range(rank)])
    shape = [max(size(dims[axis]) for dims in given) for axis in range(rank)]
    for axis in call["sumdim"]:
        for value, dims in zip(call.tensors(), given, strict=True):
            terms.contract(value, dims[axis])
    return [[d for axis, d in enumerate(broadcast(terms, given, shape)) if axis not in call["sumdim"]]]


@rule("convolution _convolution convolution_overrideable mkldnn_convolution cudnn_convolution")
def convolution(terms: Terms, call: Call) -> Sequence[Dims]:
    x, w, bias, groups = call["input"], call["weight"], call["bias"], call["groups"]
    channels, (first, second, *kernel) = dims_of(x)[1], dims_of(w)
    places: Dims = [const(n) for n in call.outs[0].shape[2:]]
    for axis, (d, k) in enumerate(zip(dims_of(x)[2:], kernel, strict=True)):
        if _passes(call, axis):
            places[axis] = d
        else:
            terms.freeze(d, "it is a kernel or an image size")
        terms.freeze(k, "it is a kernel or an image size")
    group = atom(groups)
    terms.contract(w, first if call["transposed"] else second)
    if call["transposed"]:
        terms.unify(first, channels)
        terms.unify(first, (*group, *atom(w.shape[0] // groups)))
        out: Dim = (*group, *second)
    else:
        terms.unify(channels, (*group, *second))
        terms.unify(first, (*group, *atom(w.shape[0] // groups)))
        out = first
    if bias is not None:
        terms.unify(out, dims_of(bias)[0])
    call.resize["groups"] = group
    return [[dims_of(x)[0], out, *places]]


def _passes(call: Call, axis: int) -> bool:
    """Whether a convolution leaves the places along an axis as they are: each result reads its own place alone."""

    def along(name: str) -> int:
        return int(call[name][axis if len(call[name]) > 1 else 0])

    still = along("stride") == 1 and along("padding") == 0 and along("output_padding") == 0
    return still and call["weight"].shape[2 + axis] == 1


@rule(
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
    "_native_batch_norm_legit_functional cudnn_batch_norm _batch_norm_with_update _batch_norm_no_update "
    "batch_norm miopen_batch_norm"
)
def batch_norm(terms: Terms, call: Call) -> Sequence[Dims]:
    x = call.tensors()[0]
    channels = dims_of(x)[1]
    for other in call.tensors()[1:]:
        if len(other.shape) == 1:
            terms.unify(channels, dims_of(other)[0])
    if call.args.get("training", call.args.get("train", False)):
        for i, d in enumerate(dims_of(x)):
            if i != 1:
                terms.flag(d, "statistics")
    return [
        dims_of(x) if i == 0 else [channels if n == x.shape[1] else const(n) for n in out.shape]
        for i, out in enumerate(call.outs)
    ]


@rule("native_layer_norm _fused_rms_norm rms_norm layer_norm")
def layer_norm(terms: Terms, call: Call) -> Sequence[Dims]:
    x = call["input"]
    k = len(call["normalized_shape"])
    outer, inner = dims_of(x)[:-k], dims_of(x)[-k:]
    for d in inner:
        terms.flag(d, "statistics")
    for name in ("weight", "bias"):
        if call.args.get(name) is not None:
            for d, own in zip(inner, dims_of(call[name]), strict=True):
                terms.unify(d, own)
    call.resize["normalized_shape"] = list(inner)
    return [dims_of(x) if i == 0 else outer + [()] * (len(out.shape) - len(outer)) for i, out in enumerate(call.outs)]


@rule("_weight_norm_interface")
def weight_norm(terms: Terms, call: Call) -> Sequence[Dims]:
    """A tensor over its norm along all dimensions but one, times a factor for each entry of that one.

    Slices of zeros would be divided by zero, so what they are is taken over kept entries like the norm itself.
    """
    v, g = call["v"], call["g"]
    axis = axis_of(v, call["dim"])
    for d in dims_of(v):
        terms.flag(d, "statistics")
    terms.unify(dims_of(v)[axis], dims_of(g)[axis])
    return [dims_of(v), dims_of(g)]


@rule("native_group_norm")
def group_norm(terms: Terms, call: Call) -> Sequence[Dims]:
    x, groups = call["input"], call["group"]
    group, inner = atom(groups), atom(x.shape[1] // groups)
    terms.unify(dims_of(x)[1], (*group, *inner))
    for name in ("weight", "bias"):
        if call[name] is not None:
            terms.unify(dims_of(x)[1], dims_of(call[name])[0])
    for d in (inner, *dims_of(x)[2:]):
        terms.flag(d, "statistics")
    call.resize["N"], call.resize["C"], call.resize["group"] = dims_of(x)[0], dims_of(x)[1], group
    call.resize["HxW"] = tuple(f for d in dims_of(x)[2:] for f in d)
    return [dims_of(x), [dims_of(x)[0], group], [dims_of(x)[0], group]]


@rule("_softmax _log_softmax _safe_softmax softmax log_softmax")
def softmax(terms: Terms, call: Call) -> Sequence[Dims]:
    x = call["self"]
    terms.flag(dims_of(x)[axis_of(x, call["dim"])], "statistics")
    return [dims_of(x)]


@rule(
    "mean sum amax amin var std norm linalg_vector_norm any all logsumexp prod var_mean std_mean aminmax nansum "
    "count_nonzero max min"
)
def reduction(terms: Terms, call: Call) -> Sequence[Dims]:
    """Dimensions summed away: whatever is not a sum depends on how many entries there are."""
    x = call["self"]
    if call.op in ("max", "min") and "other" in call.args:
        return RULES["pointwise"](terms, call)
    axes = axes_of(x, call.args.get("dim"))
    for axis in axes:
        terms.flag(dims_of(x)[axis], "sum" if call.op in ("sum", "any", "nansum", "count_nonzero") else "statistics")
        if len(call.outs) > 1 and call.op in ("max", "min"):
            terms.freeze(dims_of(x)[axis], "the position of an entry in it is the result")
    kept = call.args.get("keepdim", call.args.get("keepdims", False))
    dims = [() if i in axes else d for i, d in enumerate(dims_of(x)) if kept or i not in axes]
    return [dims] * len(call.outs)


@rule("argmax", "argmin")
def arg_reduction(terms: Terms, call: Call) -> Sequence[Dims]:
    x = call["self"]
    axes = axes_of(x, call["dim"])
    for axis in axes:
        terms.freeze(dims_of(x)[axis], "the position of an entry in it is the result")
    return [[() if i in axes else d for i, d in enumerate(dims_of(x)) if call["keepdim"] or i not in axes]]


def _spatial(count: int) -> Rule:
    def pool(terms: Terms, call: Call) -> Sequence[Dims]:
        x = call.tensors()[0]
        free = [_untouched(call, i) for i in range(count)]
        for d, passes in zip(dims_of(x)[-count:], free, strict=True):
            if not passes:
                terms.freeze(d, "it is an image size")
        for other in call.tensors()[1:]:  # grids
            for d in dims_of(other):
                terms.freeze(d, "it holds positions")
        last = [
            dims_of(x)[i - count] if passes else const(call.outs[0].shape[i - count]) for i, passes in enumerate(free)
        ]
        return [[*dims_of(x)[:-count], *last]] * len(call.outs)

    return pool


def _untouched(call: Call, axis: int) -> bool:
    """Whether a pool takes single entries along an axis, each once."""
    steps = [
        call.args.get(name) or default for name, default in (("kernel_size", None), ("stride", 1), ("dilation", 1))
    ]
    each = [n[axis % len(n)] if isinstance(n, list | tuple) else n for n in (*steps, call.args.get("padding") or 0)]
    return each == [1, 1, 1, 0]


rule(
    "avg_pool1d _adaptive_avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d reflection_pad1d replication_pad1d "
    "upsample_linear1d upsample_nearest1d _upsample_nearest_exact1d max_pool1d"
)(_spatial(1))
rule(
    "max_pool2d_with_indices max_pool2d mkldnn_max_pool2d avg_pool2d _adaptive_avg_pool2d adaptive_avg_pool2d "
    "adaptive_max_pool2d fractional_max_pool2d reflection_pad2d replication_pad2d upsample_nearest2d "
    "upsample_bilinear2d upsample_bicubic2d _upsample_nearest_exact2d _upsample_bilinear2d_aa "
    "_upsample_bicubic2d_aa grid_sampler_2d"
)(_spatial(2))
rule(
    "max_pool3d_with_indices max_pool3d avg_pool3d _adaptive_avg_pool3d adaptive_avg_pool3d adaptive_max_pool3d "
    "reflection_pad3d replication_pad3d upsample_nearest3d upsample_trilinear3d _upsample_nearest_exact3d "
    "grid_sampler_3d"
)(_spatial(3))
