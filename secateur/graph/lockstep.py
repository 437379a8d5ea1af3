"""Running a cut module beside the recording, without data, to see where its shapes first leave the expected ones."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from secateur.graph.choices import Held
from secateur.graph.cutting import like
from secateur.graph.hollow import hollow_like, of
from secateur.graph.nested import all_of
from secateur.graph.state import undisturbed
from secateur.graph.terms import Atom, size
from secateur.graph.trace import (
    Call,
    Inputs,
    Medium,
    Recording,
    execution,
    failing_module,
    module_stack,
    operator_name,
    parameters,
    plain_kernels,
)

INVISIBLE = {"clone", "contiguous", "_to_copy", "detach", "alias", "lift", "lift_fresh", "empty"}
SCALED = {  # operators whose integer operands are numbers, not sizes
    *("mul", "div", "add", "sub", "pow", "full", "full_like", "new_full", "fill", "scalar_tensor"),
}
REORDERING = {"channel_shuffle": "groups", "native_channel_shuffle": "groups", "roll": "shifts"}  # what no shape tells
NUMBERS = {True: (int, float), False: (float,)}
NUMEROUS = 64  # a constant of more numbers is a table, not a size
LAYOUT = {"view", "t", "transpose", "permute", "expand", "squeeze", "unsqueeze"}
SAME = {
    "_unsafe_view": "view",
    "reshape": "view",
    "_reshape_alias": "view",
    "_reshape_copy": "view",
    "split_with_sizes": "split",
}


@dataclass(frozen=True)
class Deviation:
    """Where a cut module leaves the recording: the position of the call, what it asked for, and the modules at work."""

    position: int
    stack: tuple[str, ...]
    asked: dict[str, Any]
    text: str


@dataclass(frozen=True)
class Drift:
    """A number in a call that changed with the widths (an attention scale): what it was and what it became."""

    call: Call
    before: float
    after: float


def canonical(op: str) -> str:
    """One name for operators that torch uses in turn for the same thing."""
    op = op.rstrip("_")
    return SAME.get(op, op)


class _Deviated(Exception):  # noqa: N818 - a signal, not an error
    pass


def visible(recording: Recording) -> list[Call]:
    """The calls that both sides must make; copies and the like may come and go."""
    return [call for call in recording.calls if call.op not in INVISIBLE and not _relaid(call.op, call.args)]


def _relaid(op: str, args: Mapping[str, Any]) -> bool:
    """Whether a call only arranges a tensor anew in memory, as pools do where it lies in two ways at once."""
    return op == "as_strided" and tuple(args["size"]) == tuple(args["self"].shape)


class Lockstep(TorchDispatchMode):
    """Walks along the recorded calls and stops at the first whose operator or result shapes differ."""

    def __init__(self, calls: list[Call], counts: Mapping[Atom, int], stack: list[str], recording: Recording) -> None:
        super().__init__()
        self.calls, self.counts, self.stack = calls, counts, stack
        self.execute = Held(recording.choices).around(execution(recording.medium))
        self.position = 0
        self.now: tuple[str, ...] = ()
        self.asked: dict[str, Any] = {}
        self.text = ""
        self.drifts: list[Drift] = []
        made = {id(leaf.value): leaf.tensor for leaf in recording.leaves if leaf.kind == "constant"}
        lifted = (call for call in recording.calls if call.op == "lift_fresh")
        self.constants = ((call, made.get(id(call["self"]))) for call in lifted)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first call imports torch's compiler

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        op = operator_name(func).rstrip("_")
        if op == "lift_fresh":
            self._compare_constant(args[0])
        if func.namespace == "prim" or op in INVISIBLE:
            return self.execute(func, args, kwargs)
        self.now = tuple(self.stack)
        self.asked = {**{name: value for (name, _), value in zip(parameters(func), args, strict=False)}, **kwargs}
        if _relaid(op, self.asked):
            return self.execute(func, args, kwargs)
        result = self.execute(func, args, kwargs)
        shapes = [tuple(t.shape) for t in all_of(Tensor, result)]
        if canonical(op) in LAYOUT:
            self._pass_layout(canonical(op), shapes)
        else:
            self._match(canonical(op), shapes)
        return result

    def _match(self, op: str, shapes: list[tuple[int, ...]]) -> None:
        """The next recorded computation must be this one, with results of these shapes."""
        while self.position < len(self.calls) and canonical(self.calls[self.position].op) in LAYOUT:
            self.position += 1
        if self.position >= len(self.calls):
            self._deviate(f"it runs {op} where the recording has ended")
        call = self.calls[self.position]
        if op != canonical(call.op):
            self._deviate(f"it runs {op} where {call.op} was recorded")
        results = 1 if "batch_norm" in op else len(shapes)  # its statistics are empty or not as memory lies
        if shapes[:results] != self._expected(call)[:results]:
            self._deviate(f"{op} gives {shapes} instead of {self._expected(call)}")
        if "start" in call.resize:
            self._compare_start(call)
        told = REORDERING.get(op)
        if told is not None and self.asked[told] != call[told]:
            self._deviate(f"{op} is given {told}={self.asked[told]} instead of {call[told]}")
        self._compare_numbers(call)
        self.position += 1

    def _pass_layout(self, op: str, shapes: list[tuple[int, ...]]) -> None:
        """Torch arranges one computation in several ways: order and number of views may differ, their sizes not."""
        same = False
        for position in range(self.position, len(self.calls)):
            call = self.calls[position]
            if canonical(call.op) not in LAYOUT:
                break
            if canonical(call.op) == op:
                if shapes == self._expected(call):
                    self.position = position + 1
                    return
                same = same or position == self.position
        if same:
            self._deviate(f"{op} gives {shapes} instead of {self._expected(self.calls[self.position])}")

    def _expected(self, call: Call) -> list[tuple[int, ...]]:
        return [tuple(size(d, self.counts) for d in value.dims or ()) for value in call.outs]

    def _deviate(self, text: str) -> NoReturn:
        self.text = text
        raise _Deviated

    def _compare_constant(self, now: Tensor) -> None:
        """A tensor that code makes of numbers must hold the same ones."""
        call, then = next(self.constants, (None, None))
        if call is None or type(then) is not Tensor or type(now) is not Tensor:
            return
        if now.shape != then.shape or now.numel() > NUMEROUS:
            return
        with unset_fake_temporarily():  # numbers are at hand, whatever the run is on
            for i in ((then != now) & ~then.isnan()).reshape(-1).nonzero()[:1]:
                self.drifts.append(Drift(call, then.reshape(-1)[i].item(), now.reshape(-1)[i].item()))

    def _compare_start(self, call: Call) -> None:
        """As many entries as expected may still be the wrong ones."""
        length = self.asked["self"].shape[self.asked.get("dim", 0)]
        start = self.asked.get("start") or 0
        start, expected = start + length if start < 0 else start, size(call.resize["start"], self.counts)
        if start != expected and self._expected(call)[0] != tuple(self.asked["self"].shape):
            self._deviate(f"slice starts at {start} instead of {expected}")

    def _compare_numbers(self, call: Call) -> None:
        kinds = NUMBERS[canonical(call.op) in SCALED]
        for name, now in self.asked.items():
            if name in call.resize or isinstance(now, bool) or not isinstance(now, kinds):
                continue
            then = call.args.get(name)
            if isinstance(then, int | float) and abs(now - then) > 1e-9 * abs(then):
                self.drifts.append(Drift(call, then, now))


def compare(
    module: nn.Module, calls: list[Call], counts: Mapping[Atom, int], inputs: Inputs, recording: Recording
) -> tuple[Deviation | None, list[Drift]]:
    """Where `module` first leaves the recorded `calls` (None: nowhere), and the numbers that changed on the way.

    Attention keeps the scale of the full model, as it will in the slim one.
    """
    with contextlib.ExitStack() as around:
        modules = dict(module.named_modules())
        around.enter_context(undisturbed(module, recording.training, modules))
        args, kwargs = inputs
        if recording.medium == "hollow":
            args, kwargs = tree_map_only(Tensor, of, inputs)
        elif recording.medium == "fake":
            fake = around.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            args, kwargs = tree_map_only(Tensor, fake.from_tensor, inputs)
        stack = around.enter_context(module_stack(modules.items()))
        around.enter_context(plain_kernels(stack, recording.scales))
        mode = Lockstep(calls, counts, stack, recording)
        try:
            with mode:
                module(*args, **kwargs)
        except Exception as error:
            where = mode.now
            path = failing_module(error, module)
            if path is not None and (not where or path not in where):
                where = (*where, path)
            text = mode.text or f"{type(error).__name__}: {error}"
            return Deviation(mode.position, where, mode.asked, text), mode.drifts
        if any(canonical(call.op) not in LAYOUT for call in calls[mode.position :]):
            return Deviation(mode.position, mode.now, {}, "it stops before the recording ends"), mode.drifts
        return None, mode.drifts


def stand_ins(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], medium: Medium
) -> dict[str, Tensor]:
    """Tensors of other shapes for a trial cut, of the kind of the originals; with data only where `medium` is real."""
    if medium == "hollow":
        return {name: hollow_like(tensor, shapes[name]) for name, tensor in tensors.items()}
    if medium == "real":
        return {name: like(t, t.detach()[tuple(map(slice, shapes[name]))].clone()) for name, t in tensors.items()}
    with FakeTensorMode(allow_non_fake_inputs=True):
        return {n: like(t, torch.empty(shapes[n], dtype=t.dtype, device=t.device)) for n, t in tensors.items()}
