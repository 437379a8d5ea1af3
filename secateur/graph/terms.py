"""Dimension terms: what the size of every tensor dimension is made of, solved by unification as types are.

    dim    = tuple of factors, a row-major product, outer factor first; () has size 1
    factor = int (rigid)  |  Atom (a set of interchangeable units)  |  Cat (dims laid end to end)

A VGG flatten is `(C, 49)`; a packed qkv projection is `(3, H, D)`; rotate-half position embeddings make `D = Cat[f,
f]`; a DenseNet concatenation is a Cat of all earlier growth atoms; a grouped convolution has `(G, C/G)` channels. Two
dimensions that an operator ties together are unified; what cannot be told apart or must not change is frozen, with a
reason. There is no torch operator in here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Reason:
    """Why a dimension must keep its size: a sentence, the ATen operator and the module that ran it."""

    text: str
    operator: str = ""
    module: str = ""


@dataclass(eq=False, slots=True)
class Atom:
    """`size` interchangeable units; once `bound`, another name for that dimension.

    `flags` name operations whose result depends on how many units there are: "statistics" (norm, softmax, mean).
    """

    size: int
    bound: Dim | None = None
    flags: set[str] = field(default_factory=set)
    reason: Reason | None = None

    def __repr__(self) -> str:
        return f"a{id(self) % 9973}:{self.size}"


@dataclass(frozen=True, slots=True)
class Cat:
    """Dimensions laid end to end."""

    parts: tuple[Dim, ...]


Factor: TypeAlias = "int | Atom | Cat"
Dim: TypeAlias = "tuple[Factor, ...]"


def atom(size: int) -> Dim:
    """A fresh dimension of `size` units; a single unit is the constant 1, since broadcasting cannot tell them apart."""
    return (Atom(size),) if size > 1 else const(size)


def const(size: int) -> Dim:
    """A dimension that never changes."""
    return () if size == 1 else (size,)


def cat(parts: Sequence[Dim]) -> Dim:
    """The dimension of `parts` laid end to end."""
    return (Cat(tuple(parts)),)


def norm(dim: Dim) -> Dim:
    """The same dimension with bound atoms replaced, products and Cats flattened and neighbouring constants merged."""
    out: list[Factor] = []
    for factor in dim:
        for resolved in _resolve(factor):
            if isinstance(resolved, int) and out and isinstance(out[-1], int):
                out[-1] *= resolved
            elif resolved != 1:
                out.append(resolved)
    return tuple(out)


def _resolve(factor: Factor) -> Dim:
    if isinstance(factor, int):
        return (factor,)
    if isinstance(factor, Atom):
        if factor.bound is None:
            return (factor,)
        factor.reason = factor.reason or first_reason(factor.bound)
        factor.bound = norm(factor.bound)
        return factor.bound
    parts: list[Dim] = []
    for part in map(norm, factor.parts):
        for piece in part[0].parts if len(part) == 1 and isinstance(part[0], Cat) else (part,):
            if parts and is_const(piece) and is_const(parts[-1]):
                parts[-1] = const(size(piece) + size(parts[-1]))
            elif size(piece) > 0:
                parts.append(piece)
    if len(parts) == 1:
        return parts[0]
    return (Cat(tuple(parts)),) if parts else (0,)


def first_reason(dim: Dim) -> Reason | None:
    """The reason by which some atom in the dimension was frozen, if any was."""
    for factor in dim:
        if isinstance(factor, Atom):
            found = factor.reason or (first_reason(factor.bound) if factor.bound is not None else None)
        elif isinstance(factor, Cat):
            found = next((r for r in map(first_reason, factor.parts) if r), None)
        else:
            found = None
        if found:
            return found
    return None


def size(dim: Dim, counts: Mapping[Atom, int] | None = None) -> int:
    """The size of the dimension when each atom has `counts[atom]` units left (all of them where it is not named)."""
    total = 1
    for factor in dim:
        if isinstance(factor, int):
            total *= factor
        elif isinstance(factor, Atom):
            if factor.bound is not None:
                total *= size(factor.bound, counts)
            else:
                total *= counts.get(factor, factor.size) if counts else factor.size
        else:
            total *= sum(size(part, counts) for part in factor.parts)
    return total


def is_const(dim: Dim) -> bool:
    """Whether a normed dimension holds no atom."""
    return all(isinstance(f, int) for f in dim)


def atoms(dim: Dim) -> Iterator[Atom]:
    """Every free atom of the dimension, outer first, as often as it occurs."""
    for factor in norm(dim):
        if isinstance(factor, Atom):
            yield factor
        elif isinstance(factor, Cat):
            for part in factor.parts:
                yield from atoms(part)


def mask(dim: Dim, keep: Mapping[Atom, NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Which entries of the dimension remain when each atom keeps the units of `keep[atom]`."""
    result = np.ones(1, dtype=bool)
    for factor in norm(dim):
        if isinstance(factor, int):
            kept = np.ones(factor, dtype=bool)
        elif isinstance(factor, Atom):
            kept = keep[factor] if factor in keep else np.ones(factor.size, dtype=bool)
        else:
            kept = np.concatenate([mask(part, keep) for part in factor.parts])
        result = (result[:, None] & kept).reshape(-1)
    return result


