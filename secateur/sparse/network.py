"""A chain of linear layers as plain numbers: what sparse networks are cleaned, explained and exported as."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.graph.trace import Call, Recording, Value, normalise, record

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "silu": nn.functional.silu,
    "tanh": torch.tanh,
}
_SAME = {"view", "reshape", "_unsafe_view", "alias", "detach", "clone", "contiguous"}


@dataclass(frozen=True, eq=False)
class Layer:
    """`activation(weight @ x + bias)`: weight `[out, in]`, bias `[out]`; `activations` are applied in order."""

    name: str
    weight: Tensor
    bias: Tensor
    activations: tuple[str, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """The outputs `[batch, out]` for inputs `[batch, in]`."""
        return self.activate(x @ self.weight.to(x).t() + self.bias.to(x))

    def activate(self, x: Tensor) -> Tensor:
        """What the activations make of sums."""
        for name in self.activations:
            x = ACTIVATIONS[name](x)
        return x


@dataclass(frozen=True, eq=False)
class Network:
    """Layers one after the other, and which units of the original its columns hold.

    `units` has one column more than there are layers: indices of inputs, then of each layer's outputs. `width`: how
    many inputs it is given, of which it reads `units[0]`.

    >>> network = read(model, example)
    >>> network(x)
    """

    layers: tuple[Layer, ...]
    units: tuple[Tensor, ...]
    width: int

    def __call__(self, x: Tensor) -> Tensor:
        """The outputs `[batch, out]` for all inputs; dimensions behind the first are flattened."""
        x = x.flatten(1)[:, self.units[0]]
        for layer in self.layers:
            x = layer(x)
        return x

    @property
    def counts(self) -> dict[str, int]:
        """What there is of each: edges, biases that are not zero, both together, and units of all columns."""
        weights = sum(int(layer.weight.count_nonzero()) for layer in self.layers)
        biases = sum(int(layer.bias.count_nonzero()) for layer in self.layers)
        return {
            "edges": weights,
            "biases": biases,
            "parameters": weights + biases,
            "units": sum(len(column) for column in self.units),
        }


def read(model: nn.Module, example: Any) -> Network:
    """The chain of linear layers that `model` computes in evaluation, its numbers copied.

    Raises `InputError` for a model that computes anything else between its input and its output than linear layers,
    changes of shape, and the activations relu, sigmoid, silu and tanh.
    """
    training = {module: module.training for module in model.modules()}
    try:
        recording = record(model.eval(), normalise(example))
    finally:
        for module, mode in training.items():
            module.training = mode
    layers = _chain(recording)
    sizes = [layers[0].weight.shape[1], *(len(layer.weight) for layer in layers)]
    return Network(tuple(layers), tuple(torch.arange(n) for n in sizes), sizes[0])


def _chain(recording: Recording) -> list[Layer]:
    """The layers in the order in which the run computed them."""
    tensors = {id(leaf.value): leaf for leaf in recording.own()}
    ends = [leaf.value for leaf in recording.leaves if leaf.kind == "input"]
    if len(ends) != 1 or len(recording.outputs) != 1:
        raise InputError(
            f"A chain of layers has one input and one output. The model has {len(ends)} and {len(recording.outputs)}."
        )
    turned: dict[int, str] = {}
    layers: list[Layer] = []
    now: Value = ends[0]
    for call in recording.calls:
        given = call.tensors()
        if call.op == "t" and id(given[0]) in tensors:
            turned[id(call.outs[0])] = tensors[id(given[0])].name
            continue
        if not any(value is now for value in given):
            raise _not_a_chain(call)
        if call.op in ("mm", "addmm"):
            layers.append(_layer(call, now, {leaf.name: leaf.tensor for leaf in tensors.values()}, turned, tensors))
        elif call.op in ACTIVATIONS and layers:
            last = layers[-1]
            layers[-1] = Layer(last.name, last.weight, last.bias, (*last.activations, call.op))
        elif call.op not in _SAME:
            raise _not_a_chain(call)
        now = call.outs[0]
    if not layers or recording.outputs[0] is not now:
        raise InputError(
            "The model's output must be that of its last linear layer or activation. It is something else."
        )
    return layers


def _layer(call: Call, now: Value, known: dict[str, Tensor], turned: dict[int, str], leaves: dict[int, Any]) -> Layer:
    """The layer of a matrix product between what the chain holds now and a turned weight."""
    given = call.tensors()
    x, matrix = given[-2], given[-1]
    if x is not now or id(matrix) not in turned:
        raise _not_a_chain(call)
    weight = known[turned[id(matrix)]].detach().clone()
    bias = torch.zeros(len(weight), dtype=weight.dtype)
    if call.op == "addmm":
        if id(given[0]) not in leaves or call["alpha"] != 1 or call["beta"] != 1:
            raise _not_a_chain(call)
        bias = leaves[id(given[0])].tensor.detach().clone()
    return Layer(turned[id(matrix)].rpartition(".")[0], weight.cpu(), bias.cpu())


def _not_a_chain(call: Call) -> InputError:
    where = f" in module '{call.module}'" if call.module else ""
    return InputError(
        f"The model must be a chain of linear layers and activations ({', '.join(ACTIVATIONS)}). It computes "
        f"'{call.op}'{where}, which is none of them."
    )
