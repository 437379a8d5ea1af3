"""A plan carried out on the recording: a program of plain operators in which every size is rewritten.

A module's own code may hold widths as literals, or tie them in ways that no attribute repairs; such groups stay whole
in `slim`. The recording has no such code. Made into a `torch.fx.GraphModule` with cut tensors and new sizes, it goes on
without it: parameters keep their names, inputs and results their places, and `torch.export.export` takes it further.
"""

from __future__ import annotations

import dataclasses
import inspect
import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from secateur.errors import InputError, SecateurError
from secateur.graph.cutting import cut_tensor, rebuilt
from secateur.graph.discovery import check_finite
from secateur.graph.eager import eagerly
from secateur.graph.garbage import only_new
from secateur.graph.state import undisturbed
from secateur.graph.terms import Atom
from secateur.graph.trace import Call, Inputs, Leaf, Recording, Value, named_tensors, plain_kernels, record, tensors_of
from secateur.graph.units import Groups
from secateur.planning import Plan
from secateur.surgery.record import Record, attach
from secateur.surgery.replay import arranged, prepared
from secateur.surgery.slim import told
from secateur.surgery.verify import Promote, Verifier, default_double, demand, error

FIXED = "the batch size is fixed at that of the example"
MODE = "it computes what evaluation computes, on inputs of the example's sizes"


@eagerly()
@only_new()
def slim_program(groups: Groups, plan: Plan, *, verify: bool = True) -> fx.GraphModule:
    """A smaller program that computes what the masked model computes, for groups that the model's code cannot follow.

    `groups` are best found with `follow="program"`. The program is called like the model, with inputs of the example's
    sizes; the first dimension of all inputs may differ where the recording shows that sizes are its multiples, and
    `record(program).notes` says so where not. Numbers and texts among the inputs are those of the example, and dropout
    and batch norm are as in evaluation. Results keep their nesting; objects of a user's class become dictionaries, and
    what is neither tensor nor number becomes None.
    It trains, and `torch.export.export` makes an `ExportedProgram` of it, to be saved and loaded without any code of
    the model. With `verify` it is proven in float64 like any cut; raises `ProofError` where it is not, `InputError` for
    single weights and blocks, and for models whose way depends on values.

    >>> found = secateur.groups(model, example, follow="program")
    >>> program = secateur.slim_program(found, secateur.plan(found, budget="50% macs"))
    >>> torch.export.save(torch.export.export(program, (example,)), "slim.pt2")
    """
    plan.check(groups)
    check_finite(groups.model)
    solution = groups.solution
    if groups.kind != "slices" or solution is None:
        raise InputError(
            f"The 'groups' parameter of slim_program must be channels and heads. Got {groups.kind} instead."
        )
    if plan.factors:
        raise InputError("The 'plan' parameter of slim_program must not rescale survivors; pass it to slim.")
    recording = solution.recording
    if recording.choices:
        names = ", ".join(sorted({str(func) for func, _ in recording.choices.made}))
        raise InputError(f"The way through {type(groups.model).__name__} depends on values ({names}): use slim.")
    keep = {name: kept for name, kept in plan.keep.items() if len(kept) < plan.units[name]}
    kept = solution.kept(keep)
    tensors = {name: cut_tensor(t, kept.get(name, {})) for name, (_, t) in named_tensors(groups.model).items()}
    counts = solution.counts({name: len(k) for name, k in keep.items()})
    nested = result_of(groups)
    stretch = stretched(groups)
    if stretch is not None and not stretches(groups, Builder(groups, nested, {}, stretch).build(own(groups))):
        stretch = None
    program = Builder(groups, nested, counts, stretch).build(tensors)
    proof = None
    if verify:
        proof = ProgramVerifier(groups).prove(program, keep)
        demand(proof)
    shapes = {name: tuple(groups.tensor(name).shape) for name in kept}
    entry = Record(kept=kept, shapes=shapes, proof=proof, **told(groups, plan, keep))
    after = entry.after | {
        "params": sum(p.numel() for p in program.parameters())
    }  # it holds no tensor that is not read
    notes = (*entry.notes, MODE, *([FIXED] if stretch is None else []))
    attach(program, dataclasses.replace(entry, kind="program", after=after, notes=notes))
    return program


