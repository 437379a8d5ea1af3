"""From any model and one example input to its groups: which slices of which tensors must leave together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import partial
from itertools import chain, product
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateur.errors import InputError, TraceError
from secateur.graph import rules
from secateur.graph.cost import StructuralCost
from secateur.graph.eager import eagerly
from secateur.graph.garbage import only_new
from secateur.graph.probing import probe
from secateur.graph.solution import Solution
from secateur.graph.terms import Atom, Cat, Dim, Reason, atoms, first_reason, is_const, labels, norm, size
from secateur.graph.trace import Inputs, Leaf, Recording, Value, named_tensors, normalise, record
from secateur.graph.units import Follow, Frozen, Group, Groups, Member, Proof, Slices

KERNEL = "it is a kernel or an image size"
PARTS = ("slice", "split", "split_with_sizes", "select")  # operators that leave entries aside


def solve(recording: Recording, terms: rules.Terms) -> None:
    """Give every value of the recording its dimensions and freeze what the run returns."""
    for leaf in recording.own():
        assert leaf.value.dims is not None
        terms.leaf_dims[leaf.name] = leaf.value.dims
    terms.unused = _unused(recording)
    for call in recording.calls:
        rules.apply(terms, call)
    terms.here = Reason("", "output", "")
    for value in recording.outputs:
        for dim in value.dims or () if id(value) not in recording.memory else ():
            terms.freeze(dim, "it is an output of the model")


def _unused(recording: Recording) -> set[int]:
    """The ids of values that neither a result nor anything written in place depends on."""
    used = {id(value) for value in recording.outputs}
    for call in reversed(recording.calls):
        if call.func._schema.is_mutable or any(id(value) in used for value in call.outs):
            used |= {id(value) for value in call.tensors()}
    return {id(value) for call in recording.calls for value in call.outs} - used


@eagerly()
@only_new()
def groups(
    model: nn.Module,
    example: Any = None,
    *,
    heads: Literal["whole", "inner"] = "whole",
    outputs: Collection[str] | None = None,
    follow: Follow = "code",
) -> Groups:
    """The groups of coupled slices of `model`, found by one run on `example`.

    `example` is a tensor, a tuple of positional arguments or a dict of keyword arguments. `heads` says which factor of
    a product is prunable where a dimension is heads x head size: whole heads, or the inner size. `outputs` names the
    results that must keep their widths, of a model that returns them by name: `["logits"]`; left out, all but those
    that go back into the model, as a cache does. Raises `InputError` for an example that is missing, on another device
    or of another kind, and `TraceError` with the model's own error where the forward fails.

    >>> found = secateur.groups(torchvision.models.resnet18(), torch.randn(1, 3, 224, 224))
    >>> found[0]
    Group('conv1', units=64, members=..., proof='exact')
    """
    model = unwrap(model)
    inputs = normalise(example)
    wanted = [outputs] if isinstance(outputs, str) else outputs
    recording = record(model, inputs, wanted=wanted)
    terms = rules.Terms()
    solve(recording, terms)
    dims = {leaf.name: leaf.value.dims or [] for leaf in recording.own()}
    second = _second_look(model, inputs, recording, terms, dims, wanted) if follow == "code" else None
    seen = [recording, second] if second else [recording]
    reached = set[str]().union(*map(_reached, seen))
    unreached = [leaf.name for leaf in recording.own() if leaf.name not in reached]
    for name in unreached:
        del dims[name]
    _freeze_the_unread(seen, terms, dims)
    attempt = partial(_attempt, model, inputs, seen, terms, dims, heads=heads, follow=follow)
    best, closed = attempt(closed={})
    fallen = closed
    while fallen:
        other, fallen = attempt(closed=closed)
        if _floor(other) >= _floor(best):
            break
        best, closed = other, closed | fallen
    parameters = {name for name, _ in model.named_parameters()}
    best.unreached = tuple(name for name in unreached if name in parameters)
    return best


def _freeze_the_unread(seen: list[Recording], terms: rules.Terms, dims: Mapping[str, list[Dim]]) -> None:
    """Freeze entries of tables that only longer inputs than the example would read: nothing shows what they are for.

    Entries are read where they meet anything but the model's own tensors, or are summed over.
    """
    calls = [call for recording in seen for call in recording.calls]
    if not any(call.op in PARTS and all(v.leaves for v in call.tensors()) for call in calls):
        return
    read: set[Atom] = set()
    for call in calls:
        given, made = _atoms_of(call.tensors()), _atoms_of(call.outs)
        if not all(v.leaves for v in call.tensors()):
            read |= given | made
        elif call.op not in PARTS:
            read |= given - made
    terms.here = Reason("")
    for found in {a for own in dims.values() for d in own for a in atoms(d)} - read:
        terms.freeze((found,), "the run on the example reads none of its entries")


def _atoms_of(values: Iterable[Value]) -> set[Atom]:
    return {found for value in values for d in value.dims or () for found in atoms(d)}


def _attempt(
    model: nn.Module,
    inputs: Inputs,
    seen: list[Recording],
    terms: rules.Terms,
    dims: dict[str, list[Dim]],
    *,
    heads: str,
    follow: Follow,
    closed: Mapping[Atom, str],
) -> tuple[Groups, dict[Atom, str]]:
    """The groups over one choice of factors; and those that turned out not to be prunable though others wait, and why.

    `seen` are the recordings, the second in training mode if there is one. `closed` atoms are not chosen: where heads
    cannot be cut, the size of a head may.
    """
    recording = seen[0]
    solution = Solution(recording, terms, dims, equal=list(terms.equal), second=seen[1] if len(seen) > 1 else None)
    chosen, frozen, rivals = _choose(recording, dims, heads, closed)
    pairs = list(zip(_build(recording, terms, dims, chosen), chosen, strict=True))
    items = tuple(g for g, _ in pairs if not _is_fixed(g))
    tables = (g for g, _ in pairs if _is_fixed(g) and any(not m.buffer for m in g.members))
    frozen += [Frozen(g.name, g.units, "a fixed table alone makes its units") for g in tables]
    solution.atom_of = {g.name: found for g, found in pairs if g in items}
    asked = dict(solution.atom_of)
    result = Groups(
        kind="slices",
        model=model,
        items=items,
        cost_model=StructuralCost(recording, solution),
        frozen=tuple(frozen),
        unknown=tuple(f"{op} in '{where}'" for op, where in terms.unknown.items()),
        inputs=inputs,
        solution=solution,
        follow=follow,
    )
    stopped = probe(model, solution, inputs, {g.name: g.minimum for g in items}) if follow == "code" else {}
    for name, reason in stopped.items():
        result.freeze(name, Frozen(name, result[name].units, reason.text, reason.operator, reason.module))
    _freeze_the_held(result)
    why = {f.name: f.reason for f in result.frozen}
    return result, {found: why[name] for name, found in asked.items() if name in why and found in rivals}


def _is_fixed(group: Group) -> bool:
    """Whether buffers alone make a group's units, or hold it altogether."""
    made = [m for m in group.members if m.role == "producer" and not m.buffer]
    return not made and any(m.buffer for m in group.members)


