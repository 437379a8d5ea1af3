"""Unstructured units: every weight for itself, or blocks of weights.

Removing them changes no shape, so nothing is coupled and no trace is needed: every group is one parameter. Their
budget counts weights; the multiply-accumulates of a dense kernel stay, and those that meet a weight left non-zero are
reported beside them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from secateur.errors import InputError
from secateur.graph.cost import Cost, CostModel, mac_terms
from secateur.graph.naming import select
from secateur.graph.terms import const, size
from secateur.graph.trace import Inputs, Recording, Value, normalise, record
from secateur.graph.units import Blocks, Frozen, Group, Groups

Patterns = str | nn.Module | Iterable[str | nn.Module]

# Operators after which a weight is still the same numbers.
VIEWS = {
    "alias",
    "detach",
    "expand",
    "permute",
    "reshape",
    "squeeze",
    "t",
    "transpose",
    "_unsafe_view",
    "unsqueeze",
    "view",
}
PARTS = {"select", "slice", "split", "split_with_sizes", "unbind"}
COPIES = {"clone", "contiguous", "_to_copy"}


def elements(
    model: nn.Module, example: Any = None, *, include: Patterns | None = None, exclude: Patterns = ()
) -> Groups:
    """Groups whose units are single weights, one group for each parameter; tied parameters appear once.

    Taken are the weights of convolutions, linear layers, embeddings and attention: parameters of two dimensions or
    more. Norm weights, biases and other vectors stay as they are and are listed in `frozen`. `include` narrows that
    choice and `exclude` takes away from it; both hold modules, names, shell patterns or `"re:..."` of modules and
    parameters.

    `example` is what the model is called with. It is needed for multiply-accumulates alone: without it, all MACs are 0.
    Raises `InputError` for patterns that match nothing, a model without such parameters, and parameters not yet
    initialised.

    >>> groups = elements(model, exclude=["fc"])
    >>> sparse = masked(groups, plan(groups, budget="10% weights"))
    """
    return _unstructured(model, (1, 1), example, _choose(model, include, exclude))


def blocks(
    model: nn.Module,
    r: int,
    c: int,
    example: Any = None,
    *,
    include: Patterns | None = None,
    exclude: Patterns = (),
) -> Groups:
    """Groups whose units are blocks of `r` rows and `c` columns, one group for each parameter seen as a matrix.

    Rows are the first dimension, columns all others flattened. Sizes that `r` or `c` do not divide leave smaller
    blocks at the border; costs count every block as an equal share of its parameter. The rest is as for `elements`.

    >>> groups = blocks(model, 4, 1)
    """
    for name, value in (("r", r), ("c", c)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"The '{name}' parameter of blocks must be a positive integer. Got {value!r} instead.")
    return _unstructured(model, (r, c), example, _choose(model, include, exclude))


class UnstructuredCost(CostModel):
    """Weights and multiply-accumulates that are left when each parameter keeps a share of its units.

    `sizes`: entries and units of every prunable parameter; `others`: entries of all other parameters; `macs`: the
    multiply-accumulates of one call that read the given parameters, by their names.
    """

    def __init__(self, sizes: Mapping[str, tuple[int, int]], others: int, macs: Mapping[tuple[str, ...], int]) -> None:
        self.sizes = dict(sizes)
        self.others = others
        self.macs = dict(macs)

    def cost(self, counts: Mapping[str, int]) -> Cost:
        """The cost when parameter `name` keeps `counts[name]` units; its shape and so the dense MACs stay."""
        share = {name: counts.get(name, units) / units for name, (_, units) in self.sizes.items()}
        kept = [entries * counts.get(name, units) // units for name, (entries, units) in self.sizes.items()]
        nonzero = sum(macs * prod(share.get(name, 1.0) for name in names) for names, macs in self.macs.items())
        return Cost(
            macs=sum(self.macs.values()),
            params=self.others + sum(entries for entries, _ in self.sizes.values()),
            weights=self.others + sum(kept),
            nonzero_macs=round(nonzero),
        )


def _unstructured(model: nn.Module, block: tuple[int, int], example: Any, chosen: set[str]) -> Groups:
    parameters = dict(model.named_parameters())
    groups = tuple(_group(name, parameters[name], block) for name in parameters if name in chosen)
    others = {name: p for name, p in parameters.items() if name not in chosen}
    inputs: Inputs = normalise(example) if example is not None else ((), {})
    cost_model = UnstructuredCost(
        {g.name: (parameters[g.name].numel(), g.units) for g in groups},
        others=sum(p.numel() for p in others.values()),
        macs=_macs_by_parameter(record(model, inputs)) if example is not None else {},
    )
    return Groups(
        kind="elements" if block == (1, 1) else "blocks",
        model=model,
        items=groups,
        cost_model=cost_model,
        frozen=tuple(_frozen(name, p) for name, p in others.items()),
        inputs=inputs,
    )


def _choose(model: nn.Module, include: Patterns | None, exclude: Patterns) -> set[str]:
    """The names of the parameters to prune."""
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if is_lazy(parameter):
            raise InputError(
                f"The parameter '{name}' has no shape yet. Call the model on an example once, then prune it."
            )
    first = {id(p): name for name, p in parameters.items()}
    every = {name: first[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}  # tied names mean one
    names = every.keys() | {path for path, _ in model.named_modules() if path}

    def named(patterns: Patterns, parameter: str) -> set[str]:
        found = select(patterns, names, model=model, parameter=parameter)
        return {every[name] for name in found if name in every}

    chosen = {name for name, p in parameters.items() if _is_weight(name, p)}
    if include is not None:
        chosen &= named(include, "'include' parameter")
    chosen -= named(exclude, "'exclude' parameter")
    if not chosen:
        raise InputError(f"The model has no weights to prune: none of its {len(parameters)} parameters was chosen.")
    return chosen


def _is_weight(name: str, parameter: Tensor) -> bool:
    """Whether it is a matrix: no vector, nor one in disguise, as layer scales and class tokens are."""
    if parameter.dim() < 2 or parameter.numel() == 0 or not parameter.is_floating_point():
        return False
    return name.rpartition(".")[2] == "weight" or parameter.numel() > max(parameter.shape)


def _group(name: str, parameter: Tensor, block: tuple[int, int]) -> Group:
    down, across = Blocks(name, tuple(parameter.shape), 0, "producer", block=block).grid
    member = Blocks(name, tuple(parameter.shape), down * across, "producer", block=block)
    return Group(name, member.units, (member,), modules=(name.rpartition(".")[0],))


def _frozen(name: str, parameter: Tensor) -> Frozen:
    reason = (
        "it is a vector: a bias, a norm weight or a scale" if not _is_weight(name, parameter) else "it was not chosen"
    )
    return Frozen(name, parameter.numel(), reason, module=name.rpartition(".")[0])


def _macs_by_parameter(recording: Recording) -> dict[tuple[str, ...], int]:
    """Names of the parameters that a product reads, as they are -> the multiply-accumulates of all such products."""
    origin = {id(leaf.value): leaf.name for leaf in recording.leaves if leaf.kind == "parameter"}
    macs: Counter[tuple[str, ...]] = Counter()
    for call in recording.calls:
        tensors = call.tensors()
        if call.op in VIEWS | PARTS | COPIES and tensors and id(tensors[0]) in origin:
            origin.update({id(out): origin[id(tensors[0])] for out in call.outs})
        for value in (*tensors, *call.outs):
            _fix_sizes(value)
        names = tuple(sorted({origin[id(t)] for t in tensors if id(t) in origin and len(t.shape) > 1}))
        macs[names] += sum(size(term, {}) for term in mac_terms(call))
    return {names: count for names, count in macs.items() if count}


def _fix_sizes(value: Value) -> None:
    value.dims = [const(n) for n in value.shape]
