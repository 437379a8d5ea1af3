"""One run of the model on its example, recorded: every ATen call, with the module that made it.

The run uses fake tensors (shapes without data), so it costs no arithmetic and no memory; a model whose control flow
reads values is run once more on real ones. Attention is recorded as matrix products and softmax, whatever kernel would
run it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only

from secateur.errors import InputError, TraceError
from secateur.graph import hollow, memory
from secateur.graph.choices import Choices, Execute, Held
from secateur.graph.nested import all_of, mapped
from secateur.graph.state import Written, undisturbed
from secateur.graph.terms import Dim, atom, const, is_const, norm

LeafKind = Literal["parameter", "buffer", "attribute", "input", "constant"]
Medium = Literal["hollow", "fake", "real"]
MEDIA: tuple[Medium, ...] = ("hollow", "fake", "real")
Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(eq=False, slots=True)
class Value:
    """A tensor of the recording: its shape and what each dimension is made of.

    `leaves` are the model's own tensors it was computed from, where it depends on nothing else.
    """

    shape: tuple[int, ...]
    dims: list[Dim] | None = None
    leaves: frozenset[str] = frozenset()


@dataclass(eq=False, slots=True)
class Call:
    """One ATen call. `args` follow the operator's schema by name; tensors are `Value`s. `outs`: the results, flattened.

    `resize` maps an argument that holds sizes to the dimensions they come from, so that a replay on cut tensors can ask
    for theirs. `stack` lists the modules at work, outermost first.
    """

    func: torch._ops.OpOverload
    args: dict[str, Any]
    outs: list[Value]
    stack: tuple[str, ...]
    resize: dict[str, Any] = field(default_factory=dict)

    @property
    def module(self) -> str:
        """The innermost module at work."""
        return self.stack[-1] if self.stack else ""

    @property
    def op(self) -> str:
        """The operator's name without namespace, overload and in-place underscore: `add`, `convolution`."""
        return operator_name(self.func)

    def __getitem__(self, name: str) -> Any:
        return self.args[name]

    def tensors(self) -> list[Value]:
        """The tensors it reads, in the schema's order."""
        found: list[Value] = []
        for value in self.args.values():
            if isinstance(value, Value):
                found.append(value)
            elif type(value) in (list, tuple):
                found += all_of(Value, value)
        return found


@functools.cache
def operator_name(func: Any) -> str:
    """An operator's name without namespace, overload and in-place underscore."""
    name: str = func._schema.name.partition("::")[2]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


@functools.cache
def parameters(func: Any) -> tuple[tuple[str, Any], ...]:
    """The names and defaults of an operator's arguments; asking the schema each time is slow."""
    return tuple((argument.name, argument.default_value) for argument in func._schema.arguments)


@dataclass(eq=False, slots=True)
class Leaf:
    """A tensor that the run started from: the model's own, an input, or a constant made elsewhere."""

    name: str
    kind: LeafKind
    tensor: Tensor
    value: Value


@dataclass(eq=False)
class Recording:
    """The calls of one run in order, the tensors they started from, and the run's results.

    `medium` says what it ran on, so that later runs use the same: hollow tensors where they do, torch's fake ones where
    those are needed, real ones where the way through the model depends on values. `queries` are those of attention that
    states no scale, with the module that runs it. `memory`: the ids of outputs that only the model itself reads.
    `choices` are those that depend on values, and `seen` what they are made from, in order. `written` are the
    attributes that the run changed, `training` says in which mode it was.
    """

    calls: list[Call]
    leaves: list[Leaf]
    outputs: list[Value]
    medium: Medium = "hollow"
    queries: list[tuple[str, Value]] = field(default_factory=list)
    memory: frozenset[int] = frozenset()
    choices: Choices = field(default_factory=Choices)
    seen: list[Value] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)
    training: bool = False

    @property
    def scales(self) -> dict[str, float]:
        """The attention scales that modules take from their head size, by path; none for heads of two sizes."""
        sizes: dict[str, set[int]] = {}
        for path, query in self.queries:
            sizes.setdefault(path, set()).add(query.shape[-1])
        return {path: float(min(found)) ** -0.5 for path, found in sizes.items() if len(found) == 1}

    @property
    def compared(self) -> list[Value]:
        """What runs are compared by: the results, and what choices are made from, where no cut changes its shape."""
        return [*self.outputs, *(self.seen[i] for i in self.fixed)]

    @property
    def fixed(self) -> list[int]:
        """Which of `seen` have a shape that no cut changes, by position."""
        return [i for i, value in enumerate(self.seen) if all(is_const(norm(d)) for d in value.dims or ())]

    def own(self) -> Iterator[Leaf]:
        """The leaves that belong to the model."""
        return (leaf for leaf in self.leaves if leaf.kind in ("parameter", "buffer", "attribute"))


