"""What a model costs as an exact function of its widths: multiply-accumulates and parameters, without tracing again.

One multiply-accumulate is 1 MAC; FLOPs are 2 MACs. Counted are the operators that multiply by matrices: convolutions,
linear layers, matrix products and attention. MACs are those of one call on the example, so give an example of batch one
to count as papers do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from secateur.graph.terms import Dim, norm, size
from secateur.graph.trace import Call, Recording

if TYPE_CHECKING:
    from secateur.graph.solution import Solution


@dataclass(frozen=True)
class Cost:
    """`macs` of one call on the example; `params`, tied ones once; `weights`, `nonzero_macs`: what is not masked."""

    macs: int
    params: int
    weights: int
    nonzero_macs: int


class CostModel(ABC):
    """A function from kept units to `Cost`."""

    @abstractmethod
    def cost(self, counts: Mapping[str, int]) -> Cost:
        """The cost when group `name` keeps `counts[name]` units and all other groups keep theirs."""

    @cached_property
    def dense(self) -> Cost:
        """The cost of the model as it is."""
        return self.cost({})


class StructuralCost(CostModel):
    """MACs and parameters as polynomials in the units left, read off the recording once."""

    def __init__(self, recording: Recording, solution: Solution) -> None:
        self.solution = solution
        self.macs = [term for call in recording.calls for term in mac_terms(call)]
        self.params = [
            tuple(f for d in leaf.value.dims or () for f in norm(d))
            for leaf in recording.own()
            if leaf.kind == "parameter"
        ]

    def cost(self, counts: Mapping[str, int]) -> Cost:
        by_atom = self.solution.counts(counts)
        macs = sum(size(term, by_atom) for term in self.macs)
        params = sum(size(term, by_atom) for term in self.params)
        return Cost(macs=macs, params=params, weights=params, nonzero_macs=macs)


def mac_terms(call: Call) -> list[Dim]:
    """The multiply-accumulates of a call, as products of dimensions; empty for operators that multiply no matrices."""
    tensors = call.tensors()
    out = call.outs[0].dims if call.outs else None
    if out is None:
        return []
    if call.op in ("mm", "bmm", "mv", "dot", "linear", "_grouped_mm", "grouped_mm_fallback"):
        return [_term([*out, (tensors[0].dims or [])[-1]])]
    if call.op in ("addmm", "baddbmm", "addmv"):
        return [_term([*out, (tensors[1].dims or [])[-1]])]
    if call.op == "convolution":
        x, weight = tensors[0].dims or [], tensors[1].dims or []
        if call["transposed"]:  # every input entry meets every kernel entry
            return [_term([*x, *weight[1:]])]
        return [_term([*out, *weight[1:]])]
    return []


def _term(dims: list[Dim]) -> Dim:
    return tuple(f for d in dims for f in norm(d))
