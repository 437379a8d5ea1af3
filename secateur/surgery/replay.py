"""The recording run again on real tensors: the reference that a slim module is compared with.

`replay` runs every recorded ATen call on the tensors given; where those are cut, arguments that hold sizes are asked
for anew from the terms. `interpret` runs the recording on full tensors whose removed entries are zero, and lets norms,
softmax and other statistics see the kept entries only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.graph.choices import holding
from secateur.graph.nested import all_of, mapped
from secateur.graph.terms import Atom, Dim, atoms, mask, size
from secateur.graph.trace import Call, Recording, Value

Compute = Callable[[Call, dict[str, Any]], Any]
DTYPES = {torch.float32: torch.float64, torch.float16: torch.float64, torch.bfloat16: torch.float64}
DTYPES |= {torch.complex64: torch.complex128}


def replay(
    recording: Recording,
    tensors: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    counts: Mapping[Atom, int] | None = None,
) -> list[Tensor]:
    """What the recorded run returns on other tensors.

    `tensors` by the name of each of the model's own; `inputs` in the order of the example's tensors; `counts`: units
    left of each atom. All floating-point arithmetic is in float64 where the tensors are.
    """

    def compute(call: Call, args: dict[str, Any]) -> Any:
        return invoke(call, args, counts)

    return _run(recording, tensors, inputs, compute)


def interpret(
    recording: Recording, tensors: Mapping[str, Tensor], inputs: Sequence[Tensor], keep: Mapping[Atom, Any]
) -> list[Tensor]:
    """What the recorded run returns on full tensors when every statistic over pruned units sees only the kept ones."""
    narrow = Narrowing(keep, recording)

    def compute(call: Call, args: dict[str, Any]) -> Any:
        return narrow(call, args) if narrow.concerns(call) else invoke(call, args, None)

    return _run(recording, tensors, inputs, compute)


def _has_value(raw: Any) -> bool:
    return bool(all_of(Value, raw))


STATISTICS = frozenset(  # operators whose result depends on how many entries there are
    (
        "native_layer_norm _fused_rms_norm rms_norm layer_norm native_group_norm _softmax _log_softmax _safe_softmax "
        "softmax log_softmax mean amax amin var std norm linalg_vector_norm all logsumexp prod var_mean std_mean "
        "aminmax max min sum native_batch_norm _native_batch_norm_legit _weight_norm_interface"
    ).split()
)


class Narrowing:
    """Runs calls that compute statistics over pruned units on the kept ones alone, and pads their results with zeros.

    So are all calls that compute a weight with such a statistic: what is centred or scaled by it stays zero where units
    are gone. Units of exact proof are left as they are: their zeros must do no harm by themselves.
    """

    def __init__(self, keep: Mapping[Atom, Any], recording: Recording) -> None:
        self.weights = _weights_by_statistics(recording)
        self.keep = {found: kept for found, kept in keep.items() if "statistics" in found.flags}
        self.counts = {found: int(kept.sum()) for found, kept in self.keep.items()}

    def concerns(self, call: Call) -> bool:
        """Whether the call's result over one unit depends on which other units there are."""
        statistic = call.op in STATISTICS or any(id(value) in self.weights for value in call.outs)
        return statistic and any(a in self.keep for v in call.tensors() for d in v.dims or () for a in atoms(d))

    def __call__(self, call: Call, args: Mapping[str, Any]) -> Any:
        """The call's results, of full size."""
        narrow = {
            name: narrowed(raw, args[name], self.keep) if _has_value(raw) else args[name]
            for name, raw in call.args.items()
        }
        result = invoke(call, narrow, self.counts)
        outs = all_of(Tensor, result)
        wide = [_widen(t, value, self.keep) for t, value in zip(outs, call.outs, strict=True)]
        return wide[0] if isinstance(result, Tensor) else type(result)(wide)


def _weights_by_statistics(recording: Recording) -> set[int]:
    """The values that are computed of the model's own tensors alone, a statistic among what they are computed by."""
    own = {id(leaf.value) for leaf in recording.own()}
    found: set[int] = set()
    for call in recording.calls:
        read = {id(value) for value in call.tensors()}
        if read and read <= own:
            own.update(id(value) for value in call.outs)
            if call.op in STATISTICS or read & found:
                found.update(id(value) for value in call.outs)
    return found


def _lines(value: Value, keep: Mapping[Atom, Any]) -> list[Tensor | None]:
    return [
        torch.from_numpy(np.flatnonzero(mask(d, keep))) if any(a in keep for a in atoms(d)) else None
        for d in value.dims or ()
    ]


