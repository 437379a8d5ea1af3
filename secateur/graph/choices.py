"""What a model chose by looking at values, written down once and held in every later run.

Non-maximum suppression, boolean masks, `nonzero` and `.item()` give results whose shape, or the way on, depends on
values. A model that does so is run once on its example, and what these operators gave is kept. Every later run, of the
model or of a cut one, with or without data, is given the same results, so all of them make the same calls; what lies
between the choices is a graph like any other. Proofs compare what the choices are made from, and what the chosen
positions are read from, so that a choice that leaves nothing over hides nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

Execute = Callable[[Any, Any, dict[str, Any]], Any]
aten = torch.ops.aten
TAGS = frozenset((torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape))
MASKS = (torch.bool, torch.uint8)


RANKS = frozenset((aten.topk.default, aten.sort.default, aten.sort.stable, aten.argmax.default, aten.argmin.default))


def depends_on_values(func: Any, args: Any) -> bool:
    """Whether the shape of an ATen operator's result, or the number it gives, depends on more than shapes."""
    if func is aten.index.Tensor:  # positions give a shape, a mask does not
        return any(index is not None and index.dtype in MASKS for index in args[1])
    return not TAGS.isdisjoint(func.tags)


@dataclass
class Choices:
    """What was chosen on the example, in order. `operators`: those of other libraries that choose positions."""

    made: list[tuple[Any, Any]] = field(default_factory=list)
    operators: set[Any] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.made)


class StrayedError(Exception):
    """Raised where a run asks for another choice than was made at this place."""


class Held(TorchDispatchMode):
    """Gives the choices made on the example, while active; with `writing`, lets the model choose and writes it down.

    `seen` collects, in order, the floating-point tensors that choices are made from or that are read at chosen
    positions.
    """

    def __init__(self, choices: Choices, *, writing: bool = False) -> None:
        super().__init__()
        self.choices, self.writing = choices, writing
        self.position = 0
        self.seen: list[Tensor] = []
        self.chosen: WeakIdKeyDictionary = WeakIdKeyDictionary()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first call imports torch's compiler

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(lambda f, a, k: f(*a, **k), func, args, kwargs or {})

    def around(self, execute: Execute) -> Execute:
        """A way to make calls, with the choices given; itself where there are none."""
        return partial(self.run, execute) if self.choices else execute

    def run(self, execute: Execute, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """What a call gives: as it was chosen where it chooses, else what `execute` gives."""
        if self.writing:
            return self._written(execute(func, args, kwargs), func, args)
        if depends_on_values(func, args) or func in self.choices.operators:
            self.seen += filter(torch.is_floating_point, _tensors((args, kwargs)))
            return self._given(execute, func, args)
        if func in RANKS:
            self.seen += filter(torch.is_floating_point, _tensors(args))
            return self._ranked(execute, func, args, kwargs)
        result = execute(func, args, kwargs)
        read = _tensors((args, kwargs))
        if any(t in self.chosen for t in read):
            self.seen += filter(torch.is_floating_point, read)
            self._mark(result)
        return result

    def _next(self, func: Any) -> Any:
        """The choice made at this place."""
        if self.position >= len(self.choices.made) or self.choices.made[self.position][0] is not func:
            raise StrayedError(f"{func} is asked for where the run on the example chose otherwise")
        made = tree_map_only(Tensor, torch.clone, self.choices.made[self.position][1])
        self.position += 1
        self._mark(made)
        return made

    def _given(self, execute: Execute, func: Any, args: Any) -> Any:
        """What was chosen; where a mask chose entries, those that are there now."""
        made = self._next(func)
        if func is aten.index.Tensor:
            indices = [own for given, old in zip(args[1], made, strict=True) for own in old or (given,)]
            return execute(func, (args[0], indices), {})
        if func is aten.masked_select.default:
            shape = torch.broadcast_shapes(args[0].shape, args[1].shape)
            return execute(aten.index.Tensor, (execute(aten.expand.default, (args[0], shape), {}), list(made)), {})
        return made

    def _ranked(self, execute: Execute, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The order there was on the example, of the values there are now: rounding lets near ones change places.

        Where units are ranked each by itself, a smaller model has fewer orders, and they are made anew.
        """
        now, old = execute(func, args, kwargs), self._next(func)
        if isinstance(now, Tensor):
            return old if old.shape == now.shape else now
        if old.shape != now[1].shape:
            return now
        return execute(aten.gather.default, (args[0], _argument(func, args, kwargs, "dim"), old), {}), old

    def _mark(self, result: Any) -> None:
        """Remember positions and masks that were chosen, or computed from such."""
        for tensor in _tensors(result):
            if not tensor.is_floating_point():
                self.chosen[tensor] = True

    def _written(self, result: Any, func: Any, args: Any) -> Any:
        if func.namespace not in ("aten", "prim", "prims") and _is_position(result):
            self.choices.operators.add(func)
        if depends_on_values(func, args) or func in self.choices.operators or func in RANKS:
            self.choices.made.append((func, tree_map_only(Tensor, torch.clone, _chosen(result, func, args))))
        return result


def _chosen(result: Any, func: Any, args: Any) -> Any:
    """What to keep of a choice: its result, or the positions of the entries where a mask chose some."""
    if func is aten.index.Tensor:
        return [i.nonzero(as_tuple=True) if i is not None and i.dtype in MASKS else None for i in args[1]]
    if func is aten.masked_select.default:
        return torch.broadcast_to(args[1], torch.broadcast_shapes(args[0].shape, args[1].shape)).nonzero(as_tuple=True)
    return result[1] if func in RANKS and not isinstance(result, Tensor) else result


def _argument(func: Any, args: Any, kwargs: dict[str, Any], name: str) -> Any:
    """An argument of a call, or its default."""
    place = [argument.name for argument in func._schema.arguments].index(name)
    return args[place] if place < len(args) else kwargs.get(name, func._schema.arguments[place].default_value)


def _tensors(value: Any) -> list[Tensor]:
    return [t for t in tree_leaves(value) if isinstance(t, Tensor)]


def _is_position(result: Any) -> bool:
    """Whether an operator gives positions alone."""
    tensors = _tensors(result)
    return bool(tensors) and not any(t.is_floating_point() or t.is_complex() for t in tensors)


@contextlib.contextmanager
def holding(choices: Choices) -> Iterator[list[Tensor]]:
    """Runs the block with choices given where there are any; the list fills with what they are made from."""
    held = Held(choices)
    with held if choices else contextlib.nullcontext():
        yield held.seen
