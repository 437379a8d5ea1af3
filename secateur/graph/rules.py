"""What each operator says about dimensions: one small function for a family of ATen operators.

A rule reads a call and ties the dimensions of its tensors together; it returns the dimensions of the results. An operator
without a rule freezes whatever it touches: it prunes less, it is never wrong. A new operator takes a few lines:

    @rule("my_library::scale_channels")
    def scale_channels(terms, call):
        terms.unify(call["x"].dims[1], call["scale"].dims[0])
        return [call["x"].dims]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, TypeAlias

import torch

from secateur.graph.terms import Atom, Cat, Dim, Unifier, atom, cat, const, is_const, norm, size
from secateur.graph.trace import Call, Value

Dims: TypeAlias = "list[Dim]"
Rule: TypeAlias = "Callable[[Terms, Call], Sequence[Dims]]"

RULES: dict[str, Rule] = {}


class Terms(Unifier):
    """The unifier, and what rules need beyond it: which dimensions of the model's own tensors are contracted away."""

    def __init__(self) -> None:
        super().__init__()
        self.contracted: set[tuple[str, int]] = set()
        self.unknown: dict[str, str] = {}
        self.leaf_dims: dict[str, Dims] = {}

    def contract(self, value: Value, dim: Dim) -> None:
        """Note that `dim` of `value` is summed over against an activation: its entries consume units."""
        wanted = set(_free(dim))
        for name in value.leaves:
            for axis, own in enumerate(self.leaf_dims[name]):
                if wanted & set(_free(own)):
                    self.contracted.add((name, axis))


def _free(dim: Dim) -> list[Atom]:
    from secateur.graph.terms import atoms

    return list(atoms(dim))


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a function as the rule of operators, by name without overload: `"softmax"` (ATen) or `"library::name"`."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


def apply(terms: Terms, call: Call) -> None:
    """Apply the rule of one call and give its results their dimensions."""
    schema = call.func._schema.name
    terms.here = terms.reason("").__class__("", schema.replace("::", "."), call.module)
    found = RULES.get(call.op if schema.startswith("aten::") else schema)
    if found is None and torch.Tag.pointwise in call.func.tags:
        found = pointwise
    if found is None:
        _unknown(terms, call)
        return
    inputs = call.tensors()
    origin = frozenset().union(*(v.leaves for v in inputs)) if inputs and all(v.leaves for v in inputs) else frozenset()
    for out, dims in zip(call.outs, found(terms, call), strict=False):
        if out.dims is None:
            out.dims, out.leaves = dims, origin
        else:  # written in place: the same tensor, the same units
            for known, new in zip(out.dims, dims, strict=True):
                terms.unify(known, new)
    for out in call.outs:
        if out.dims is None or len(out.dims) != len(out.shape):
            _unknown(terms, call)
            return


def _unknown(terms: Terms, call: Call) -> None:
    """Freeze what an operator without a rule touches and remember it."""
    if any(not is_const(norm(d)) for v in call.tensors() for d in _of(v)):
        terms.unknown.setdefault(terms.here.operator, terms.here.module)
    for value in call.tensors():
        for dim in _of(value):
            terms.freeze(dim, "there is no rule for this operator")
    for out in call.outs:
        out.dims = [const(n) for n in out.shape]


def _of(value: Value) -> Dims:
    return value.dims if value.dims is not None else [const(n) for n in value.shape]


def _axis(value: Value, dim: int) -> int:
    return dim % max(1, len(value.shape))


def _axes(value: Value, dim: Any) -> list[int]:
    if dim is None or dim == []:
        return list(range(len(value.shape)))
    return [_axis(value, d) for d in (dim if isinstance(dim, list | tuple) else [dim])]


def _fresh(value: Value) -> Dims:
    return [atom(n) for n in value.shape]


def _broadcast(terms: Terms, values: Sequence[Dims], shape: Sequence[int]) -> Dims:
    """Right-aligned dimensions tied together; a size of 1 imposes nothing."""
    out: Dims = []
    for back in range(len(shape), 0, -1):
        tied = [dims[-back] for dims in values if len(dims) >= back and size(dims[-back]) != 1]
        for other in tied[1:]:
            terms.unify(tied[0], other)
        out.append(tied[0] if tied else const(shape[-back]))
    return out