def own(groups: Groups) -> dict[str, Tensor]:
    """The model's tensors by name."""
    return {name: tensor for name, (_, tensor) in named_tensors(groups.model).items()}


def result_of(groups: Groups) -> Any:
    """What the model returns on the example."""
    args, kwargs = groups.inputs
    with undisturbed(groups.model), torch.no_grad(), plain_kernels():
        return groups.model(*args, **kwargs)


Stretch = tuple[int, int, list[Call]]


def stretched(groups: Groups) -> Stretch | None:
    """The example's batch size, another one, and the calls of a run on that; None where it makes other calls."""
    assert groups.solution is not None
    sizes = {t.shape[0] for t in tree_leaves(groups.inputs) if isinstance(t, Tensor) and t.dim()}
    if len(sizes) != 1 or 0 in sizes:
        return None
    (batch,) = sizes
    inputs: Inputs = tree_map_only(Tensor, lambda t: repeated(t, 3), groups.inputs)
    try:
        other = record(groups.model, inputs)
    except SecateurError:
        return None
    calls = groups.solution.recording.calls
    if [call.func for call in other.calls] != [call.func for call in calls]:
        return None
    return batch, 3 * batch, other.calls


def repeated(tensor: Tensor, times: int) -> Tensor:
    """The tensor several times, one after the other along its first dimension."""
    return tensor.repeat(times, *[1] * (tensor.dim() - 1)) if tensor.dim() else tensor


def stretches(groups: Groups, program: nn.Module) -> bool:
    """Whether an uncut program does on a batch of another size what the model does."""
    args, kwargs = tree_map_only(Tensor, lambda t: repeated(t, 2), groups.inputs)
    with undisturbed(groups.model), torch.no_grad(), plain_kernels():
        theirs = tensors_of(groups.model(*args, **kwargs))
        try:
            ours = tensors_of(program(*args, **kwargs))
        except (RuntimeError, ValueError, IndexError):
            return False
    return error(ours, theirs) < 1e-4  # in the model's own precision


