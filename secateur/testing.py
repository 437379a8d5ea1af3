"""For those who write rules, or want to know whether their model can be trusted to the graph.

>>> import torch
>>> from secateur.graph.rules import rule
>>> from secateur.testing import check_rule
>>> @rule("my_library::scale_channels")
... def scale_channels(terms, call):
...     terms.unify(call["x"].dims[1], call["scale"].dims[0])
...     return [call["x"].dims]
>>> check_rule(torch.ops.my_library.scale_channels, x=torch.randn(2, 8, 4), scale=torch.randn(8)).free
{'x[0]': 2, 'x[1]': 8, 'x[2]': 4, 'scale[0]': 8}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from secateur.errors import SecateurError
from secateur.graph.discovery import groups
from secateur.graph.rules import Terms, apply
from secateur.graph.solution import Solution
from secateur.graph.terms import Atom, Dim, atoms, first_reason, is_const, mask, norm, size
from secateur.graph.trace import Recording, record
from secateur.graph.units import Groups
from secateur.planning import Plan
from secateur.surgery.replay import replay
from secateur.surgery.slim import slim

Keep = dict[Atom, NDArray[np.bool_]]


class RuleError(SecateurError, AssertionError):
    """A rule that claims what its operator does not do."""


@dataclass(frozen=True)
class Claim:
    """What the rules say about one call, as far as it was found true.

    `free`: "argument[dimension]" -> units that can be removed. `frozen`: the same -> why it must keep its size.
    `statistics`: those of the free ones on whose number the result depends. `trials`: how many cuts were compared.
    """

    free: dict[str, int]
    frozen: dict[str, str]
    statistics: tuple[str, ...]
    trials: int


def check_rule(
    function: Callable[..., Any], *args: Any, trials: int = 10, seed: int = 0, tolerance: float = 1e-9, **kwargs: Any
) -> Claim:
    """What the rules claim about `function(*args, **kwargs)`, after random cuts found it true.

    `function` is an operator or any function of tensors; all tensors among its arguments are cut. The law: with other
    numbers at the removed entries, or zeros where the operator sums over them, the kept entries of the result are what
    the operator gives on the kept entries alone, with sizes as the rules say. Where a result depends on how many units
    there are (norms, softmax, means), its sizes alone are compared. Raises `RuleError` for an operator without a rule,
    and for a claim that does not hold.
    """
    held = Held(function, *args, **kwargs)
    recording = record(held, ((), {}))
    terms = _solved(recording)
    if terms.unknown:
        told = ", ".join(terms.unknown)
        raise RuleError(
            f"There is no rule for {told}, or it gives dimensions of other sizes than the results have. "
            "Write one with @rule('namespace::name')."
        )
    dims = {leaf.name: [norm(d) for d in leaf.value.dims or ()] for leaf in recording.own()}
    free = dict.fromkeys(a for own in dims.values() for d in own for a in atoms(d))
    draw = np.random.default_rng(seed)
    done = 0
    for _ in range(trials if free else 0):
        exact = _drawn([a for a in free if "statistics" not in a.flags], terms, draw)
        done += _compare(held, recording, terms, dims, exact, draw, tolerance)
        _compare_sizes(held, recording, dims, _drawn(list(free), terms, draw))
    return Claim(
        free={place: size(d) for place, d in _places(dims) if not is_const(d)},
        frozen={place: _why(d) for place, d in _frozen(recording)},
        statistics=tuple(p for p, d in _places(dims) if any("statistics" in a.flags for a in atoms(d))),
        trials=done,
    )


def check_model(model: nn.Module, example: Any = None, *, trials: int = 2, share: float = 0.5, seed: int = 0) -> Groups:
    """The groups of `model`, after random cuts of about `share` of every group were proven.

    Raises `ProofError` where nothing could be proven, `RuleError` that names the groups whose cut could not.
    """
    draw = torch.Generator().manual_seed(seed)
    found = groups(model, example)
    before = {group.name for group in found}
    for _ in range(trials):
        counts = found.balance({g.name: max(g.minimum, round(g.units * (1 - share))) for g in found})
        keep = {g.name: torch.randperm(g.units, generator=draw)[: counts[g.name]].sort().values for g in found}
        slim(found, Plan.of(found, keep))
    lost = before - {group.name for group in found}
    if lost:
        told = "; ".join(f"{f.name}: {f.reason}" for f in found.frozen if f.name in lost)
        raise RuleError(f"{len(lost)} of {len(before)} groups could not be proven. {told}")
    return found


class Held(nn.Module):
    """A call with its tensors in float64 as attributes, so that it can be recorded like a model."""

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self._function = function
        named = {**{str(i): value for i, value in enumerate(args)}, **kwargs}
        held = {name: self._hold(name, value) for name, value in named.items()}
        self._arguments = ([held[str(i)] for i in range(len(args))], {name: held[name] for name in kwargs})

    def _hold(self, name: str, value: Any) -> Any:
        """The value with its tensors replaced by the names of attributes."""
        found: list[str] = []

        def keep(tensor: Tensor) -> Name:
            place = Name(f"tensor_{name}" + f"_{len(found)}" * bool(found))
            found.append(place.text)
            setattr(self, place.text, tensor.double() if tensor.is_floating_point() else tensor)
            return place

        return tree_map_only(Tensor, keep, value)

    def forward(self) -> Any:
        """The call on the tensors that are held now."""
        args, kwargs = tree_map_only(Name, lambda name: getattr(self, name.text), self._arguments)
        return self._function(*args, **kwargs)


@dataclass(frozen=True)
class Name:
    """The name of an attribute, told from strings that are arguments."""

    text: str


def _solved(recording: Recording) -> Terms:
    """The terms after every rule has spoken; results stay free, for nothing follows them."""
    terms = Terms()
    for leaf in recording.own():
        assert leaf.value.dims is not None
        terms.leaf_dims[leaf.name] = leaf.value.dims
    for call in recording.calls:
        apply(terms, call)
    return terms


def _places(dims: Mapping[str, list[Dim]]) -> list[tuple[str, Dim]]:
    return [(f"{name.removeprefix('tensor_')}[{i}]", d) for name, own in dims.items() for i, d in enumerate(own)]


def _frozen(recording: Recording) -> list[tuple[str, Dim]]:
    raw = {leaf.name: leaf.value.dims or [] for leaf in recording.own()}
    return [(place, d) for place, d in _places(raw) if is_const(norm(d)) and size(d) > 1]


def _why(dim: Dim) -> str:
    reason = first_reason(dim)
    return reason.text if reason else "it is fixed"


def _drawn(free: list[Atom], terms: Terms, draw: np.random.Generator) -> Keep:
    """Random kept units, with equal sizes where the rules ask for them."""
    names = {str(i): found for i, found in enumerate(free)}
    solution = Solution(Recording([], [], []), terms, {}, atom_of=names, equal=terms.equal)
    wanted = {name: int(draw.integers(1, found.size)) for name, found in names.items()}
    keep: Keep = {}
    for name, count in solution.balance(wanted).items():
        keep[names[name]] = np.zeros(names[name].size, dtype=bool)
        keep[names[name]][draw.permutation(names[name].size)[:count]] = True
    return {found: kept for found, kept in keep.items() if not kept.all()}


def _compare(
    held: Held,
    recording: Recording,
    terms: Terms,
    dims: Mapping[str, list[Dim]],
    keep: Keep,
    draw: np.random.Generator,
    tolerance: float,
) -> bool:
    """Hold kept entries of the whole result against the result of kept entries; false where nothing was cut."""
    if not keep:
        return False
    tensors = {name: getattr(held, name) for name in dims}
    summed = _summed(recording, terms)
    whole = replay(recording, {name: _filled(t, dims[name], keep, summed, draw) for name, t in tensors.items()}, [])
    small = _replayed(recording, {name: _cut(t, dims[name], keep) for name, t in tensors.items()}, keep)
    for full, value, got in zip(whole, recording.outputs, small, strict=True):
        _require_shape(recording, full, [size(d) for d in value.dims or ()])
        expected = _cut(full, [norm(d) for d in value.dims or ()], keep)
        _require_shape(recording, got, list(expected.shape))
        scale = max(float(expected.abs().max()), 1e-30) if expected.numel() else 1.0
        off = float((expected.double() - got.double()).abs().max()) / scale if expected.numel() else 0.0
        if not off <= tolerance:
            raise RuleError(f"{_told(recording)}: kept entries differ by {off:.1e} (relative) from what remains alone.")
    return True


def _compare_sizes(held: Held, recording: Recording, dims: Mapping[str, list[Dim]], keep: Keep) -> None:
    """See that the call runs on kept entries and gives results of the sizes claimed."""
    tensors = {name: _cut(getattr(held, name), dims[name], keep) for name in dims}
    counts = {found: int(kept.sum()) for found, kept in keep.items()}
    for value, got in zip(recording.outputs, _replayed(recording, tensors, keep), strict=True):
        _require_shape(recording, got, [size(d, counts) for d in value.dims or ()])


def _require_shape(recording: Recording, found: Tensor, claimed: list[int]) -> None:
    if list(found.shape) != claimed:
        raise RuleError(f"{_told(recording)}: a result has shape {list(found.shape)}, where {claimed} is claimed.")


def _replayed(recording: Recording, tensors: Mapping[str, Tensor], keep: Keep) -> list[Tensor]:
    try:
        return replay(recording, tensors, [], {found: int(kept.sum()) for found, kept in keep.items()})
    except Exception as error:
        shapes = {name.removeprefix("tensor_"): list(t.shape) for name, t in tensors.items()}
        raise RuleError(f"{_told(recording)}: cut to {shapes}, it raised {type(error).__name__}: {error}") from error


def _told(recording: Recording) -> str:
    operators = dict.fromkeys(str(call.func) for call in recording.calls)
    return f"The rules of {', '.join(operators)} do not hold"


def _summed(recording: Recording, terms: Terms) -> set[Atom]:
    """The atoms over which something is summed: their removed entries count as zero."""
    left = {a for value in recording.outputs for d in value.dims or () for a in atoms(d)}
    everywhere = {a for own in terms.leaf_dims.values() for d in own for a in atoms(d)}
    contracted = {a for name, axis in terms.contracted for a in atoms(terms.leaf_dims[name][axis])}
    return (everywhere - left) | contracted | {a for a in everywhere if "sum" in a.flags}


def _filled(tensor: Tensor, dims: list[Dim], keep: Keep, summed: set[Atom], draw: np.random.Generator) -> Tensor:
    """The tensor with other numbers at removed entries, and zeros where they are summed over."""
    if not tensor.is_floating_point():
        return tensor
    noise = torch.from_numpy(3 * draw.standard_normal(tuple(tensor.shape))).to(tensor)
    result = tensor.clone()
    for axis, dim in enumerate(dims):
        lines = {
            zero: torch.from_numpy(mask(dim, {a: k for a, k in keep.items() if (a in summed) is zero}))
            for zero in (False, True)
        }
        shape = [-1 if i == axis else 1 for i in range(tensor.dim())]
        result = torch.where(lines[False].view(shape), result, noise)
        noise = torch.where(lines[True].view(shape), noise, 0.0)
        result = torch.where(lines[True].view(shape), result, 0.0)
    return result


def _cut(tensor: Tensor, dims: list[Dim], keep: Keep) -> Tensor:
    for axis, dim in enumerate(dims):
        tensor = tensor.index_select(axis, torch.from_numpy(np.flatnonzero(mask(dim, keep))))
    return tensor