@rule(
    "hardswish", "hardsigmoid", "hardtanh", "silu", "mish", "elu", "celu", "softplus", "leaky_relu", "rrelu_with_noise",
    "masked_fill", "where", "clamp", "bernoulli", "fill", "zero", "normal", "uniform", "_prelu_kernel", "nan_to_num",
    "addcmul", "addcdiv", "lerp", "copy", "relu6", "threshold", "glu_jvp", "exponential", "dropout", "bitwise_not",
)  # fmt: skip
def pointwise(terms: Terms, call: Call) -> Sequence[Dims]:
    """Every entry of the result from the entries at its place."""
    dims = _broadcast(terms, [_of(v) for v in call.tensors()], call.outs[0].shape)
    return [dims] * len(call.outs)


@rule("clone", "_to_copy", "detach", "alias", "lift", "contiguous", "positive", "view_as_real_copy", "native_dropout", "to", "_conj")
def identity(terms: Terms, call: Call) -> Sequence[Dims]:  # noqa: ARG001
    """The same entries at the same places."""
    return [_of(call.tensors()[0])] * len(call.outs)


# Rearranging ---------------------------------------------------------------------------------------------------------------


@rule("t", "numpy_T")
def t(terms: Terms, call: Call) -> Sequence[Dims]:  # noqa: ARG001
    return [_of(call["self"])[::-1]]


@rule("transpose", "swapaxes")
def transpose(terms: Terms, call: Call) -> Sequence[Dims]:  # noqa: ARG001
    x = call["self"]
    dims = list(_of(x))
    a, b = _axis(x, call["dim0"]), _axis(x, call["dim1"])
    dims[a], dims[b] = dims[b], dims[a]
    return [dims]


@rule("permute")
def permute(terms: Terms, call: Call) -> Sequence[Dims]:  # noqa: ARG001
    return [[_of(call["self"])[_axis(call["self"], d)] for d in call["dims"]]]


@rule("squeeze")
def squeeze(terms: Terms, call: Call) -> Sequence[Dims]:  # noqa: ARG001
    x = call["self"]
    chosen = _axes(x, call.args.get("dim"))
    return [[d for i, d in enumerate(_of(x)) if not (i in chosen and x.shape[i] == 1)]]


@rule("unsqueeze")
def unsqueeze(terms: Terms, call: Call) -> Sequence[Dims]:  # noqa: ARG001
    dims = list(_of(call["self"]))
    dims.insert(call["dim"] % (len(dims) + 1), ())
    return [dims]


@rule("expand")
def expand(terms: Terms, call: Call) -> Sequence[Dims]:  # noqa: ARG001
    out = call.outs[0].shape
    dims = [()] * (len(out) - len(call["self"].shape)) + list(_of(call["self"]))
    grown = [atom(n) if n != 1 and size(d) == 1 else d for n, d in zip(out, dims, strict=True)]
    call.resize["size"] = grown
    return [grown]


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy", "view_copy")
def view(terms: Terms, call: Call) -> Sequence[Dims]:
    """Row-major regrouping: minimal runs of equal products keep their factors."""
    x = call["self"]
    if "size" not in call.args:  # view.dtype
        return [_of(x)] if x.shape == call.outs[0].shape else []
    dims = regroup(terms, _of(x), call.outs[0].shape)
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
    axis = _axis(parts[0], call["dim"])
    dims = list(_of(parts[0]))
    for other in parts[1:]:
        for i, d in enumerate(_of(other)):
            if i != axis:
                terms.unify(dims[i], d)
    dims[axis] = cat([_of(v)[axis] for v in parts])
    return [dims]


@rule("stack")
def stack(terms: Terms, call: Call) -> Sequence[Dims]:
    parts = call["tensors"]
    dims = list(_broadcast(terms, [_of(v) for v in parts], parts[0].shape))
    dims.insert(call["dim"] % (len(dims) + 1), const(len(parts)))
    return [dims]


@rule("slice")
def slice_(terms: Terms, call: Call) -> Sequence[Dims]:
    x = call["self"]
    axis, n, step = _axis(x, call["dim"]), x.shape[_axis(x, call["dim"])], call["step"]
    start, end = (_clamp(v, n, default) for v, default in ((call["start"], 0), (call["end"], n)))
    dims = list(_of(x))
    if step != 1:
        dims[axis] = _strided(terms, dims[axis], n, start, end, step)
        call.resize["end"] = norm(_of(x)[axis]) if end == n else const(end)
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