def labels(dim: Dim, wanted: Atom) -> NDArray[np.int64]:
    """The unit of `wanted` that each entry of the dimension belongs to; -1 where it belongs to none."""
    result = np.full(1, -1, dtype=np.int64)
    for factor in norm(dim):
        if isinstance(factor, int):
            line = np.full(factor, -1, dtype=np.int64)
        elif isinstance(factor, Atom):
            line = np.arange(factor.size) if factor is wanted else np.full(factor.size, -1, dtype=np.int64)
        else:
            line = np.concatenate([labels(part, wanted) for part in factor.parts])
        result = np.where(line[None, :] >= 0, line[None, :], result[:, None]).reshape(-1)
    return result


class Unifier:
    """Ties dimensions together. `here` is the operator at work: freezing remembers it."""

    def __init__(self) -> None:
        self.here = Reason("")
        self.equal: list[tuple[Dim, Dim]] = []
        self.multiples: list[tuple[Dim, int]] = []
        self.conflicts: list[Reason] = []

    def reason(self, text: str) -> Reason:
        """`text` with the operator at work."""
        return Reason(text, self.here.operator, self.here.module)

    def freeze(self, dim: Dim, text: str) -> None:
        """Make every atom of the dimension rigid."""
        for free in list(atoms(dim)):
            if free.bound is None:
                free.bound, free.reason = (free.size,), self.reason(text)

    def flag(self, dim: Dim, name: str) -> None:
        """Mark every atom of the dimension."""
        for free in atoms(dim):
            free.flags.add(name)

    def same_size(self, a: Dim, b: Dim) -> None:
        """Ask that two dimensions keep equal sizes, though not the same units."""
        self.equal.append((a, b))

    def multiple_of(self, dim: Dim, step: int) -> None:
        """Ask that a dimension's size stays a multiple of `step`, as the kernel that reads it wants."""
        self.multiples.append((dim, step))

    def unify(self, left: Dim, right: Dim) -> None:
        """Make two dimensions of equal size the same one; freeze what cannot be matched."""
        a, b = norm(left), norm(right)
        if a == b:
            return
        if size(a) != size(b):
            self._conflict(a, b, f"sizes {size(a)} and {size(b)} meet")
            return
        if is_const(a) or is_const(b):
            self.freeze(b if is_const(a) else a, "it meets a dimension of fixed size")
            return
        self._walk(list(a), list(b))

    def _walk(self, a: list[Factor], b: list[Factor]) -> None:
        while a and b:
            n, m = size((a[0],)), size((b[0],))
            if n == m:
                self._factor(a.pop(0), b.pop(0))
            elif not (self._open(a, b, n, m) if n > m else self._open(b, a, m, n)):
                self._conflict(tuple(a), tuple(b), "its parts do not line up with the other dimension's")
                return
            a, b = list(norm(tuple(a))), list(norm(tuple(b)))
        self.freeze((*a, *b), "it meets a dimension of fixed size")

    def _open(self, big: list[Factor], small: list[Factor], n: int, m: int) -> bool:
        """Split the larger head so that its first factor matches the smaller head; False when that is impossible."""
        head = big[0]
        if isinstance(head, Cat):
            return self._distribute(big, small, n)
        if n % m:
            return False
        if isinstance(head, Atom):
            self._bind(head, (Atom(m), Atom(n // m)))
        else:
            big[0] = n // m
            self.freeze((small.pop(0),), "it meets a dimension of fixed size")
        return True

    def _distribute(self, big: list[Factor], small: list[Factor], n: int) -> bool:
        """Match a Cat with a product whose tail is shared by all parts: `Cat[k1*t, k2*t] = (Cat[k1, k2], t)`."""
        head = big[0]
        assert isinstance(head, Cat)
        taken, product = 0, 1
        while taken < len(small) and product < n:
            product *= size((small[taken],))
            taken += 1
        rest: Dim
        rest, tail = (small[0],), tuple(small[1:taken])
        width = size(tail)
        if product != n or any(size(part) % width for part in head.parts):
            return False
        for part in head.parts:
            row, rest = self.cut(rest, size(part) // width)
            self.unify(part, (*row, *tail))
        del big[0], small[:taken]
        return True

    def _factor(self, f: Factor, g: Factor) -> None:
        if isinstance(f, Atom):
            self._bind(f, (g,))
        elif isinstance(g, Atom):
            self._bind(g, (f,))
        elif isinstance(f, Cat) and isinstance(g, Cat):
            self._refine(f, g)
        else:
            self.freeze((f, g), "it meets a dimension of fixed size")

    def _refine(self, f: Cat, g: Cat) -> None:
        """Unify two Cats part by part, cutting at the boundaries of both."""
        a, b = list(f.parts), list(g.parts)
        while a and b:
            n, m = size(a[0]), size(b[0])
            if n > m:
                a[0:1] = self.cut(a[0], m)
            elif m > n:
                b[0:1] = self.cut(b[0], n)
            self.unify(a.pop(0), b.pop(0))

    def cut(self, dim: Dim, at: int) -> tuple[Dim, Dim]:
        """The dimension's first `at` entries and the rest."""
        d = norm(dim)
        total = size(d)
        if at <= 0 or at >= total:
            return (const(0), d) if at <= 0 else (d, const(0))
        if is_const(d):
            return const(at), const(total - at)
        head, rest = d[0], d[1:]
        if rest:
            width = size(rest)
            if at % width:
                self._conflict(d, (), f"it is cut at {at}, inside a run of {width} entries that belong together")
                return const(at), const(total - at)
            left, right = self.cut((head,), at // width)
            return (*left, *rest), (*right, *rest)
        if isinstance(head, Atom):
            left, right = atom(at), atom(total - at)
            self._bind(head, cat([left, right]))
            return left, right
        assert isinstance(head, Cat)
        before: list[Dim] = []
        parts = list(head.parts)
        while size(parts[0]) <= at:
            at -= size(parts[0])
            before.append(parts.pop(0))
        if at:
            left, parts[0] = self.cut(parts[0], at)
            before.append(left)
        return norm(cat(before)), norm(cat(parts))

    def _bind(self, free: Atom, to: Dim) -> None:
        if (free,) == to:
            return
        if free in set(atoms(to)):
            self._conflict((free,), to, "it would have to contain itself")
            return
        for inner in atoms(to):
            inner.flags |= free.flags
        free.bound = to
        if is_const(norm(to)):
            free.reason = first_reason(to) or self.reason("it meets a dimension of fixed size")

    def _conflict(self, a: Dim, b: Dim, text: str) -> None:
        self.conflicts.append(self.reason(text))
        self.freeze((*a, *b), text)