def normalise(example: Any) -> Inputs:
    """The positional and keyword arguments that a tensor, a tuple (positional) or a mapping (keywords) stands for."""
    if isinstance(example, Tensor):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, tuple | list):
        return tuple(example), {}
    raise InputError(
        f"The 'example' parameter must be a tensor, a tuple of what the model is called with, or a dict of its keyword "
        f"arguments. Got {type(example).__name__} instead. An example is needed to prove every cut by a forward pass."
    )


def named_tensors(model: nn.Module) -> dict[str, tuple[LeafKind, Tensor]]:
    """Every tensor that the model holds, each once, under its first name: parameters, buffers and plain attributes."""
    found: dict[str, tuple[LeafKind, Tensor]] = {}
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        kinds: list[tuple[LeafKind, Mapping[str, Any]]] = [
            ("parameter", module._parameters),
            ("buffer", module._buffers),
            ("attribute", module.__dict__),
        ]
        for kind, table in kinds:
            for name, value in table.items():
                if isinstance(value, Tensor) and id(value) not in seen:
                    seen.add(id(value))
                    found[f"{prefix}.{name}" if prefix else name] = (kind, value)
    return found


class PlainFunctions(TorchFunctionMode):
    """Runs linear layers in one way and tells attention its scale.

    Torch chooses among several ways to run a linear layer by memory layout; here it is always one matrix product of two
    dimensions. Attention without a stated scale computes one from the head size: `scales` gives the one to use, by the
    path of the module at work; where it has none, `queries` collects the queries that a default scale was made for.
    """

    def __init__(self, stack: Sequence[str], scales: Mapping[str, float]) -> None:
        super().__init__()
        self.stack, self.scales = stack, scales
        self.queries: list[tuple[str, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.linear:
            return self._linear(*args, **kwargs)
        if func is nn.functional.scaled_dot_product_attention and kwargs.get("scale") is None:
            path = self.stack[-1] if self.stack else ""
            if path in self.scales:
                kwargs = {**kwargs, "scale": self.scales[path]}
            else:
                self.queries.append((path, args[0] if args else kwargs["query"]))
        return func(*args, **kwargs)

    @staticmethod
    def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002 - torch's name
        if weight.dim() != 2 or input.dim() < 2:
            return nn.functional.linear(input, weight, bias)
        rows = input.reshape(-1, input.shape[-1])
        out = rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())
        return out.view(*input.shape[:-1], weight.shape[0])


@contextlib.contextmanager
def plain_kernels(stack: Sequence[str] = (), scales: Mapping[str, float] | None = None) -> Iterator[PlainFunctions]:
    """Runs the block with attention and recurrent layers spelled out and without fused inference paths.

    `stack` holds the paths of the modules at work; `scales` the attention scales to use where a module states none.
    """
    fast, onednn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)  # it runs recurrent layers as one operator
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)  # it prints whole tracebacks of errors that are caught and told in words
    functions = PlainFunctions(stack, scales or {})
    try:
        with (
            torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
            torch.no_grad(),
            functions,
        ):
            yield functions
    finally:
        logger.setLevel(level)
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._set_mkldnn_enabled(onednn)


@contextlib.contextmanager
def module_stack(modules: Iterable[tuple[str, nn.Module]]) -> Iterator[list[str]]:
    """A list that holds, while the block runs, the paths of the modules whose forward is at work, outermost first.

    `modules` are those that are told, by path: `model.named_modules()`.
    """
    paths = {id(module): path for path, module in modules}
    stack: list[str] = []

    def enter(module: nn.Module, _: Any) -> None:
        if id(module) in paths:
            stack.append(paths[id(module)])

    def leave(module: nn.Module, _: Any, __: Any) -> None:
        if id(module) in paths and stack:
            stack.pop()

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()