@rule("split", "split_with_sizes", "split_copy", "split_with_sizes_copy", "unsafe_split")
def split(terms: Terms, call: Call) -> Sequence[Dims]:
    x = call["self"]
    axis = _axis(x, call["dim"])
    rest, parts, results = _of(x)[axis], [], []
    for out in call.outs:
        part, rest = terms.cut(rest, out.shape[axis])
        parts.append(part)
        results.append([*_of(x)[:axis], part, *_of(x)[axis + 1 :]])
    if "split_size" in call.args:  # one size for all, often computed from the width at run time (chunk)
        for part in parts[1:]:
            if size(part) == size(parts[0]):
                terms.same_size(parts[0], part)
    call.resize["split_sizes"] = parts
    return results


@rule("unbind")
def unbind(terms: Terms, call: Call) -> Sequence[Dims]:
    x = call["self"]
    axis = _axis(x, call["dim"])
    terms.freeze(_of(x)[axis], "its entries are taken apart one by one")
    return [[d for i, d in enumerate(_of(x)) if i != axis]] * len(call.outs)


@rule("select")
def select(terms: Terms, call: Call) -> Sequence[Dims]:
    x = call["self"]
    axis = _axis(x, call["dim"])
    terms.freeze(_of(x)[axis], "one of its entries is picked by position")
    return [[d for i, d in enumerate(_of(x)) if i != axis]]


@rule("constant_pad_nd")
def pad(terms: Terms, call: Call) -> Sequence[Dims]:
    dims = list(_of(call["self"]))
    for i in range(0, len(call["pad"]), 2):
        axis = len(dims) - 1 - i // 2
        before, after = call["pad"][i], call["pad"][i + 1]
        if before < 0:
            _, dims[axis] = terms.cut(dims[axis], -before)
        if after < 0:
            dims[axis], _ = terms.cut(dims[axis], size(dims[axis]) + after)
        if before > 0 or after > 0:
            dims[axis] = cat([const(max(0, before)), dims[axis], const(max(0, after))])
        if not is_const(norm(dims[axis])) and (before < 0 or after < 0):
            terms.freeze(dims[axis], "it is cropped by position")
    return [[norm(d) for d in dims]]


@rule("repeat")
def repeat(terms: Terms, call: Call) -> Sequence[Dims]:  # noqa: ARG001
    repeats = call["repeats"]
    dims = [()] * (len(repeats) - len(call["self"].shape)) + list(_of(call["self"]))
    return [[(r, *d) if r != 1 else d for r, d in zip(repeats, dims, strict=True)]]


@rule("pixel_shuffle")
def pixel_shuffle(terms: Terms, call: Call) -> Sequence[Dims]:
    x, r = call["self"], call["upscale_factor"]
    channels = atom(call.outs[0].shape[-3])
    terms.unify(_of(x)[-3], (*channels, r, r))
    return [[*_of(x)[:-3], channels, *(const(n) for n in call.outs[0].shape[-2:])]]