class Builder:
    """Makes the graph of one recording: inputs, the model's tensors, calls with sizes for `counts`, results.

    With `stretch`, sizes that grow with the batch are asked of the first input.
    """

    def __init__(
        self,
        groups: Groups,
        nested: Any,
        counts: Mapping[Atom, int],
        stretch: Stretch | None,
    ) -> None:
        assert groups.solution is not None
        self.groups, self.nested, self.counts, self.stretch = groups, nested, counts, stretch
        self.recording: Recording = groups.solution.recording
        self.graph = fx.Graph()
        self.known: dict[int, fx.Node] = {}
        self.batch: fx.Node | None = None
        self.multiples: dict[int, fx.Node] = {}

    def build(self, tensors: Mapping[str, Tensor]) -> fx.GraphModule:
        """The program over tensors of these names."""
        root = nn.Module()
        root.training = False
        leaves = iter(leaf for leaf in self.recording.leaves if leaf.kind == "input")
        self._take_inputs(leaves)
        used = {id(v) for call in self.recording.calls for v in call.tensors()}
        used |= {id(v) for v in self.recording.outputs}
        for leaf in self.recording.leaves:
            if leaf.kind != "input" and id(leaf.value) in used:
                self._hold(root, leaf, tensors)
        for position, call in enumerate(self.recording.calls):
            self._call(call, position)
        self.graph.output(self._results(self.nested, iter(self.recording.outputs)))
        self.graph.eliminate_dead_code()
        return fx.GraphModule(root, self.graph, f"Slim{type(self.groups.model).__name__}").eval()

    def _take_inputs(self, leaves: Iterator[Leaf]) -> None:
        args, kwargs = self.groups.inputs
        bound = inspect.signature(self.groups.model.forward).bind(*args, **kwargs)
        names = list(bound.signature.parameters)[: len(args)]
        names += [f"input_{i}" for i in range(len(names), len(args))]
        for name, value in [*zip(names, args, strict=True), *kwargs.items()]:
            self._unpack(self.graph.placeholder(name), value, leaves)

    def _unpack(self, node: fx.Node, value: Any, leaves: Iterator[Leaf]) -> None:
        """Tie the tensors of one argument to the recorded inputs, in their order."""
        if isinstance(value, Tensor):
            self.known[id(next(leaves).value)] = node
            if self.batch is None and self.stretch is not None and value.dim():
                self.batch = self.graph.call_function(torch.ops.aten.sym_size.int, (node, 0))
        elif isinstance(value, Mapping | tuple | list):
            pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
            for key, part in pairs:
                if any(isinstance(leaf, Tensor) for leaf in tree_leaves(part)):
                    self._unpack(self.graph.call_function(operator.getitem, (node, key)), part, leaves)

    def _hold(self, root: nn.Module, leaf: Leaf, tensors: Mapping[str, Tensor]) -> None:
        """Give the program a tensor of the model's, under its name there, or one that its code made of numbers."""
        name = leaf.name.replace(" ", "_")
        path, _, attribute = name.rpartition(".")
        home = root
        for part in path.split(".") if path else ():
            if part not in home._modules:
                home.add_module(part, nn.Module())
            home = home.get_submodule(part)
        tensor = leaf.tensor if leaf.kind == "constant" else tensors[leaf.name]
        if isinstance(tensor, nn.Parameter):
            home.register_parameter(attribute, tensor)
        else:
            home.register_buffer(attribute, tensor)
        self.known[id(leaf.value)] = self.graph.create_node("get_attr", name)

    def _call(self, call: Call, position: int) -> None:
        args = tree_map_only(Value, lambda v: self.known[id(v)], call.args)
        func, args = prepared(call, args, self.counts)
        if self.stretch is not None:
            other = self.stretch[2][position].args
            for name in args:
                raw = "size" if name == "shape" and "size" in other else name
                if raw in other:
                    args[name] = self._grown(args[name], call.args[raw], other[raw])
        positional, keywords = arranged(func, args)
        node = self.graph.call_function(func, tuple(positional), keywords)
        if [str(returned.type) for returned in func._schema.returns] == ["Tensor"]:
            self.known[id(call.outs[0])] = node
            return
        for i, value in enumerate(call.outs):
            self.known[id(value)] = self.graph.call_function(operator.getitem, (node, i))

    def _grown(self, now: Any, before: Any, other: Any) -> Any:
        """An argument of the cut call; sizes that are multiples of the batch follow the batch they are given."""
        assert self.stretch is not None
        batch, more, _ = self.stretch
        if isinstance(now, list | tuple) and isinstance(other, list | tuple) and len(now) == len(other):
            return [self._grown(*three) for three in zip(now, before, other, strict=True)]
        if type(now) is not int or type(other) is not int:
            return now
        if before == other:
            return -1 if before == -1 else now  # left open, it follows by itself
        if before * more != other * batch or now % batch:
            return now  # the check on another batch decides
        times = now // batch
        if times not in self.multiples:
            self.multiples[times] = self.graph.call_function(operator.mul, (self.batch, times))
        return self.multiples[times]

    def _results(self, value: Any, outputs: Iterator[Value]) -> Any:
        """The model's results with nodes in the place of tensors, in the order in which they were recorded."""
        if isinstance(value, Tensor):
            return self.known[id(next(outputs))]
        if isinstance(value, Mapping):
            return {key: self._results(part, outputs) for key, part in value.items()}
        if isinstance(value, tuple | list):
            parts = [self._results(part, outputs) for part in value]
            return parts if isinstance(value, list) else tuple(parts)
        if hasattr(value, "__dict__") and not isinstance(value, nn.Module | type):
            return {key: self._results(part, outputs) for key, part in vars(value).items()}
        return value if isinstance(value, int | float) else None  # torch.export.load reads no texts


class ProgramVerifier(Verifier):
    """Proves a program as a slim module is proven: beside the recording on cut tensors and beside the masked model."""

    def __init__(self, groups: Groups) -> None:
        super().__init__(groups, whole=True)
        self.recordings = [self.solution.recording]
        self.as_they_are = set()

    def _both(
        self, slim: nn.Module, cut: Mapping[str, Tensor], counts: Mapping[Atom, int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        dressed = rebuilt(slim, cut)[0]
        args, kwargs = self.inputs
        with torch.no_grad(), plain_kernels(), default_double(), Promote(self.dtype):
            returned = tensors_of(dressed(*args, **kwargs))
        return returned, self._replay(cut, counts)