def _floor(found: Groups) -> int:
    """How few parameters can remain."""
    return found.cost(found.balance({g.name: g.minimum for g in found})).params


def _freeze_the_held(found: Groups) -> None:
    """Take out groups that can never shrink: equalities tie them to a width that cannot change, or they are minimal."""
    floor = found.balance({g.name: g.minimum for g in found})
    for group in found.items:
        if floor[group.name] == group.units:
            tied = "the module's own code ties it to a width that cannot change"
            few = f"it has {group.units} units in a dimension composed of several, and so many must stay"
            found.freeze(group.name, Frozen(group.name, group.units, few if group.minimum == group.units else tied))


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module inside a compiled or data-parallel one."""
    if not isinstance(model, nn.Module):
        raise InputError(f"The 'model' parameter must be a torch.nn.Module. Got {type(model).__name__} instead.")
    for attribute in ("_orig_mod", "module"):
        inner = model._modules.get(attribute)
        if (
            inner is not None
            and len(model._modules) == 1
            and (attribute == "_orig_mod" or "Parallel" in type(model).__name__)
        ):
            return unwrap(inner)
    return model


def _second_look(
    model: nn.Module,
    inputs: Inputs,
    recording: Recording,
    terms: rules.Terms,
    dims: dict[str, list[Dim]],
    wanted: Collection[str] | None,
) -> Recording | None:
    """A run in training mode, over the same units, where evaluation leaves parameters aside that training reaches.

    So auxiliary heads follow the network they hang on. None where evaluation reaches all, or training cannot run.
    """
    reached = _reached(recording)
    if all(leaf.name in reached for leaf in recording.own() if leaf.kind == "parameter"):
        return None
    try:
        second = record(model, inputs, training=True, dims=dims, wanted=wanted)
    except (TraceError, RuntimeError):
        return None
    if _reached(second) <= reached:
        return None
    solve(second, terms)
    return second


def _reached(recording: Recording) -> set[str]:
    used = {id(v) for call in recording.calls for v in call.tensors()} | {id(v) for v in recording.outputs}
    return {leaf.name for leaf in recording.own() if id(leaf.value) in used}


def _known(recording: Recording, dims: Mapping[str, list[Dim]]) -> list[Leaf]:
    return [leaf for leaf in recording.own() if leaf.name in dims]


def _choose(
    recording: Recording, dims: Mapping[str, list[Dim]], heads: str, closed: Mapping[Atom, str]
) -> tuple[list[Atom], list[Frozen], set[Atom]]:
    """The atoms that become groups, one for each product, in order of appearance; and what is frozen, with reasons.

    Last, the atoms for which others were left out.
    """
    seen: dict[Atom, str] = {}
    rivals: list[list[Atom]] = []
    frozen: list[Frozen] = []
    repeated: set[Atom] = set()
    for leaf in _known(recording, dims):
        for axis, dim in enumerate(dims[leaf.name]):
            d = norm(dim)
            for factors in _products(d):
                if len(set(factors)) > 1:
                    rivals.append(factors)
                repeated |= {a for a in factors if factors.count(a) > 1}
            for found in atoms(d):
                seen.setdefault(found, f"{leaf.name}[{axis}]")
            if is_const(d) and leaf.kind == "parameter" and (reason := _why(dim)) and reason[0] != KERNEL:
                frozen.append(Frozen(f"{leaf.name}[{axis}]", size(d), *reason))
    dropped: dict[Atom, str] = dict.fromkeys(repeated, "its units meet each other in one dimension")
    dropped |= closed
    preferred: set[Atom] = set()
    for rival in rivals:
        open_ = [a for a in dict.fromkeys(rival) if a not in dropped]
        if len(open_) > 1:
            best = open_[-1] if heads == "inner" else next((a for a in open_ if a.size >= 3), open_[-1])
            preferred.add(best)
            for other in open_:
                if other is not best:
                    dropped[other] = "it is one factor of a dimension whose other factor is pruned (heads or head size)"
    for lost, text in dropped.items():
        frozen.append(Frozen(seen.get(lost, ""), lost.size, text))
    return [a for a in seen if a not in dropped], frozen, preferred


def _why(dim: Dim) -> tuple[str, str, str] | None:
    reason = first_reason(dim)
    return (reason.text, reason.operator, reason.module) if reason else None


def _products(dim: Dim) -> Iterable[list[Atom]]:
    """The free atoms that multiply each other in a normed dimension; parts of a Cat with what multiplies the Cat."""
    outer: list[Atom] = []
    nested: list[list[list[Atom]]] = []
    for factor in dim:
        if isinstance(factor, Atom):
            outer.append(factor)
        elif isinstance(factor, Cat):
            nested.append([p for part in factor.parts for p in _products(part)])
    order = {a: i for i, a in enumerate(dict.fromkeys(atoms(dim)))}  # by first place: parts may share an outer factor
    choices = [parts for parts in nested if parts]
    if not choices:
        return [outer] if outer else []
    combined = ([*outer, *chain(*inner)] for inner in product(*choices))
    return [sorted(found, key=order.__getitem__) for found in combined]


def _build(recording: Recording, terms: rules.Terms, dims: Mapping[str, list[Dim]], chosen: list[Atom]) -> list[Group]:
    members: dict[Atom, list[Member]] = {a: [] for a in chosen}
    multiple: dict[Atom, int] = {}
    product: set[Atom] = set()
    lines: dict[Dim, dict[Atom, Tensor]] = {}  # a layer's tensors share their dimensions: each is spelled out once
    for leaf in _known(recording, dims):
        for axis, dim in enumerate(dims[leaf.name]):
            d = norm(dim)
            if d not in lines:
                own_atoms = dict.fromkeys(a for a in atoms(d) if a in members)
                lines[d] = {a: torch.from_numpy(labels(d, a)) for a in own_atoms}
            for found, line in lines[d].items():
                members[found].append(_member(leaf, axis, line, found, terms))
                share = int((line >= 0).sum()) // found.size
                multiple[found] = min(multiple.get(found, share), share)
                if len(d) > 1:
                    product.add(found)
    used: dict[str, int] = {}
    items = []
    for found in chosen:
        own = members[found]
        name = _name(own, {tensor for tensor, _ in terms.contracted})
        used[name] = used.get(name, 0) + 1
        items.append(
            Group(
                name=name if used[name] == 1 else f"{name}/{used[name]}",
                units=found.size,
                members=tuple(own),
                proof=_proof(found),
                minimum=min(2, found.size) if found in product else 1,
                multiple=multiple[found],
                modules=tuple(dict.fromkeys(m.name.rpartition(".")[0] for m in own)),
            )
        )
    return items


def _proof(found: Atom) -> Proof:
    return "kept statistics" if "statistics" in found.flags else "exact"


def _member(leaf: Leaf, axis: int, line: Tensor, found: Atom, terms: rules.Terms) -> Member:
    return Slices(
        name=leaf.name,
        shape=leaf.value.shape,
        units=found.size,
        role="consumer" if (leaf.name, axis) in terms.contracted else "producer",
        buffer=leaf.kind != "parameter",
        dim=axis,
        labels=line,
    )


def _name(members: list[Member], weights: set[str]) -> str:
    """The module of the first weight matrix that makes the units; of the first member where there is none."""
    makers = [m for m in members if m.role == "producer" and m.name in weights]
    first = (makers or [m for m in members if m.role == "producer"] or members)[0]
    path, _, tensor = first.name.rpartition(".")
    return path if tensor == "weight" and path else first.name


def check_finite(model: nn.Module) -> None:
    """Raise `InputError` naming the first parameter that holds NaN or infinity; in buffers these can be meant."""
    for name, (kind, tensor) in named_tensors(model).items():
        if kind != "parameter" or not tensor.is_floating_point() or bool(torch.isfinite(tensor.detach().sum())):
            continue  # a sum is finite only if every term is, and takes half the time
        if not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise InputError(
                f"'{name}' holds {bad} values that are NaN or infinite; scores and proofs need finite weights."
            )