@rule("pixel_unshuffle")
def pixel_unshuffle(terms: Terms, call: Call) -> Sequence[Dims]:  # noqa: ARG001
    x, r = call["self"], call["downscale_factor"]
    return [[*_of(x)[:-3], (*_of(x)[-3], r, r), *(const(n) for n in call.outs[0].shape[-2:])]]


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(terms: Terms, call: Call) -> Sequence[Dims]:
    x, g = call["self"], call["groups"]
    inner = atom(x.shape[1] // g)
    terms.unify(_of(x)[1], (g, *inner))
    return [[_of(x)[0], (*inner, g), *_of(x)[2:]]]


@rule("im2col")
def im2col(terms: Terms, call: Call) -> Sequence[Dims]:  # noqa: ARG001
    x, out = call["self"], call.outs[0].shape
    return [[*_of(x)[:-3], (*_of(x)[-3], prod(call["kernel_size"])), const(out[-1])]]


@rule("col2im")
def col2im(terms: Terms, call: Call) -> Sequence[Dims]:
    x, out = call["self"], call.outs[0].shape
    channels = atom(out[-3])
    terms.unify(_of(x)[-2], (*channels, prod(call["kernel_size"])))
    return [[*_of(x)[:-2], channels, const(out[-2]), const(out[-1])]]


@rule("as_strided")
def as_strided(terms: Terms, call: Call) -> Sequence[Dims]:
    x = call["self"]
    if tuple(call["size"]) == x.shape:
        call.resize["size"] = _of(x)
        return [_of(x)]
    for d in _of(x):
        terms.freeze(d, "its memory is read with free strides")
    return [[const(n) for n in call.outs[0].shape]]


@rule("roll", "flip", "cumsum", "cumprod", "tril", "triu", "sort", "topk", "unfold", "argsort", "cummax", "logcumsumexp",
      "renorm", "rot90", "diagonal", "kthvalue", "mode", "median", "nanmedian")  # fmt: skip
def ordered(terms: Terms, call: Call) -> Sequence[Dims]:
    """The result depends on the order of the entries along some dimensions: those keep their size, the others pass."""
    x = call["self"]
    given = call.args.get("dims", call.args.get("dim", call.args.get("dimension")))
    touched = [len(x.shape) - 2, len(x.shape) - 1] if call.op in ("tril", "triu", "diagonal") else _axes(x, given)
    dims = list(_of(x))
    for axis in touched:
        terms.freeze(dims[axis], "the operator depends on the order of its entries")
    return [
        dims
        if out.shape == x.shape
        else _fitted(dims, out.shape, touched)
        for out in call.outs
    ]


def _fitted(dims: Dims, shape: Sequence[int], touched: Sequence[int]) -> Dims:
    """Dimensions for a result in which the touched ones have other sizes, moved behind the others where the rank changed."""
    free = [d for i, d in enumerate(dims) if i not in touched]
    if len(shape) == len(dims):
        return [const(n) if i in touched else dims[i] for i, n in enumerate(shape)]
    tail = len(shape) - len(free)
    return free + [const(n) for n in shape[len(free) :]] if tail >= 0 else [const(n) for n in shape]


# Looking up ----------------------------------------------------------------------------------------------------------------


@rule("embedding")
def embedding(terms: Terms, call: Call) -> Sequence[Dims]:
    table = call["weight"]
    terms.freeze(_of(table)[0], "its rows are looked up by index")
    return [[*_of(call["indices"]), _of(table)[1]]]


@rule("index")
def index(terms: Terms, call: Call) -> Sequence[Dims]:
    x, indices = call["self"], call["indices"]
    used = [i for i, v in enumerate(indices) if v is not None]
    out = call.outs[0].shape
    for i in used:
        terms.freeze(_of(x)[i], "its entries are looked up by index")
    if len(out) != len(x.shape) - len(used) + max(len(indices[i].shape) for i in used):  # a mask of several dimensions
        for d in _of(x):
            terms.freeze(d, "its entries are chosen by a mask")
        return [[const(n) for n in out]]
    place = used[0] if used == list(range(used[0], used[-1] + 1)) else 0
    rank = max(len(indices[i].shape) for i in used)
    looked = [const(n) for n in out[place : place + rank]]
    rest = [d for i, d in enumerate(_of(x)) if i not in used]
    for i in used:
        for d in _of(indices[i]):
            terms.freeze(d, "it holds indices")
    return [[*rest[:place], *looked, *rest[place:]]]


@rule("index_select", "index_add", "index_copy", "index_fill", "masked_select", "take", "index_put", "scatter", "scatter_add",
      "slice_scatter", "select_scatter")  # fmt: skip
def indexed(terms: Terms, call: Call) -> Sequence[Dims]:
    x = call["self"]
    dims = list(_of(x))
    chosen = [_axis(x, call["dim"])] if "dim" in call.args else range(len(dims))
    for axis in chosen:
        terms.freeze(dims[axis], "its entries are looked up by index")
    for other in call.tensors():
        if other is not x:
            for i, d in enumerate(_of(other)):
                if len(other.shape) == len(dims) and i not in chosen:
                    terms.unify(dims[i], d) if size(d) == size(dims[i]) else terms.freeze(d, "it meets another size")
                else:
                    terms.freeze(d, "it holds indices")
    out = call.outs[0].shape
    if len(out) != len(dims):
        for d in dims:
            terms.freeze(d, "its entries are looked up by index")
        return [[const(n) for n in out]]
    return [[const(n) if size(dims[i]) != n else dims[i] for i, n in enumerate(out)]]


@rule("gather")
def gather(terms: Terms, call: Call) -> Sequence[Dims]:
    x, chosen = call["self"], call["index"]
    axis = _axis(x, call["dim"])
    dims = list(_of(chosen))
    terms.freeze(_of(x)[axis], "its entries are looked up by index")
    for i, d in enumerate(_of(x)):
        if i != axis:
            terms.unify(d, dims[i]) if size(d) == size(dims[i]) else terms.freeze(d, "it is looked up in part")
    return [dims]


# Multiplying ---------------------------------------------------------------------------------------------------------------


def _product(terms: Terms, a: Value, b: Value, left: Dim, right: Dim) -> None:
    """Sum over `left` of `a` against `right` of `b`."""
    terms.contract(a, left)
    terms.contract(b, right)
    terms.unify(left, right)


@rule("mm", "bmm", "mv", "dot", "vdot")
def matmul(terms: Terms, call: Call) -> Sequence[Dims]:
    a = call["self"]
    b = next(v for name, v in call.args.items() if name != "self" and isinstance(v, Value))
    return [_matmul(terms, a, b)]


def _matmul(terms: Terms, a: Value, b: Value) -> Dims:
    left, right = _of(a), _of(b)
    inner = right[-2] if len(right) > 1 else right[0]
    _product(terms, a, b, left[-1], inner)
    batch = left[:-2]
    for x, y in zip(batch, right[:-2], strict=True) if len(right) > 2 else ():
        terms.unify(x, y)
    rows = [left[-2]] if len(left) > 1 else []
    return [*batch, *rows, *([right[-1]] if len(right) > 1 else [])]


@rule("addmm", "baddbmm", "addmv", "addbmm")
def addmm(terms: Terms, call: Call) -> Sequence[Dims]:
    first, second = (v for name, v in call.args.items() if name != "self" and isinstance(v, Value))
    out = _matmul(terms, first, second)
    _broadcast(terms, [out, _of(call["self"])], call.outs[0].shape)
    return [out]


@rule("linear")
def linear(terms: Terms, call: Call) -> Sequence[Dims]:
    x, w = call["input"], call["weight"]
    _product(terms, x, w, _of(x)[-1], _of(w)[-1])
    if call["bias"] is not None:
        terms.unify(_of(w)[0], _of(call["bias"])[0])
    return [[*_of(x)[:-1], *_of(w)[:-1]]]


@rule("convolution", "_convolution", "convolution_overrideable", "mkldnn_convolution", "cudnn_convolution")
def convolution(terms: Terms, call: Call) -> Sequence[Dims]:
    x, w, bias, groups = call["input"], call["weight"], call["bias"], call["groups"]
    channels, (first, second, *kernel) = _of(x)[1], _of(w)
    for d in (*kernel, *_of(x)[2:]):
        terms.freeze(d, "it is a kernel or an image size")
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
        terms.unify(out, _of(bias)[0])
    call.resize["groups"] = group
    return [[_of(x)[0], out, *(const(n) for n in call.outs[0].shape[2:])]]


# Normalising and reducing --------------------------------------------------------------------------------------------------


@rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit_functional",
      "cudnn_batch_norm", "_batch_norm_with_update", "_batch_norm_no_update", "batch_norm", "miopen_batch_norm")  # fmt: skip
