"""What each operator says about dimensions: one small function for a family of ATen operators.

A rule reads a call and ties the dimensions of its tensors together; it returns the dimensions of the results. An
operator without a rule freezes whatever it touches: it prunes less, it is never wrong. A new operator takes a few
lines:

    @rule("my_library::scale_channels")
    def scale_channels(terms, call):
        terms.unify(call["x"].dims[1], call["scale"].dims[0])
        return [call["x"].dims]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch

from secateur.graph.terms import Dim, Reason, Unifier, atom, atoms, const, is_const, norm, size
from secateur.graph.trace import Call, Value

Dims: TypeAlias = "list[Dim]"
Rule: TypeAlias = "Callable[[Terms, Call], Sequence[Dims]]"

RULES: dict[str, Rule] = {}


class Terms(Unifier):
    """The unifier, and what rules need beyond it: which dimensions of the model's own tensors are contracted away.

    `unused` holds the ids of results that nothing reads: code may take a part of a tensor just to ask for its shape.
    """

    def __init__(self) -> None:
        super().__init__()
        self.contracted: set[tuple[str, int]] = set()
        self.unknown: dict[str, str] = {}
        self.unused: set[int] = set()
        self.leaf_dims: dict[str, Dims] = {}

    def contract(self, value: Value, dim: Dim) -> None:
        """Note that `dim` of `value` is summed over against an activation: its entries consume units."""
        wanted = set(atoms(dim))
        for name in value.leaves:
            for axis, own in enumerate(self.leaf_dims[name]):
                if wanted & set(atoms(own)):
                    self.contracted.add((name, axis))


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a function as the rule of operators, by names without overload: `"sum mean"`, `"library::name"`."""

    def register(function: Rule) -> Rule:
        for name in (word for words in names for word in words.split()):
            RULES[name] = function
        return function

    return register


def apply(terms: Terms, call: Call) -> None:
    """Apply the rule of one call and give its results their dimensions."""
    schema = call.func._schema.name
    terms.here = Reason("", schema.replace("::", "."), call.module)
    found = RULES.get(call.op if schema.startswith("aten::") else schema)
    if found is None and torch.Tag.pointwise in call.func.tags:
        found = RULES["pointwise"]
    if found is None:
        _unknown(terms, call)
        return
    inputs = call.tensors()
    if call.outs and 0 in call.outs[0].shape:
        for dim in (d for v in inputs if v.leaves for d in dims_of(v)):
            terms.freeze(dim, "it meets an empty tensor on the example, so no wrong cut of it would show")
    origin = frozenset().union(*(v.leaves for v in inputs)) if inputs and all(v.leaves for v in inputs) else frozenset()
    for out, dims in zip(call.outs, found(terms, call), strict=False):
        if out.dims is None:
            out.dims, out.leaves = dims, origin
        else:  # written in place: the same tensor, the same units
            for known, new in zip(out.dims, dims, strict=True):
                terms.unify(known, new)
    for out in call.outs:
        if out.dims is None or tuple(map(size, out.dims)) != tuple(out.shape):
            _unknown(terms, call)
            return


def _unknown(terms: Terms, call: Call) -> None:
    """Freeze what an operator without a rule touches and remember it."""
    if any(not is_const(norm(d)) for v in call.tensors() for d in dims_of(v)):
        terms.unknown.setdefault(terms.here.operator, terms.here.module)
    for value in call.tensors():
        for dim in dims_of(value):
            terms.freeze(dim, "there is no rule for this operator")
    for out in call.outs:
        out.dims = [const(n) for n in out.shape]


def dims_of(value: Value) -> Dims:
    return value.dims if value.dims is not None else [const(n) for n in value.shape]


def axis_of(value: Value, dim: int) -> int:
    return dim % max(1, len(value.shape))


def axes_of(value: Value, dim: Any) -> list[int]:
    if dim is None or dim == []:
        return list(range(len(value.shape)))
    return [axis_of(value, d) for d in (dim if isinstance(dim, list | tuple) else [dim])]


def fresh(value: Value) -> Dims:
    return [atom(n) for n in value.shape]


def broadcast(terms: Terms, values: Sequence[Dims], shape: Sequence[int]) -> Dims:
    """Right-aligned dimensions tied together; a size of 1 imposes nothing."""
    out: Dims = []
    for back in range(len(shape), 0, -1):
        tied = [dims[-back] for dims in values if len(dims) >= back and size(dims[-back]) != 1]
        for other in tied[1:]:
            terms.unify(tied[0], other)
        out.append(tied[0] if tied else const(shape[-back]))
    return out
