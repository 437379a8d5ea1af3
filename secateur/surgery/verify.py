"""Proving a cut by forward passes in float64, with constant parameters drawn anew so that no error can hide.

Two comparisons with the recording run on cut tensors:

- the slim module: the surgery is right, attributes and all;
- the model whose removed entries are zero: the algebra is right. Where units pass a norm, softmax or mean, those
  operators see kept entries only, in the model or, where it strays from what was recorded, in the recording.
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
from secateur.graph.choices import holding
from secateur.graph.cutting import cut_tensor, rebuild, rebuilt
from secateur.graph.memory import forget, memories
from secateur.graph.state import set_mode, take_back
from secateur.graph.terms import Atom
from secateur.graph.trace import Call, Inputs, Recording, named_tensors, plain_kernels, tensors_of
from secateur.graph.units import Group, Groups
from secateur.surgery.following import Follower
from secateur.surgery.kernels import LARGE, depthwise, grouped, is_depthwise, is_grouped, is_streamed, streamed
from secateur.surgery.record import Proof
from secateur.surgery.replay import DTYPES, Narrowing, interpret, narrowed, replay
from secateur.surgery.zeroed import Zeroed, convolution, linear

TOLERANCE = 1e-9
BREADTH = 40  # multiplications at each place of an image that take as long as copying one number
WEIGHTS = {"convolution": "weight", "mm": "mat2", "addmm": "mat2"}  # operators that multiply, and what they multiply by

Keep = Mapping[str, Tensor]


class Verifier:
    """The references of one model, with arithmetic in float64, so that several cuts can be compared with them.

    `whole` keeps a copy of the model in float64, but for large weights of convolutions and linear layers, which are
    cast as they are read; otherwise all tensors stay in their own type and every operator casts those it reads.
    Left out, memory decides.
    """

    def __init__(self, groups: Groups, *, seed: int = 0, whole: bool | None = None) -> None:
        assert groups.solution is not None
        self.groups, self.solution = groups, groups.solution
        generator = torch.Generator().manual_seed(seed)
        own = {name: tensor.detach() for name, (_, tensor) in named_tensors(groups.model).items()}
        self.whole = fits(own.values()) if whole is None else whole
        self.tensors = {name: redrawn(name, t, generator) for name, t in own.items()}
        self.recordings = [r for r in self.solution.recordings if not is_random(r)]
        self.recording = self.solution.recording
        weights = set.intersection(*(weights_of_products(recording) for recording in self.recordings))
        self.as_they_are = weights if self.whole else set(own)
        self.zeroed = Zeroed()
        self.dtype = next((p.dtype for p in groups.model.parameters() if p.is_floating_point()), torch.float32)
        self.inputs: Inputs = tree_map_only(Tensor, _double, groups.inputs)
        self.flat = [t for t in tree_flatten(self.inputs)[0] if isinstance(t, Tensor)]

    def prove(self, slim: nn.Module, keep: Keep) -> Proof:
        """Compare `slim`, which keeps the units of `keep`, with its references, in every mode that was recorded."""
        proofs = []
        for recording in self.recordings:
            self.recording = recording
            proofs.append(self._prove(slim, keep))
        return worst(proofs)

    def _prove(self, slim: nn.Module, keep: Keep) -> Proof:
        cut = self._cut(keep)
        counts = self.solution.counts({name: len(k) for name, k in keep.items()})
        slim_out, replayed = self._both(slim, cut, counts)
        del cut
        apart = error(slim_out, replayed)
        if not keep:
            return Proof(None, apart, None, TOLERANCE, "float64")
        exact = all(self.groups[name].proof == "exact" for name in keep)
        difference = error(self._left(self._masked(keep, exact), keep), replayed)
        return Proof(difference if exact else None, apart, None if exact else difference, TOLERANCE, "float64")

    def _masked(self, keep: Keep, exact: bool) -> list[Tensor]:
        """What the full model returns when removed entries are zero, and statistics see kept ones if they must."""
        tensors = {name: self._copy(name, t) for name, t in self.tensors.items()}
        self.zeroed = self._zero(tensors, keep)
        try:
            if exact:
                return self._forward(rebuild(self.groups.model, tensors))
            kept = self.solution.keep(keep)
            seen, arrived = self._followed(self.groups.model, tensors, {}, Narrowing(kept, self.recording))
            if not arrived:
                with plain_kernels(), default_double(), Promote(self.dtype, self.zeroed):
                    seen = interpret(self.recording, tensors, self.flat, kept)
            return seen
        finally:
            self.zeroed = Zeroed()

    def _both(
        self, slim: nn.Module, cut: Mapping[str, Tensor], counts: Mapping[Atom, int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """What a slim module returns with the cut tensors, and what the recording does."""
        returned, arrived = self._followed(slim, cut, counts)
        return returned, returned if arrived else self._replay(cut, counts)

    def _left(self, outputs: Sequence[Tensor], keep: Keep) -> list[Tensor]:
        """The full model's outputs with kept entries only: memory that it returns (a cache) is cut with its units."""
        kept = self.solution.keep(keep)
        return [narrowed(value, t, kept) for value, t in zip(self.recording.compared, outputs, strict=True)]

    def _followed(
        self,
        model: nn.Module,
        tensors: Mapping[str, Tensor],
        counts: Mapping[Atom, int],
        narrowing: Narrowing | None = None,
    ) -> tuple[list[Tensor], bool]:
        """What a module returns with other tensors; and whether it made the recorded calls, all and no other."""
        dressed, own = rebuilt(model, tensors)
        follower = Follower(self.recording, own, self.flat, counts, narrowing)
        outputs = self._forward(dressed, follower)
        return outputs, follower.arrived(outputs)

    def _replay(self, cut: Mapping[str, Tensor], counts: Mapping[Atom, int]) -> list[Tensor]:
        """The recording on cut tensors."""
        with plain_kernels(), default_double(), Promote(self.dtype):
            return replay(self.recording, cut, self.flat, counts)

    def _cut(self, keep: Keep) -> dict[str, Tensor]:
        """All tensors, with kept entries only."""
        kept = self.solution.kept(keep)
        parts = {name: cut_tensor(t, kept[name]) if name in kept else t for name, t in self.tensors.items()}
        return {name: t if name in self.as_they_are else _double(t) for name, t in parts.items()}

    def _copy(self, name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or (self.whole and name in self.as_they_are):
            return tensor
        return tensor.to(torch.float64 if self.whole else tensor.dtype, copy=True)

    def _zero(self, tensors: Mapping[str, Tensor], keep: Keep) -> Zeroed:
        """Make producers and consumers of removed units zero, in place or, where a weight is shared, beside it."""
        zeroed = Zeroed()
        for name, kept in keep.items():
            group: Group = self.groups[name]
            stays = torch.zeros(group.units, dtype=torch.float64).index_fill_(0, kept.cpu(), 1.0)
            for member in group.members:
                tensor = tensors[member.name]
                if not tensor.is_floating_point() or member.name.endswith("running_var"):
                    continue
                factors = member.expand(stays.to(tensor.device)).to(tensor.dtype)
                if self.whole and member.name in self.as_they_are:
                    dim = max(range(tensor.dim()), key=factors.shape.__getitem__)
                    zeroed.add(tensor, dim, factors.reshape(-1) != 0)
                else:
                    tensor.mul_(factors)
        return zeroed

    def _forward(self, model: nn.Module, watcher: Follower | None = None) -> list[Tensor]:
        args, kwargs = self.inputs
        take_back(model, self.recording.written)
        set_mode(model, self.recording.training)
        with contextlib.ExitStack() as around:
            for mode in (torch.no_grad(), plain_kernels(), default_double(), Promote(self.dtype, self.zeroed)):
                around.enter_context(mode)
            if not self.whole:
                around.enter_context(CastArguments())
            seen = around.enter_context(holding(self.recording.choices))
            if watcher is not None:
                around.enter_context(watcher)
            remembered = memories(model.modules())
            forget(remembered)
            around.callback(forget, remembered)  # what its functions remember is in float64 now
            outputs = tensors_of(model(*args, **kwargs))
        return [*outputs, *(seen[i] for i in self.recording.fixed)]


def worst(proofs: Sequence[Proof]) -> Proof:
    """One proof with the largest differences of several."""

    def largest(errors: Sequence[float | None]) -> float | None:
        made = [e for e in errors if e is not None]
        return next((e for e in made if math.isnan(e)), max(made)) if made else None

    return Proof(
        masked=largest([p.masked for p in proofs]),
        replayed=largest([p.replayed for p in proofs]) or 0.0,
        statistics=largest([p.statistics for p in proofs]),
        tolerance=proofs[0].tolerance,
        dtype=proofs[0].dtype,
    )


def is_random(recording: Recording) -> bool:
    """Whether two runs in the recording's mode differ by themselves; evaluation is taken at its word."""
    return recording.training and any(torch.Tag.nondeterministic_seeded in call.func.tags for call in recording.calls)


def redrawn(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    """The tensor, with noise added where all its entries are equal (fresh norms, zero-initialised layers)."""
    if not tensor.is_floating_point():
        return tensor
    start = tensor.reshape(-1)[:16]
    if tensor.numel() < 2 or bool((start != start[0]).any()) or bool((tensor != start[0]).any()):
        return tensor
    noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
    return tensor + (0.3 * noise.abs() if name.endswith("running_var") else 0.1 * noise)


def weights_of_products(recording: Recording) -> set[str]:
    """The large tensors that are read as weights of convolutions or linear layers, and in no other way."""
    own = {id(leaf.value): leaf.name for leaf in recording.own()}
    large = {leaf.name for leaf in recording.own() if math.prod(leaf.value.shape) > LARGE}
    turned: dict[int, str] = {}
    read: set[str] = set()
    other: set[str] = set()
    for call in recording.calls:
        if call.op == "t" and own.get(id(call["self"])) in large:
            turned[id(call.outs[0])] = own[id(call["self"])]
            continue
        role = WEIGHTS.get(call.op)
        for value in call.tensors():
            name = turned.get(id(value)) or own.get(id(value))
            if name is None:
                continue
            product = role is not None and value is call[role] and (id(value) in turned or is_broad(call))
            (read if product else other).add(name)
    return read - other


def is_broad(call: Call) -> bool:
    """Whether leaving zeros out of a convolution saves more than picking the others out costs."""
    if call.op != "convolution":
        return False
    channels = call["input"].shape[1] + call.outs[0].shape[1]
    return bool(math.prod(call["weight"].shape) > BREADTH * channels)


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

    def __init__(self, dtype: torch.dtype, zeroed: Zeroed | None = None) -> None:
        super().__init__()
        self.dtype, self.epsilon = dtype, torch.finfo(dtype).eps
        self.zeroed = zeroed or Zeroed()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first call imports torch's compiler

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.t.default:  # what reads the transpose decides
            return func(*args)
        if not kwargs and is_streamed(func, args):
            bias, x, turned = (None, *args)[-3:]
            bias, x, weight, lines = self._lift(bias), self._lift(x), turned.t(), self.zeroed.of(turned.t())
            return streamed(bias, x, weight) if lines is None else linear(bias, x, weight, lines)
        if func is torch.ops.aten.convolution.default and (lines := self.zeroed.of(args[1])) is not None:
            return convolution([self._lift(args[0]), args[1], self._lift(args[2]), *args[3:]], lines, _convolve)
        lifted = [self._lift(value) for value in args]
        if func is torch.ops.aten.lift_fresh.default and args[0].is_floating_point():
            return func(_double(args[0].to(self.dtype)))  # numbers that code makes a tensor of have its precision
        if func is torch.ops.aten.convolution.default:
            return _convolve(lifted)
        if is_grouped(func, lifted):
            return grouped(*lifted[:3])
        return func(*lifted, **{name: self._lift(value) for name, value in (kwargs or {}).items()})

    def _lift(self, value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return DTYPES.get(value, value)
        if isinstance(value, Tensor):
            return _double(self.zeroed.written(value))
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
def default_double() -> Iterator[None]:
    """Runs the block with float64 as the type of tensors that are made without one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _convolve(args: Sequence[Any]) -> Tensor:
    func = torch.ops.aten.convolution.default
    return depthwise(*args[:6]) if is_depthwise(func, args) else func(*args)


def _double(tensor: Tensor) -> Tensor:
    return tensor.to(DTYPES.get(tensor.dtype, tensor.dtype))


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
