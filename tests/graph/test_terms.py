"""The algebra of dimensions: unification, cutting, masks and labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.graph.terms import (
    Atom,
    Cat,
    Dim,
    Reason,
    Unifier,
    atom,
    atoms,
    cat,
    const,
    is_const,
    labels,
    mask,
    norm,
    size,
)


def one(dim: Dim) -> Atom:
    """The single atom of a dimension."""
    (found,) = set(atoms(dim))
    return found


def test_a_flattened_map_is_channels_times_positions() -> None:
    u, channels, columns = Unifier(), atom(4), atom(12)
    u.unify((*channels, 3), columns)
    kept = {one(channels): np.array([True, False, True, False])}
    assert mask(columns, kept).tolist() == [True] * 3 + [False] * 3 + [True] * 3 + [False] * 3
    assert labels(columns, one(channels)).tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert size(columns, {one(channels): 2}) == 6


def test_a_packed_projection_shares_heads_between_its_parts() -> None:
    u, rows, heads, inner = Unifier(), atom(24), atom(4), atom(2)
    u.unify(rows, (3, *heads, *inner))
    q, rest = u.cut(rows, 8)
    k, v = u.cut(rest, 8)
    assert norm(q) == norm(k) == norm(v) == (one(heads), one(inner))
    kept = {one(heads): np.array([True, False, False, True])}
    assert mask(rows, kept).tolist() == [True, True, False, False, False, False, True, True] * 3
    assert not u.conflicts


def test_cutting_inside_a_run_freezes_what_is_cut() -> None:
    u, heads, inner = Unifier(), atom(4), atom(3)
    left, right = u.cut((*heads, *inner), 5)
    assert (left, right) == ((5,), (7,))
    assert is_const(norm(heads))
    assert is_const(norm(inner))
    assert "cut at 5, inside a run of 3" in u.conflicts[0].text


def test_a_concatenation_meets_a_product() -> None:
    u, a, b, rows, tail = Unifier(), atom(4), atom(8), atom(3), atom(4)
    u.unify(cat([a, b]), (*rows, *tail))
    assert not u.conflicts
    assert norm(a) == norm(tail)
    assert size(b) == 8
    assert one(tail) in set(atoms(b))
    kept = {one(tail): np.array([True, True, False, False])}
    assert np.array_equal(mask(cat([a, b]), kept), mask((*rows, *tail), kept))


def test_concatenations_with_other_boundaries_are_refined() -> None:
    u, a, b, c, d = Unifier(), atom(3), atom(5), atom(4), atom(4)
    u.unify(cat([a, b]), cat([c, d]))
    assert norm(cat([a, b])) == norm(cat([c, d]))
    assert [size((f,)) for f in atoms(cat([a, b]))] == [3, 1, 4] or [size((f,)) for f in atoms(cat([a, b]))] == [3, 4]
    kept = {free: np.arange(free.size) % 2 == 0 for free in atoms(cat([a, b]))}
    assert np.array_equal(mask(cat([a, b]), kept), mask(cat([c, d]), kept))
    assert not u.conflicts


def test_a_dimension_cannot_contain_itself() -> None:
    u, a, b = Unifier(), atom(6), atom(6)
    one_a = one(a)
    u.unify(a, cat([(2,), (4,)]))
    u = Unifier()
    a = atom(6)
    left, right = u.cut(a, 3)
    u.unify(left, right)  # both halves the same units
    assert norm(left) == norm(right)
    assert not u.conflicts
    free = Atom(4)
    u._bind(free, (Cat(((free,),)),))
    assert is_const(norm((free,))) or norm((free,)) == (free,)
    x = Atom(4)
    u._bind(x, (2, x))
    assert "contain itself" in u.conflicts[-1].text
    assert one_a.bound is not None
    assert b


def test_size_one_is_a_constant() -> None:
    assert atom(1) == const(1) == ()
    assert norm((1, 3, 1)) == (3,)
    assert norm((2, 3)) == (6,)
    assert size(()) == 1
    assert mask((), {}).tolist() == [True]


def test_neighbouring_constants_merge_and_nested_concatenations_flatten() -> None:
    a = atom(4)
    assert norm(cat([(2,), cat([(3,), a])])) == (Cat(((5,), a)),)
    assert norm(cat([a])) == a
    assert norm(cat([const(0), a, const(0)])) == a
    assert norm(cat([const(0)])) == (0,)


def test_a_padded_and_cropped_dimension_is_itself_again() -> None:
    u, a = Unifier(), atom(6)
    padded = cat([const(2), a, const(3)])
    _, rest = u.cut(padded, 2)
    middle, _ = u.cut(rest, 6)
    assert norm(middle) == a
    kept = {one(a): np.array([True, False] * 3)}
    assert mask(padded, kept).tolist() == [True, True, True, False, True, False, True, False, True, True, True]


def test_meeting_a_constant_freezes_with_the_operator() -> None:
    u, a = Unifier(), atom(6)
    u.here = Reason("", "aten.add", "layer1.0")
    free = one(a)
    u.unify((6,), a)
    assert norm(a) == (6,)
    assert free.reason == Reason("it meets a dimension of fixed size", "aten.add", "layer1.0")


@pytest.mark.parametrize(("left", "right"), [((6,), (3, 2)), ((4, 3), (3, 4)), ((6,), (8,))])
def test_conflicts_freeze_both_sides(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    u = Unifier()
    a, b = tuple(Atom(n) for n in left), tuple(Atom(n) for n in right)
    u.unify(a, b)
    if np.prod(left) != np.prod(right) or (left, right) == ((4, 3), (3, 4)):
        assert u.conflicts
        assert is_const(norm(a))
        assert is_const(norm(b))
    else:
        assert not u.conflicts
        assert norm(a) == norm(b)


def test_flags_follow_what_an_atom_becomes() -> None:
    u, a, heads, inner = Unifier(), atom(12), atom(3), atom(4)
    u.flag(a, "statistics")
    u.unify(a, (*heads, *inner))
    assert all("statistics" in free.flags for free in atoms((*heads, *inner)))


# Random terms


@st.composite
def dims(draw: st.DrawFn, pool: list[Atom], total: int, depth: int = 3) -> Dim:
    """A random dimension of a given size over a pool of atoms."""
    kind = draw(st.sampled_from(["atom", "const", "product", "cat"] if depth else ["atom", "const"]))
    if kind == "product":
        factors = [n for n in range(2, total) if total % n == 0]
        if factors:
            n = draw(st.sampled_from(factors))
            left, right = draw(dims(pool, n, depth - 1)), draw(dims(pool, total // n, depth - 1))
            return (*left, *right)
    if kind == "cat" and total > 1:
        at = draw(st.integers(1, total - 1))
        return cat([draw(dims(pool, at, depth - 1)), draw(dims(pool, total - at, depth - 1))])
    if kind == "const":
        return const(total)
    known = [a for a in pool if a.size == total]
    if known and draw(st.booleans()):
        return (draw(st.sampled_from(known)),)
    fresh = atom(total)
    pool.extend(atoms(fresh))
    return fresh


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Atom], list[Dim]]:
    """Some dimensions of equal size over shared atoms."""
    pool: list[Atom] = []
    total = draw(st.sampled_from([1, 2, 4, 6, 8, 12, 24]))
    return pool, [draw(dims(pool, total)) for _ in range(draw(st.integers(2, 4)))]


def kept_units(pool: list[Atom], seed: int) -> dict[Atom, np.ndarray]:
    draw = np.random.default_rng(seed)
    free = dict.fromkeys(a for p in pool for a in atoms((p,)))
    return {a: draw.random(a.size) < 0.5 for a in free}


@given(problems(), st.integers(0, 5))
def test_mask_size_and_labels_agree(problem: tuple[list[Atom], list[Dim]], seed: int) -> None:
    pool, given_dims = problem
    kept = kept_units(pool, seed)
    for dim in given_dims:
        line = mask(dim, kept)
        assert len(line) == size(dim)
        assert line.sum() == size(dim, {a: int(k.sum()) for a, k in kept.items()})
        for free in set(atoms(dim)):
            only = mask(dim, {free: kept[free]})
            own = labels(dim, free)
            assert len(own) == size(dim)
            if list(atoms(dim)).count(free) == 1:
                assert np.array_equal(only, np.where(own < 0, True, kept[free][own]))
        assert norm(norm(dim)) == norm(dim)


@given(problems(), st.integers(0, 5))
def test_unified_dimensions_are_cut_alike(problem: tuple[list[Atom], list[Dim]], seed: int) -> None:
    pool, given_dims = problem
    u = Unifier()
    sizes = [size(d) for d in given_dims]
    for other in given_dims[1:]:
        u.unify(given_dims[0], other)
    kept = kept_units(pool, seed)
    lines = [mask(d, kept) for d in given_dims]
    assert [size(d) for d in given_dims] == sizes == [len(line) for line in lines]
    for line in lines[1:]:
        assert np.array_equal(line, lines[0]) or u.conflicts
    if u.conflicts:  # frozen on both sides: no cut can tell them apart
        assert all(line.all() == lines[0].all() for line in lines)


@given(problems(), st.data())
def test_a_cut_dimension_is_its_parts_end_to_end(problem: tuple[list[Atom], list[Dim]], data: st.DataObject) -> None:
    pool, (dim, *_) = problem
    u = Unifier()
    at = data.draw(st.integers(0, size(dim)))
    left, right = u.cut(dim, at)
    assert (size(left), size(right)) == (at, size(dim) - at)
    kept = kept_units(pool, 1)
    assert np.array_equal(mask(cat([left, right]), kept), mask(dim, kept))
