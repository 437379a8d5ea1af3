"""Running a cut module beside the recording, without data, to see where its shapes first leave the expected ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from secateur.graph.terms import Atom, size
from secateur.graph.trace import Call, Inputs, Recording, failing_module, module_stack, plain_kernels, undisturbed

INVISIBLE = {"clone", "contiguous", "_to_copy", "detach", "alias", "lift", "lift_fresh", "empty"}
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


class _Deviated(Exception):  # noqa: N818 - a signal, not an error
    pass


def visible(recording: Recording) -> list[Call]:
    """The calls that both sides must make; copies and the like may come and go."""
    return [call for call in recording.calls if call.op not in INVISIBLE]


class Lockstep(TorchDispatchMode):
    """Walks along the recorded calls and stops at the first whose operator or result shapes differ."""

    def __init__(self, calls: list[Call], counts: Mapping[Atom, int], stack: list[str]) -> None:
        super().__init__()
        self.calls, self.counts, self.stack = calls, counts, stack
        self.position = 0
        self.now: tuple[str, ...] = ()
        self.asked: dict[str, Any] = {}
        self.text = ""
        self.drifts: list[Drift] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        op = func._schema.name.partition("::")[2].rstrip("_")
        if func.namespace == "prim" or op in INVISIBLE:
            return func(*args, **kwargs)
        self.now = tuple(self.stack)
        names = [a.name for a in func._schema.arguments]
        self.asked = {**dict(zip(names, args, strict=False)), **kwargs}
        if self.position >= len(self.calls):
            self.text = f"it runs {op} where the recording has ended"
            raise _Deviated
        call = self.calls[self.position]
        if SAME.get(op, op) != SAME.get(call.op.rstrip("_"), call.op.rstrip("_")):
            self.text = f"it runs {op} where {call.op} was recorded"
            raise _Deviated
        result = func(*args, **kwargs)
        shapes = [tuple(t.shape) for t in tree_leaves(result) if isinstance(t, Tensor)]
        expected = [tuple(size(d, self.counts) for d in value.dims or ()) for value in call.outs]
        if shapes != expected:
            self.text = f"{op} gives {shapes} instead of {expected}"
            raise _Deviated
        self._compare_numbers(call)
        self.position += 1
        return result

    def _compare_numbers(self, call: Call) -> None:
        for name, now in self.asked.items():
            then = call.args.get(name)
            if isinstance(now, float) and isinstance(then, float) and abs(now - then) > 1e-9 * abs(then):
                self.drifts.append(Drift(call, then, now))


def compare(
    module: nn.Module, calls: list[Call], counts: Mapping[Atom, int], inputs: Inputs
) -> tuple[Deviation | None, list[Drift]]:
    """Where `module` first leaves the recorded `calls` (None: nowhere), and the numbers that changed on the way."""
    with contextlib.ExitStack() as around:
        around.enter_context(undisturbed(module))
        fake = around.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack = around.enter_context(module_stack(module))
        around.enter_context(plain_kernels())
        args, kwargs = tree_map_only(Tensor, fake.from_tensor, inputs)
        mode = Lockstep(calls, counts, stack)
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
        if mode.position < len(calls):
            return Deviation(mode.position, mode.now, {}, "it stops before the recording ends"), mode.drifts
        return None, mode.drifts


@contextlib.contextmanager
def no_data() -> Iterator[FakeTensorMode]:
    """Tensors made in the block have shapes and no data."""
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        yield fake


def hollow(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor without data of another shape, of the kind of `tensor`; call it inside `no_data`."""
    data = torch.empty(shape, dtype=tensor.dtype, device=tensor.device)
    return nn.Parameter(data, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data