def call_plainly(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What a call gives on the tensors it is made with."""
    return func(*args, **kwargs)


def execution(medium: Medium) -> Execute:
    """How calls are made on tensors of a kind."""
    return hollow.run if medium == "hollow" else call_plainly


class Recorder(TorchDispatchMode):
    """Writes down every ATen call made while it is active."""

    def __init__(self, leaves: Sequence[Leaf], stack: list[str], medium: Medium, held: Held) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.leaves = list(leaves)
        self.stack = stack
        self.values: dict[int, Value] = {id(leaf.tensor): leaf.value for leaf in leaves}
        self.alive: list[Tensor] = [leaf.tensor for leaf in leaves]  # ids stay unique as long as the tensors live
        self.execute = held.around(execution(medium))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first call imports torch's compiler, a second for nothing

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # questions about a tensor, no computation
            return func(*args, **kwargs)
        bound = self._bind(func, args, kwargs)
        result = self.execute(func, args, kwargs)
        outs = [self._result(t) for t in all_of(Tensor, result)]
        self.calls.append(Call(func, bound, outs, tuple(self.stack)))
        return result

    def _bind(self, func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
        bound = {}
        for i, (name, default) in enumerate(parameters(func)):
            value = args[i] if i < len(args) else kwargs.get(name, default)
            if isinstance(value, Tensor):
                value = self.value(value)
            elif type(value) in (list, tuple):
                value = mapped(Tensor, self.value, value)
            bound[name] = value
        return bound

    def value(self, tensor: Tensor) -> Value:
        """The recorded value of a tensor; one that was made outside the run becomes a constant."""
        known = self.values.get(id(tensor))
        if known is not None and known.shape == tuple(tensor.shape):
            return known
        value = Value(tuple(tensor.shape), [const(n) for n in tensor.shape])
        self.leaves.append(Leaf(f"constant {len(self.leaves)}", "constant", tensor, value))
        return self._remember(tensor, value)

    def _result(self, tensor: Tensor) -> Value:
        known = self.values.get(id(tensor))
        if known is not None and known.shape == tuple(tensor.shape):
            return known  # written in place
        return self._remember(tensor, Value(tuple(tensor.shape)))

    def _remember(self, tensor: Tensor, value: Value) -> Value:
        self.values[id(tensor)] = value
        self.alive.append(tensor)
        return value


def record(
    model: nn.Module,
    inputs: Inputs,
    *,
    training: bool = False,
    dims: Mapping[str, list[Dim]] | None = None,
    wanted: Collection[str] | None = None,
) -> Recording:
    """The calls of one run of `model` on `inputs`.

    `dims` gives the model's own tensors the dimensions of an earlier recording, so that both speak of the same units.
    `wanted` names the results that must keep their widths, all unless said, but for what the model itself gets back.
    Raises `TraceError` with the model's own error where its forward fails.
    """
    tensors = named_tensors(model)
    _check_devices(tensors, inputs)

    def attempt(medium: Medium, choices: Choices) -> Recording:
        with undisturbed(model, training) as written, _tensors_on(medium) as made:  # real values are restored outside
            given = tree_map_only(Tensor, made, inputs)
            recording = _run(model, given, tensors, dims, wanted=wanted, medium=medium, choices=choices)
        recording.written, recording.training = written, training
        return recording

    with contextlib.suppress(Exception):  # whatever it is, fake tensors know more and tell it better
        return attempt("hollow", Choices())
    try:
        return attempt("fake", Choices())
    except (DataDependentOutputException, DynamicOutputShapeException):
        with undisturbed(model, training):
            choices = _choose(model, inputs)
    for medium in MEDIA[:2]:
        with contextlib.suppress(Exception):
            return attempt(medium, choices)
    return attempt("real", choices)


@contextlib.contextmanager
def _tensors_on(medium: Medium) -> Iterator[Callable[[Tensor], Tensor]]:
    """What makes the tensors that a run of some medium is given, while the block runs."""
    if medium == "fake":
        with FakeTensorMode(allow_non_fake_inputs=True) as fake:
            yield fake.from_tensor
    else:
        yield hollow.of if medium == "hollow" else lambda tensor: tensor


def _choose(model: nn.Module, inputs: Inputs) -> Choices:
    """What the model chooses by looking at values when it is run on the example."""
    choices = Choices()
    with plain_kernels(), Held(choices, writing=True):
        try:
            model(*inputs[0], **inputs[1])
        except Exception as error:
            raise _failure(error, model) from error
    return choices


def _run(
    model: nn.Module,
    inputs: Inputs,
    tensors: Mapping[str, tuple[LeafKind, Tensor]],
    dims: Mapping[str, list[Dim]] | None,
    *,
    wanted: Collection[str] | None,
    medium: Medium,
    choices: Choices,
) -> Recording:
    leaves = []
    for name, (kind, tensor) in tensors.items():
        own = dims[name] if dims and name in dims else [atom(n) for n in tensor.shape]
        leaves.append(Leaf(name, kind, tensor, Value(tuple(tensor.shape), own, frozenset([name]))))
    for i, tensor in enumerate(t for t in tree_flatten(inputs)[0] if isinstance(t, Tensor)):
        leaves.append(Leaf(f"input {i}", "input", tensor, Value(tuple(tensor.shape), [const(n) for n in tensor.shape])))
    with module_stack(model.named_modules()) as stack, plain_kernels(stack) as functions:
        held = Held(choices)
        recorder = Recorder(leaves, stack, medium, held)
        try:
            with recorder:
                output = model(*inputs[0], **inputs[1])
        except (DataDependentOutputException, DynamicOutputShapeException):
            raise
        except Exception as error:
            raise _failure(error, model) from error
        outputs = [recorder.value(t) for t in tensors_of(output)]
        kept = frozenset(id(recorder.value(t)) for t in memory_of(model, inputs, output, wanted))
        queries = [(path, recorder.value(query)) for path, query in functions.queries]
        seen = [recorder.value(tensor) for tensor in held.seen]
    return Recording(recorder.calls, recorder.leaves, outputs, medium, queries, kept, choices, seen)


def _failure(error: Exception, model: nn.Module) -> TraceError:
    path = failing_module(error, model)
    place = f"in module '{path}' ({type(model.get_submodule(path)).__name__})" if path else "in its forward"
    return TraceError(
        f"The model raised {type(error).__name__} {place} when it was called on the example: {error}. "
        f"Call the model on the example yourself; it must run before it can be pruned."
    )


def failing_module(error: BaseException, model: nn.Module) -> str | None:
    """The path of the innermost module of `model` whose forward the error passed through; None where it passed none."""
    paths = {id(module): path for path, module in model.named_modules()}
    found = None
    trace = error.__traceback__
    while trace is not None:
        found = paths.get(id(trace.tb_frame.f_locals.get("self")), found)
        trace = trace.tb_next
    return found


def tensors_of(output: Any) -> list[Tensor]:
    """Every tensor in a model's result: nested tuples, lists, mappings, dataclasses and plain objects of tensors."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        return [t for v in output.values() for t in tensors_of(v)]
    if isinstance(output, tuple | list | set):
        return [t for v in output for t in tensors_of(v)]
    if hasattr(output, "__dict__") and not isinstance(output, nn.Module | type):
        return [t for v in vars(output).values() for t in tensors_of(v)]
    return []


def memory_of(model: nn.Module, inputs: Inputs, output: Any, wanted: Collection[str] | None) -> list[Tensor]:
    """The tensors in a model's result that only the model itself reads: those under free names and under no other."""
    fields = output if isinstance(output, Mapping) else getattr(output, "__dict__", {})
    free = memory.free_names(model, inputs, fields, wanted)
    seen = {id(t) for name, value in fields.items() if name not in free for t in tensors_of(value)}
    return [t for name in free for t in tensors_of(fields[name]) if id(t) not in seen]


def _check_devices(tensors: Mapping[str, tuple[LeafKind, Tensor]], inputs: Inputs) -> None:
    own = {tensor.device for _, tensor in tensors.values()}
    for given in (t for t in tree_leaves(inputs) if isinstance(t, Tensor)):
        if own and given.device not in own:
            devices = ", ".join(sorted(map(str, own)))
            raise InputError(
                f"The example is on {given.device} and the model on {devices}. "
                f"Move the example with .to({str(min(own, key=str))!r})."
            )
