"""Proving a cut by forward passes in float64, with constant parameters drawn anew so that no error can hide.

Three comparisons, each with another reference:

- the model whose removed entries are zero against the recording run on cut tensors (groups of exact proof): the algebra
  is right;
- the slim module against that same replay: the surgery is right, attributes and all;
- for units that pass a norm, softmax or mean: the recording run on zeroed tensors with those operators over kept
  entries only.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from secateur.errors import ProofError
from secateur.graph.cutting import cut_tensor, like, rebuild
from secateur.graph.trace import Inputs, named_tensors, plain_kernels, tensors_of, undisturbed
from secateur.graph.units import Group, Groups
from secateur.surgery.record import Proof
from secateur.surgery.replay import DTYPES, interpret, replay

TOLERANCE = 1e-9

Keep = Mapping[str, Tensor]


class Verifier:
    """The references of one model, kept in float64 so that several cuts can be compared with them."""

    def __init__(self, groups: Groups, seed: int = 0) -> None:
        assert groups.solution is not None
        self.groups, self.solution = groups, groups.solution
        generator = torch.Generator().manual_seed(seed)
        self.tensors = {
            name: redrawn(name, tensor.detach(), generator) for name, (_, tensor) in named_tensors(groups.model).items()
        }
        self.dtype = next((p.dtype for p in groups.model.parameters() if p.is_floating_point()), torch.float32)
        self.inputs: Inputs = tree_map_only(Tensor, _double, groups.inputs)
        self.flat = [t for t in tree_flatten(self.inputs)[0] if isinstance(t, Tensor)]

    def prove(self, slim: nn.Module, keep: Keep) -> Proof:
        """Compare `slim`, which keeps the units of `keep`, with its references."""
        exact = {name: kept for name, kept in keep.items() if self.groups[name].proof == "exact"}
        replayed = self.replay(keep)
        slim_out = self._forward(self._slim(slim, keep))
        masked = None
        if exact:
            reference = replayed if len(exact) == len(keep) else self.replay(exact)
            masked = error(self._forward(self.masked(exact)), reference)
        statistics = None
        if len(exact) < len(keep):
            zeroed = self._zeroed(keep)
            statistics = error(
                interpret(self.solution.recording, zeroed, self.flat, self.solution.keep(keep)), replayed
            )
        return Proof(masked, error(slim_out, replayed), statistics, TOLERANCE, "float64")

    def replay(self, keep: Keep) -> list[Tensor]:
        """The recording on cut tensors."""
        kept = self.solution.kept(keep)
        tensors = {name: cut_tensor(t, kept[name]) if name in kept else t for name, t in self.tensors.items()}
        counts = self.solution.counts({name: len(k) for name, k in keep.items()})
        with plain_kernels():
            return replay(self.solution.recording, tensors, self.flat, counts)

    def masked(self, keep: Keep) -> nn.Module:
        """A copy of the model, in float64, whose removed entries are zero."""
        return self._dressed(self.groups.model, self._zeroed(keep))

    def _slim(self, slim: nn.Module, keep: Keep) -> nn.Module:
        kept = self.solution.kept(keep)
        return self._dressed(
            slim, {name: cut_tensor(t, kept[name]) if name in kept else t for name, t in self.tensors.items()}
        )

    def _dressed(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
        own = named_tensors(model)
        return rebuild(model, {name: like(t, tensors[name]) for name, (_, t) in own.items() if name in tensors})

    def _zeroed(self, keep: Keep) -> dict[str, Tensor]:
        """All tensors, with producers and consumers of removed units zero."""
        result = dict(self.tensors)
        for name, kept in keep.items():
            group: Group = self.groups[name]
            stays = torch.zeros(group.units, dtype=torch.float64).index_fill_(0, kept.cpu(), 1.0)
            for member in group.members:
                tensor = result[member.name]
                if tensor.is_floating_point() and not member.name.endswith("running_var"):
                    result[member.name] = tensor * member.expand(stays.to(tensor.device)).to(tensor.dtype)
        return result

    def _forward(self, model: nn.Module) -> list[Tensor]:
        args, kwargs = self.inputs
        with undisturbed(model), torch.no_grad(), plain_kernels(), _default_double(), Promote(self.dtype):
            return tensors_of(model(*args, **kwargs))


def redrawn(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    """The tensor in float64, with noise added where all its entries are equal (fresh norms, zero-initialised ones)."""
    if not tensor.is_floating_point():
        return tensor
    wide = tensor.double()
    start = wide.reshape(-1)[:16]
    if tensor.numel() < 2 or bool((start != start[0]).any()) or bool((wide != start[0]).any()):
        return wide
    noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(wide.device)
    return wide + (0.3 * noise.abs() if name.endswith("running_var") else 0.1 * noise)


def error(ours: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """The largest difference over all outputs, relative to the reference's largest value; NaN where either has one."""
    worst = 0.0
    if len(ours) != len(reference):
        return float("inf")
    for a, b in zip(ours, reference, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if a.numel() == 0:
            continue
        scale = max(float(b.abs().max()), 1e-30) if b.is_floating_point() else 1.0
        difference = (
            float((a.double() - b.double()).abs().max()) / scale if not a.is_complex() else float((a - b).abs().max())
        )
        if math.isnan(difference):
            return difference
        worst = max(worst, difference)
    return worst


class Promote(TorchDispatchMode):
    """Lets code that asks for a lower precision by name compute in float64."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.epsilon = torch.finfo(dtype).eps

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*map(self._lift, args), **{name: self._lift(value) for name, value in (kwargs or {}).items()})

    def _lift(self, value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return DTYPES.get(value, value)
        if isinstance(value, float) and value == torch.finfo(torch.float64).eps:
            return self.epsilon  # a norm without a stated epsilon takes its dtype's
        return value


@contextlib.contextmanager
def _default_double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def culprits(names: Sequence[str], fails: Callable[[Sequence[str]], bool]) -> list[str]:
    """The groups that make a cut fail, found by halving; groups that only fail together are all returned."""
    if len(names) <= 1:
        return list(names)
    middle = len(names) // 2
    halves = [half for half in (names[:middle], names[middle:]) if fails(half)]
    if not halves:
        return list(names)
    return [name for half in halves for name in culprits(half, fails)]


def explain(proof: Proof) -> str:
    """In words, which comparison failed."""
    worst = {
        "the slim module and the masked model differ": proof.masked,
        "the slim module and the replayed recording differ": proof.replayed,
        "the slim module and the model with statistics over kept entries differ": proof.statistics,
    }
    told = [f"{text} by {e:.1e}" for text, e in worst.items() if e is not None and not e <= proof.tolerance]
    return "; ".join(told) or "all comparisons hold"


def demand(proof: Proof) -> None:
    """Raise `ProofError` unless the proof holds."""
    if not proof.holds:
        raise ProofError(
            f"The cut is not proven: {explain(proof)} (relative, {proof.dtype}; tolerance {proof.tolerance:.0e})."
        )
