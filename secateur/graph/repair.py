"""Mending the numbers that a module keeps about its own shapes, without knowing any library.

Layers of torch keep theirs under known names. Everything else is found by running the cut module beside the recording:
at the first deviation the integers of the modules at work are compared with the sizes around it; a change is kept if
the run then gets further. What was learned is kept as terms, so that it holds for any other plan. Where the module's
own code ties two widths together (`reshape(B, N, C)` with `C` read from another tensor), the equality is learned
instead and units are restored.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm

from secateur.graph.terms import Atom, Cat, Dim, atoms, norm, size
from secateur.graph.trace import Call

Number: TypeAlias = "int | tuple[int, ...] | list[int]"


def _vector(module: Any) -> Any:
    return module.weight if module.weight is not None else module.running_mean


def _convolution(module: Any) -> dict[str, Any]:
    first, second = module.weight.shape[:2]
    inner, outer = (first, second * module.groups) if module.transposed else (second * module.groups, first)
    return {"in_channels": inner, "out_channels": outer}


def _recurrent(module: Any) -> dict[str, Any]:
    rows, columns = module.weight_ih_l0.shape
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    projected = {"proj_size": module.weight_hh_l0.shape[1]} if module.proj_size else {}
    return {"input_size": columns, "hidden_size": rows // gates, **projected}


def _attention(module: Any) -> dict[str, Any]:
    packed = module.in_proj_weight
    first, second, third = (packed,) * 3 if packed is not None else (
        module.q_proj_weight, module.k_proj_weight, module.v_proj_weight
    )  # fmt: skip
    width = first.shape[1]
    sizes = {"embed_dim": width, "kdim": second.shape[1], "vdim": third.shape[1]}
    return {**sizes, "head_dim": width // module.num_heads}


STANDARD: dict[type[nn.Module], Callable[[Any], dict[str, Any]]] = {
    nn.Linear: lambda m: {"in_features": m.weight.shape[1], "out_features": m.weight.shape[0]},
    nn.Bilinear: lambda m: dict(zip(("out_features", "in1_features", "in2_features"), m.weight.shape, strict=True)),
    nn.Embedding: lambda m: {"num_embeddings": m.weight.shape[0], "embedding_dim": m.weight.shape[1]},
    nn.LayerNorm: lambda m: {} if m.weight is None else {"normalized_shape": tuple(m.weight.shape)},
    nn.RMSNorm: lambda m: {} if m.weight is None else {"normalized_shape": tuple(m.weight.shape)},
    nn.GroupNorm: lambda m: {} if m.weight is None else {"num_channels": m.weight.shape[0]},
    nn.modules.batchnorm._NormBase: lambda m: {} if _vector(m) is None else {"num_features": len(_vector(m))},
    nn.modules.conv._ConvNd: _convolution,
    nn.RNNBase: _recurrent,
    nn.RNNCellBase: lambda m: {"input_size": m.weight_ih.shape[1], "hidden_size": m.weight_hh.shape[1]},
    nn.MultiheadAttention: _attention,
    nn.PReLU: lambda m: {"num_parameters": m.weight.shape[0]},
}


GEOMETRY = ("training", "stride", "padding", "dilation", "kernel_size")


@dataclass(frozen=True)
class Repair:
    """An attribute that holds sizes: `value` of `attribute` (dotted, from the module at `module`) follows `dims`."""

    module: str
    attribute: str
    dims: Dim | tuple[Dim, ...]
    kind: type

    def value(self, counts: Mapping[Atom, int]) -> Number:
        """What the attribute must be when each atom has `counts[atom]` units left."""
        if self.kind is int:
            return size(self.dims, counts)  # type: ignore[arg-type]
        return self.kind(size(d, counts) for d in self.dims)  # type: ignore[no-any-return, arg-type]


def set_attribute(module: nn.Module, attribute: str, value: Number) -> None:
    """Set a dotted attribute: `"num_heads"`, `"config.hidden_size"`.

    Configurations are shared by all modules of a model, whose widths may differ: the module gets one of its own.
    """
    *path, name = attribute.split(".")
    owner: Any = module
    for part in path:
        own = copy.copy(getattr(owner, part))
        setattr(owner, part, own)
        owner = own
    setattr(owner, name, value)


def get_attribute(module: nn.Module, attribute: str) -> Any:
    """The value of a dotted attribute."""
    owner: Any = module
    for part in attribute.split("."):
        owner = getattr(owner, part)
    return owner


def standard(model: nn.Module, calls: list[Call], counts: Mapping[Atom, int]) -> list[tuple[str, str, Number]]:
    """Bring torch's own layers in line with their tensors; returns what was set as (module, attribute, value)."""
    done: list[tuple[str, str, Number]] = []
    modules = dict(model.named_modules())
    for call in calls:
        for attribute, term in _stated(call):
            owner = modules[call.module]
            if attribute == "num_features" and not _is_bare(owner):
                continue
            if not isinstance(getattr(owner, attribute, None), int):
                continue
            if size(term) == getattr(owner, attribute) != size(term, counts):
                done.append((call.module, attribute, size(term, counts)))
                setattr(owner, attribute, size(term, counts))
    for path, module in modules.items():
        for facts in _standing(type(module)):  # type: ignore[arg-type] # classes are hashable
            for attribute, value in facts(module).items():
                if getattr(module, attribute, value) != value:
                    setattr(module, attribute, value)
                    done.append((path, attribute, value))
    return done


