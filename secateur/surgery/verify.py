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
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from secateur.errors import ProofError
from secateur.graph.cutting import cut_tensor, like, rebuild
from secateur.graph.trace import Inputs, named_tensors, plain_kernels, tensors_of, undisturbed
from secateur.graph.units import Group, Groups
from secateur.surgery.depthwise import depthwise, is_depthwise
from secateur.surgery.record import Proof
from secateur.surgery.replay import DTYPES, interpret, replay

TOLERANCE = 1e-9

Keep = Mapping[str, Tensor]


class Verifier:
    """The references of one model, with arithmetic in float64, so that several cuts can be compared with them.

    `whole` keeps a copy of the model in float64; otherwise tensors stay in their own type and every operator casts
    those it reads. Left out, memory decides.
    """

    def __init__(self, groups: Groups, *, seed: int = 0, whole: bool | None = None) -> None:
        assert groups.solution is not None
        self.groups, self.solution = groups, groups.solution
        generator = torch.Generator().manual_seed(seed)
        own = {name: tensor.detach() for name, (_, tensor) in named_tensors(groups.model).items()}
        self.whole = fits(own.values()) if whole is None else whole
        self.tensors = {name: redrawn(name, t, generator) for name, t in own.items()}
        self.dtype = next((p.dtype for p in groups.model.parameters() if p.is_floating_point()), torch.float32)
        self.inputs: Inputs = tree_map_only(Tensor, _double, groups.inputs)
        self.flat = [t for t in tree_flatten(self.inputs)[0] if isinstance(t, Tensor)]

    def prove(self, slim: nn.Module, keep: Keep) -> Proof:
        """Compare `slim`, which keeps the units of `keep`, with its references."""
        exact = {name: kept for name, kept in keep.items() if self.groups[name].proof == "exact"}
        others = {name: kept for name, kept in keep.items() if name not in exact}
        cut = self._cut(keep)
        replayed = self._replay(keep, cut)
        slim_out = self._forward(self._dressed(slim, cut))
        del cut
        zeroed = {name: self._copy(t) for name, t in self.tensors.items()} if keep else {}
        masked = statistics = None
        if exact:
            reference = self._replay(exact, self._cut(exact)) if others else replayed
            self._zero(zeroed, exact)
            masked = error(self._forward(self._dressed(self.groups.model, zeroed)), reference)
        if others:
            self._zero(zeroed, others)
            with plain_kernels(), Promote(self.dtype):
                seen = interpret(self.solution.recording, zeroed, self.flat, self.solution.keep(keep))
            statistics = error(seen, replayed)
        return Proof(masked, error(slim_out, replayed), statistics, TOLERANCE, "float64")

    def _replay(self, keep: Keep, cut: Mapping[str, Tensor]) -> list[Tensor]:
        """The recording on cut tensors."""
        counts = self.solution.counts({name: len(k) for name, k in keep.items()})
        with plain_kernels(), Promote(self.dtype):
            return replay(self.solution.recording, cut, self.flat, counts)

    def _cut(self, keep: Keep) -> dict[str, Tensor]:
        """All tensors, with kept entries only."""
        kept = self.solution.kept(keep)
        parts = {name: cut_tensor(t, kept[name]) if name in kept else t for name, t in self.tensors.items()}
        return {name: _double(t) for name, t in parts.items()} if self.whole else parts

    def _copy(self, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return tensor.to(torch.float64 if self.whole else tensor.dtype, copy=True)

    def _dressed(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
        own = named_tensors(model)
        return rebuild(model, {name: like(t, tensors[name]) for name, (_, t) in own.items() if name in tensors})

    def _zero(self, tensors: Mapping[str, Tensor], keep: Keep) -> None:
        """Make producers and consumers of removed units zero, in place: fresh memory costs more than the product."""
        for name, kept in keep.items():
            group: Group = self.groups[name]
            stays = torch.zeros(group.units, dtype=torch.float64).index_fill_(0, kept.cpu(), 1.0)
            for member in group.members:
                tensor = tensors[member.name]
                if tensor.is_floating_point() and not member.name.endswith("running_var"):
                    tensor.mul_(member.expand(stays.to(tensor.device)).to(tensor.dtype))

    def _forward(self, model: nn.Module) -> list[Tensor]:
        args, kwargs = self.inputs
        cast = contextlib.nullcontext() if self.whole else CastArguments()
        with undisturbed(model), torch.no_grad(), plain_kernels(), _default_double(), Promote(self.dtype), cast:
            return tensors_of(model(*args, **kwargs))


def redrawn(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    """The tensor, with noise added where all its entries are equal (fresh norms, zero-initialised layers)."""
    if not tensor.is_floating_point():
        return tensor
    start = tensor.reshape(-1)[:16]
    if tensor.numel() < 2 or bool((start != start[0]).any()) or bool((tensor != start[0]).any()):
        return tensor
    noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
    return tensor + (0.3 * noise.abs() if name.endswith("running_var") else 0.1 * noise)


def fits(tensors: Iterable[Tensor]) -> bool:
    """Whether three copies of the tensors in float64 (full, masked, cut) take less than half of the free memory."""
    tensors = list(tensors)
    need = 24 * sum(t.numel() for t in tensors if t.is_floating_point())
    device = next((t.device for t in tensors if t.device.type == "cuda"), None)
    if device is not None:
        free = torch.cuda.mem_get_info(device)[0]
    elif "SC_AVPHYS_PAGES" in os.sysconf_names:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:  # systems that do not tell
        return True
    return need < free / 2


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
    """Computes in float64: every operator reads its tensors in it, and code that names another precision gets it."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.epsilon = torch.finfo(dtype).eps

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first call imports torch's compiler

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        lifted = [self._lift(value) for value in args]
        if is_depthwise(func, lifted):
            return depthwise(*lifted[:6])
        return func(*lifted, **{name: self._lift(value) for name, value in (kwargs or {}).items()})

    def _lift(self, value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return DTYPES.get(value, value)
        if isinstance(value, Tensor):
            return _double(value)
        if type(value) in (list, tuple):
            return type(value)(map(self._lift, value))
        if isinstance(value, float) and value == torch.finfo(torch.float64).eps:
            return self.epsilon  # a norm without a stated epsilon takes its dtype's
        return value


class CastArguments(TorchFunctionMode):
    """Casts the tensors that functions are called with to float64; some compare types before any operator runs."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "__get__":  # a question about the tensor itself
            return func(*args, **(kwargs or {}))
        return func(*tree_map_only(Tensor, _double, args), **tree_map_only(Tensor, _double, kwargs or {}))


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