def batch_norm(terms: Terms, call: Call) -> Sequence[Dims]:
    x = call.tensors()[0]
    channels = _of(x)[1]
    for other in call.tensors()[1:]:
        if len(other.shape) == 1:
            terms.unify(channels, _of(other)[0])
    if call.args.get("training", call.args.get("train", False)):
        for i, d in enumerate(_of(x)):
            if i != 1:
                terms.flag(d, "statistics")
    return [_of(x) if i == 0 else [channels if n == x.shape[1] else const(n) for n in out.shape] for i, out in enumerate(call.outs)]


@rule("native_layer_norm", "_fused_rms_norm", "rms_norm", "layer_norm")
def layer_norm(terms: Terms, call: Call) -> Sequence[Dims]:
    x = call["input"]
    k = len(call["normalized_shape"])
    outer, inner = _of(x)[:-k], _of(x)[-k:]
    for d in inner:
        terms.flag(d, "statistics")
    for name in ("weight", "bias"):
        if call.args.get(name) is not None:
            for d, own in zip(inner, _of(call[name]), strict=True):
                terms.unify(d, own)
    call.resize["normalized_shape"] = list(inner)
    return [_of(x) if i == 0 else outer + [()] * (len(out.shape) - len(outer)) for i, out in enumerate(call.outs)]