@cache
def _standing(kind: type[nn.Module]) -> tuple[Callable[[Any], dict[str, Any]], ...]:
    """What tells the standard attributes of a class of layers."""
    return tuple(facts for known, facts in STANDARD.items() if issubclass(kind, known))


def _stated(call: Call) -> Iterator[tuple[str, Dim]]:
    """The attributes of torch's own layers that a call speaks of, with what they follow."""
    for argument, attribute in (("groups", "groups"), ("group", "num_groups")):
        if argument in call.resize:
            yield attribute, call.resize[argument]
    dims = call["self"].dims if call.op == "view" else None
    if dims is not None and len(dims) > 1:  # batch and channels become one
        yield "num_features", dims[1]


def _is_bare(module: nn.Module) -> bool:
    """Whether a layer normalises instances without any tensor that would tell its width."""
    return isinstance(module, _InstanceNorm) and _vector(module) is None


def integers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The attributes of a module that hold an integer, or several, but standard ones; then its configuration's."""
    standing = _standing(type(module))  # type: ignore[arg-type]
    known = {*GEOMETRY, *(name for facts in standing for name in facts(module))}
    own = {name: value for name, value in vars(module).items() if not name.startswith("_") and name not in known}
    yield from ((name, value) for name, value in own.items() if _is_number(value))
    for name, value in own.items():
        if type(value).__name__.endswith("Config") and hasattr(value, "__dict__"):
            yield from ((f"{name}.{k}", v) for k, v in vars(value).items() if not k.startswith("_") and _is_number(v))


def _is_number(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return bool(value) and type(value) in (tuple, list) and all(type(v) is int for v in value)
    return type(value) is int


def sub_products(dim: Dim) -> Iterator[Dim]:
    """All sizes that code may speak of: runs of neighbouring factors, parts and prefixes of Cats."""
    d = norm(dim)
    for start in range(len(d)):
        for end in range(len(d), start, -1):
            run = d[start:end]
            if any(True for _ in atoms(run)):
                yield run
    for factor in d:
        if isinstance(factor, Cat):
            for i, part in enumerate(factor.parts):
                yield from sub_products(part)
                if 0 < i < len(factor.parts) - 1:
                    yield (Cat(factor.parts[: i + 1]),)


def dims_of(call: Call) -> Iterator[Dim]:
    """Every dimension that a call mentions: results, operands, sizes in its arguments."""
    for value in (*call.outs, *call.tensors()):
        yield from value.dims or ()
    for dims in call.resize.values():
        yield from dims if isinstance(dims, list) else (dims,)


def renamings(
    calls: list[Call], counts: Mapping[Atom, int], extra: list[Dim] | None = None
) -> dict[int, dict[int, Dim]]:
    """Sizes around some calls that change: old size -> new size -> the term, nearest call first."""
    table: dict[int, dict[int, Dim]] = {}
    seen: set[Dim] = set()
    sources = [d for call in calls for d in dims_of(call)] + (extra or [])
    for dim in sources:
        for run in sub_products(dim):
            if run in seen:
                continue
            seen.add(run)
            old, new = size(run), size(run, counts)
            if old != new:
                table.setdefault(old, {}).setdefault(new, run)
    return table