def narrowed(raw: Any, given: Any, keep: Mapping[Atom, Any]) -> Any:
    """What is left of the tensors `given` for the recorded `raw` (a value, or a list with values) when units leave."""
    if isinstance(raw, Value):
        for axis, line in enumerate(_lines(raw, keep)):
            if line is not None:
                given = given.index_select(axis, line.to(given.device))
        return given
    return [narrowed(r, g, keep) if _has_value(r) else g for r, g in zip(raw, given, strict=True)]


def _widen(narrow: Tensor, value: Value, keep: Mapping[Atom, Any]) -> Tensor:
    for axis, line in enumerate(_lines(value, keep)):
        if line is not None and narrow.dim() > axis and narrow.shape[axis] == len(line):
            shape = list(narrow.shape)
            shape[axis] = value.shape[axis]
            narrow = narrow.new_zeros(shape).index_copy(axis, line.to(narrow.device), narrow)
    return narrow


def _run(
    recording: Recording, tensors: Mapping[str, Tensor], inputs: Sequence[Tensor], compute: Compute
) -> list[Tensor]:
    given = iter(inputs)
    known: dict[int, Tensor] = {}
    for leaf in recording.leaves:
        if leaf.kind == "input":
            known[id(leaf.value)] = next(given)
        elif leaf.kind == "constant":
            known[id(leaf.value)] = leaf.tensor
        else:
            known[id(leaf.value)] = tensors[leaf.name]
    last = last_uses(recording)
    with torch.no_grad(), holding(recording.choices):
        for position, call in enumerate(recording.calls):
            args = {name: mapped(Value, lambda v: known[id(v)], raw) for name, raw in call.args.items()}
            result = compute(call, args)
            outs = all_of(Tensor, result)
            for value, tensor in zip(call.outs, outs, strict=True):
                known[id(value)] = tensor
            for gone in last.get(position, ()):
                known.pop(gone, None)
    return [known[id(value)] for value in recording.compared]


def last_uses(recording: Recording) -> dict[int, list[int]]:
    """Which values no later call reads, by position."""
    last: dict[int, int] = {}
    for position, call in enumerate(recording.calls):
        for value in (*call.tensors(), *call.outs):
            last[id(value)] = position
    for value in recording.compared:
        last.pop(id(value), None)
    by_position: dict[int, list[int]] = {}
    for value_id, position in last.items():
        by_position.setdefault(position, []).append(value_id)
    return by_position


def invoke(call: Call, args: Mapping[str, Any], counts: Mapping[Atom, int] | None) -> Any:
    """Run one recorded call on the arguments given, with sizes asked for anew where units are gone."""
    func, args = prepared(call, args, counts)
    wide = {n: DTYPES.get(value, value) if isinstance(value, torch.dtype) else value for n, value in args.items()}
    positional, keywords = arranged(func, wide)
    return func(*positional, **keywords)


def prepared(call: Call, args: Mapping[str, Any], counts: Mapping[Atom, int] | None) -> tuple[Any, dict[str, Any]]:
    """The operator that a recorded call comes down to and its arguments by name, with sizes for `counts` if given."""
    func, args = call.func, dict(args)
    if call.op == "view" and "size" in args:
        func = torch.ops.aten.reshape.default  # kernels in float64 may lay their results out in another way
        args["shape"] = args["size"]
    if counts is not None:
        if call.op == "as_strided" and "size" in call.resize:
            return torch.ops.aten.clone.default, {"self": args["self"], "memory_format": None}
        if "split_sizes" in call.resize:
            func = torch.ops.aten.split_with_sizes.default
            args = {"self": args["self"], "split_sizes": None, "dim": args["dim"]}
        for name, dims in call.resize.items():
            args["shape" if "shape" in args and name == "size" else name] = sizes(dims, counts)
    return func, args


def arranged(func: Any, args: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Arguments by name as an operator takes them: by position, and by keyword."""
    positional = [args[name] for name, by_keyword in _arguments(func) if not by_keyword]
    return positional, {name: args[name] for name, by_keyword in _arguments(func) if by_keyword}


@cache
def _arguments(func: Any) -> tuple[tuple[str, bool], ...]:
    """The names of an operator's arguments and whether they go by keyword; asking the schema each time is slow."""
    return tuple((argument.name, argument.kwarg_only) for argument in func._schema.arguments)


def sizes(dims: Dim | list[Dim], counts: Mapping[Atom, int]) -> int | list[int]:
    """What an argument that holds sizes must say when each atom has `counts[atom]` units left."""
    return [size(d, counts) for d in dims] if isinstance(dims, list) else size(dims, counts)