@rule("native_group_norm")
def group_norm(terms: Terms, call: Call) -> Sequence[Dims]:
    x, groups = call["input"], call["group"]
    group, inner = atom(groups), atom(x.shape[1] // groups)
    terms.unify(_of(x)[1], (*group, *inner))
    for name in ("weight", "bias"):
        if call[name] is not None:
            terms.unify(_of(x)[1], _of(call[name])[0])
    terms.flag(inner, "statistics")
    call.resize["C"], call.resize["group"] = _of(x)[1], group
    return [_of(x), [_of(x)[0], group], [_of(x)[0], group]]


@rule("_softmax", "_log_softmax", "_safe_softmax", "softmax", "log_softmax")
def softmax(terms: Terms, call: Call) -> Sequence[Dims]:
    x = call["self"]
    terms.flag(_of(x)[_axis(x, call["dim"])], "statistics")
    return [_of(x)]


@rule("mean", "sum", "amax", "amin", "var", "std", "norm", "linalg_vector_norm", "any", "all", "logsumexp", "prod", "var_mean",
      "std_mean", "aminmax", "nansum", "count_nonzero", "max", "min")  # fmt: skip
def reduction(terms: Terms, call: Call) -> Sequence[Dims]:
    """Dimensions summed away: whatever is not a sum depends on how many entries there are."""
    x = call["self"]
    if call.op in ("max", "min") and "other" in call.args:
        return pointwise(terms, call)
    axes = _axes(x, call.args.get("dim"))
    for axis in axes:
        terms.flag(_of(x)[axis], "sum" if call.op in ("sum", "any", "nansum", "count_nonzero") else "statistics")
        if len(call.outs) > 1 and call.op in ("max", "min"):
            terms.freeze(_of(x)[axis], "the position of an entry in it is the result")
    kept = call.args.get("keepdim", call.args.get("keepdims", False))
    dims = [() if i in axes else d for i, d in enumerate(_of(x)) if kept or i not in axes]
    return [dims] * len(call.outs)


@rule("argmax", "argmin")
def arg_reduction(terms: Terms, call: Call) -> Sequence[Dims]:
    x = call["self"]
    axes = _axes(x, call["dim"])
    for axis in axes:
        terms.freeze(_of(x)[axis], "the position of an entry in it is the result")
    return [[() if i in axes else d for i, d in enumerate(_of(x)) if call["keepdim"] or i not in axes]]


# Space ---------------------------------------------------------------------------------------------------------------------


def _spatial(count: int) -> Rule:
    def pool(terms: Terms, call: Call) -> Sequence[Dims]:
        x = call.tensors()[0]
        for d in _of(x)[-count:]:
            terms.freeze(d, "it is an image size")
        for other in call.tensors()[1:]:  # grids
            for d in _of(other):
                terms.freeze(d, "it holds positions")
        return [[*_of(x)[:-count], *(const(n) for n in out.shape[-count:])] for out in call.outs]

    return pool


rule("avg_pool1d", "_adaptive_avg_pool1d", "adaptive_avg_pool1d", "adaptive_max_pool1d", "reflection_pad1d", "replication_pad1d",
     "upsample_linear1d", "upsample_nearest1d", "_upsample_nearest_exact1d", "max_pool1d")(_spatial(1))  # fmt: skip
rule("max_pool2d_with_indices", "max_pool2d", "mkldnn_max_pool2d", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d",
     "adaptive_max_pool2d", "fractional_max_pool2d", "reflection_pad2d", "replication_pad2d", "upsample_nearest2d",
     "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_nearest_exact2d", "_upsample_bilinear2d_aa",
     "_upsample_bicubic2d_aa", "grid_sampler_2d")(_spatial(2))  # fmt: skip
rule("max_pool3d_with_indices", "max_pool3d", "avg_pool3d", "_adaptive_avg_pool3d", "adaptive_avg_pool3d", "adaptive_max_pool3d",
     "reflection_pad3d", "replication_pad3d", "upsample_nearest3d", "upsample_trilinear3d", "_upsample_nearest_exact3d",
     "grid_sampler_3d")(_spatial(3))  # fmt: skip


# Making --------------------------------------------------------------------------------------------------------------------


@rule("zeros", "ones", "full", "empty", "rand", "randn", "new_zeros", "new_ones", "new_full", "new_empty", "empty_strided",
      "new_empty_strided", "randint")  # fmt: skip
def creation(terms: Terms, call: Call) -> Sequence[Dims]:  # noqa: ARG001
    dims = _fresh(call.outs[0]) if 0 not in call.outs[0].shape else [const(n) for n in call.outs[0].shape]
    call.resize["size"] = dims
    return [dims]


@rule("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "randint_like")
def like(terms: Terms, call: Call) -> Sequence[Dims]:  # noqa: ARG001
    return [_of(call["self"])]


@rule("arange", "linspace", "eye", "scalar_tensor", "lift_fresh", "lift_fresh_copy", "logspace", "tril_indices", "triu_indices", "tensor")
def constant(terms: Terms, call: Call) -> Sequence[Dims]:  # noqa: ARG001
    return [[const(n) for n in out.shape] for out in call.outs]
