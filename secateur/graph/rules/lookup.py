"""Rules of operators that look entries up by index or depend on their order."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.graph.rules.base import Dims, Terms, axes_of, axis_of, dims_of, fresh, rule
from secateur.graph.terms import const, size
from secateur.graph.trace import Call


@rule("embedding")
def embedding(terms: Terms, call: Call) -> Sequence[Dims]:
    table = call["weight"]
    terms.freeze(dims_of(table)[0], "its rows are looked up by index")
    return [[*dims_of(call["indices"]), dims_of(table)[1]]]


@rule("index")
def index(terms: Terms, call: Call) -> Sequence[Dims]:
    x, indices = call["self"], call["indices"]
    used = [i for i, v in enumerate(indices) if v is not None]
    out = call.outs[0].shape
    for i in used:
        terms.freeze(dims_of(x)[i], "its entries are looked up by index")
    if len(out) != len(x.shape) - len(used) + max(len(indices[i].shape) for i in used):  # a mask of several dimensions
        for d in dims_of(x):
            terms.freeze(d, "its entries are chosen by a mask")
        return [[const(n) for n in out]]
    place = used[0] if used == list(range(used[0], used[-1] + 1)) else 0
    rank = max(len(indices[i].shape) for i in used)
    looked = [const(n) for n in out[place : place + rank]]
    rest = [d for i, d in enumerate(dims_of(x)) if i not in used]
    for i in used:
        for d in dims_of(indices[i]):
            terms.freeze(d, "it holds indices")
    return [[*rest[:place], *looked, *rest[place:]]]


@rule(
    "index_select index_add index_copy index_fill masked_select take scatter scatter_add slice_scatter select_scatter"
)
def indexed(terms: Terms, call: Call) -> Sequence[Dims]:
    x = call["self"]
    dims = list(dims_of(x))
    chosen = [axis_of(x, call["dim"])] if "dim" in call.args else range(len(dims))
    for axis in chosen:
        terms.freeze(dims[axis], "its entries are looked up by index")
    for other in call.tensors():
        if other is not x:
            for i, d in enumerate(dims_of(other)):
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


@rule("index_put")
def index_put(terms: Terms, call: Call) -> Sequence[Dims]:
    """Entries written at positions: those dimensions keep their size, the others are those of the values."""
    x, indices, values = call["self"], call["indices"], call["values"]
    used = [i for i, v in enumerate(indices) if v is not None]
    masks = any(indices[i].shape != () and len(indices[i].shape) > 1 for i in used)
    kept = [i for i in range(len(x.shape)) if i not in used] if used == list(range(len(used))) and not masks else []
    for i in range(len(x.shape)):
        if i not in kept:
            terms.freeze(dims_of(x)[i], "its entries are looked up by index")
    for v in call.tensors():
        if v is not x and v is not values:
            for d in dims_of(v):
                terms.freeze(d, "it holds indices")
    tail = dims_of(values)[-len(kept) :] if kept else []
    for i, d in zip(kept[::-1], tail[::-1], strict=False):
        if size(d) == x.shape[i]:
            terms.unify(dims_of(x)[i], d)
    for d in dims_of(values)[: len(values.shape) - len(tail)]:
        terms.freeze(d, "its entries are written by index")
    return [dims_of(x)]


@rule(
    "nonzero nonzero_static unique_consecutive _unique2 unique_dim bincount _local_scalar_dense equal is_nonzero "
    "torchvision::nms"
)
def choice(terms: Terms, call: Call) -> Sequence[Dims]:
    """What is chosen has the size it had on the example, and so has what it is chosen from."""
    for value in call.tensors():
        for d in dims_of(value):
            terms.freeze(d, "a choice is made from its values")
    return [[const(n) for n in out.shape] for out in call.outs]


@rule("torchvision::roi_align", "torchvision::roi_pool")
def regions(terms: Terms, call: Call) -> Sequence[Dims]:
    """Every channel by itself, read in some boxes."""
    x, boxes = call["input"], call["rois"]
    for d in (dims_of(x)[0], *dims_of(x)[2:], *dims_of(boxes)):
        terms.freeze(d, "it is an image size")
    return [[const(out.shape[0]), dims_of(x)[1], *(const(n) for n in out.shape[2:])] for out in call.outs]


@rule("_pack_padded_sequence")
def pack(terms: Terms, call: Call) -> Sequence[Dims]:
    """Sequences of several lengths, one step after the other: places become rows, what is there passes."""
    x, (rows, batch_sizes) = call["input"], call.outs
    for d in dims_of(x)[:2]:
        terms.freeze(d, "it counts sequences or their steps")
    return [[const(rows.shape[0]), *dims_of(x)[2:]], [const(n) for n in batch_sizes.shape]]


@rule("_pad_packed_sequence")
def unpack(terms: Terms, call: Call) -> Sequence[Dims]:
    """The way back from `_pack_padded_sequence`."""
    rows, (x, lengths) = call["data"], call.outs
    terms.freeze(dims_of(rows)[0], "it counts sequences and their steps")
    return [[*(const(n) for n in x.shape[:2]), *dims_of(rows)[1:]], [const(n) for n in lengths.shape]]


@rule("gather")
def gather(terms: Terms, call: Call) -> Sequence[Dims]:
    x, chosen = call["self"], call["index"]
    axis = axis_of(x, call["dim"])
    dims = list(dims_of(chosen))
    terms.freeze(dims_of(x)[axis], "its entries are looked up by index")
    for i, d in enumerate(dims_of(x)):
        if i != axis:
            terms.unify(d, dims[i]) if size(d) == size(dims[i]) else terms.freeze(d, "it is looked up in part")
    return [dims]


@rule(
    "roll flip cumsum cumprod tril triu sort topk argsort cummax logcumsumexp renorm rot90 diagonal "
    "kthvalue mode median nanmedian _fft_r2c _fft_c2c _fft_c2r"
)
def ordered(terms: Terms, call: Call) -> Sequence[Dims]:
    """The result depends on the order of the entries along some dimensions: those keep their size, the others pass."""
    x = call["self"]
    given = call.args.get("dims", call.args.get("dim", call.args.get("dimension")))
    touched = [len(x.shape) - 2, len(x.shape) - 1] if call.op in ("tril", "triu", "diagonal") else axes_of(x, given)
    dims = list(dims_of(x))
    for axis in touched:
        terms.freeze(dims[axis], "the operator depends on the order of its entries")
    return [dims if out.shape == x.shape else _fitted(dims, out.shape, touched) for out in call.outs]


@rule("unfold")
def unfold(terms: Terms, call: Call) -> Sequence[Dims]:
    """Windows along a dimension: their number takes its place, their length comes last."""
    x, out = call["self"], call.outs[0].shape
    axis = axis_of(x, call["dimension"])
    terms.freeze(dims_of(x)[axis], "it is read in windows")
    return [[*(const(out[i]) if i == axis else d for i, d in enumerate(dims_of(x))), const(out[-1])]]


def _fitted(dims: Dims, shape: Sequence[int], touched: Sequence[int]) -> Dims:
    """Dimensions for a result in which the touched ones have other sizes, or stand last where the rank changed."""
    free = [d for i, d in enumerate(dims) if i not in touched]
    if len(shape) == len(dims):
        return [const(n) if i in touched else dims[i] for i, n in enumerate(shape)]
    tail = len(shape) - len(free)
    return free + [const(n) for n in shape[len(free) :]] if tail >= 0 else [const(n) for n in shape]


@rule("zeros ones full empty rand randn new_zeros new_ones new_full new_empty empty_strided new_empty_strided randint")
def creation(terms: Terms, call: Call) -> Sequence[Dims]:
    dims = fresh(call.outs[0]) if 0 not in call.outs[0].shape else [const(n) for n in call.outs[0].shape]
    call.resize["size"] = dims
    return [dims]
