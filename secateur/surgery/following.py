"""Watching a module make the calls of a recording, so that running both comes down to running one.

Where a module makes every recorded call, in order and on the very tensors that the replay would pass on, its results
are the replay's: the same operator on the same arguments. Where it leaves the recording, harmless as that may be (a
copy more, a view less), or draws random numbers, the watcher says so and the replay is run by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from secateur.graph.nested import all_of
from secateur.graph.terms import Atom, size
from secateur.graph.trace import Call, Recording, Value, parameters
from secateur.surgery.replay import DTYPES, Narrowing, last_uses, sizes


class Follower(TorchDispatchMode):
    """Compares the calls of a module, while it is active, with the recorded ones.

    `tensors` are the module's own by name, `inputs` what it is called with, `counts` the units left of each atom.
    With `narrowing`, a module whose removed entries are zero computes its statistics over kept entries only.
    """

    def __init__(
        self,
        recording: Recording,
        tensors: Mapping[str, Tensor],
        inputs: Sequence[Tensor],
        counts: Mapping[Atom, int],
        narrowing: Narrowing | None = None,
    ) -> None:
        super().__init__()
        self.recording, self.counts, self.narrowing = recording, counts, narrowing
        self.position, self.astray = 0, False
        self.last = last_uses(recording)
        given = iter(inputs)
        self.known: dict[int, Tensor] = {}
        self.constants: set[int] = set()
        for leaf in recording.leaves:
            if leaf.kind == "constant":
                self.constants.add(id(leaf.value))
                self.known[id(leaf.value)] = leaf.tensor
            else:
                self.known[id(leaf.value)] = next(given) if leaf.kind == "input" else tensors[leaf.name]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first call imports torch's compiler

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        call = None if self.astray else self._recorded(func, args, kwargs)
        if call is not None and self.narrowing is not None and self.narrowing.concerns(call):
            given = (
                args[i] if i < len(args) else kwargs.get(name, default)
                for i, (name, default) in enumerate(parameters(func))
            )
            result = self.narrowing(call, dict(zip(call.args, given, strict=True)))
        else:
            result = func(*args, **kwargs)
        outs = all_of(Tensor, result)
        if call is None or not self._sized(call, outs):
            self.astray = True
            self.known.clear()
            return result
        self.known.update((id(value), tensor) for value, tensor in zip(call.outs, outs, strict=True))
        for gone in self.last.get(self.position, ()):
            self.known.pop(gone, None)
        self.position += 1
        return result

    def arrived(self, outputs: Sequence[Tensor]) -> bool:
        """Whether the module made all recorded calls and no other, and returned what the recording returns."""
        if self.astray or self.position < len(self.recording.calls):
            return False
        expected = [self.known[id(value)] for value in self.recording.compared]
        return len(expected) == len(outputs) and all(a is b for a, b in zip(outputs, expected, strict=True))

    def _recorded(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call | None:
        """The next recorded call, if it is this one."""
        if self.position >= len(self.recording.calls):
            return None
        call = self.recording.calls[self.position]
        if call.func is not func or torch.Tag.nondeterministic_seeded in func.tags:
            return None
        if call.op == "as_strided":  # the replay reads it as a copy
            same = self._same(args[0], call.args["self"]) and list(args[1]) == list(args[0].shape)
            with _disable_current_modes():  # a question of ours, none of the model's
                return call if same and torch.equal(args[0].as_strided(*args[1:]), args[0]) else None
        for i, (name, default) in enumerate(parameters(func)):
            given = args[i] if i < len(args) else kwargs.get(name, default)
            if name in SPLIT and "split_sizes" in call.resize:
                continue  # told by the sizes of the results
            if name in call.resize:
                if not _same_sizes(given, sizes(call.resize[name], self.counts)):
                    return None
            elif not self._same(given, call.args[name]):
                return None
        return call

    def _sized(self, call: Call, outs: Sequence[Tensor]) -> bool:
        """Whether results have the sizes they must have, where the call's arguments leave some open."""
        if not call.resize:
            return True
        expected = [tuple(size(d, self.counts) for d in value.dims or ()) for value in call.outs]
        return [tuple(t.shape) for t in outs] == expected

    def _same(self, given: Any, expected: Any) -> bool:
        if isinstance(expected, Value):
            known = self.known.get(id(expected))
            if known is given:
                return True
            if known is None or id(expected) not in self.constants or not isinstance(given, Tensor):
                return False
            with _disable_current_modes():  # which compute in float64
                if given.is_floating_point() and known.is_floating_point():
                    given = given.to(known.dtype)
                return given.dtype == known.dtype and torch.equal(given, known)
        if isinstance(given, list | tuple) and isinstance(expected, list | tuple):
            return len(given) == len(expected) and all(map(self._same, given, expected))
        if isinstance(given, torch.dtype) and isinstance(expected, torch.dtype):
            return DTYPES.get(given, given) == DTYPES.get(expected, expected)
        return type(given) is type(expected) and bool(given == expected)


SPLIT = ("split_size", "split_sizes")


def _same_sizes(given: Any, expected: int | list[int]) -> bool:
    """Whether sizes asked for are those expected; -1 leaves one open."""
    if isinstance(expected, int):
        return type(given) is int and given == expected
    return len(given) == len(expected) and all(n in (-1, m) for n, m in zip(given, expected, strict=True))
