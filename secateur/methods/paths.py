"""Paths from a network's inputs to its outputs: which outputs none leads to, and which would be the best to have.

Networks that are chains of linear layers and convolutions have them, with anything between the layers that treats
every unit alike and for itself. An entry of layer l may be passed where d[l] is above 0,

    widest_0 = inf,    widest_l,i = max_j min(d[l]_ij, widest_(l-1),j)         outputs with none above 0 are lost
    best_0 = 0,        best_l,i = max_j (log p[l]_ij + best_(l-1),j)           p: the chance that an entry is open

A unit of a layer is its row, so a channel is one unit whatever its size in space.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import TraceError
from secateur.graph.trace import Call, Recording, Value, normalise, record

_WEIGHT = {"mm": 1, "addmm": 2, "convolution": 1}  # the position among the tensors of what a layer multiplies by
_VIEWS = {"view", "reshape", "_unsafe_view", "alias", "detach", "clone", "contiguous"}
_UNITWISE = {
    *("relu", "tanh", "sigmoid", "silu", "gelu", "leaky_relu", "elu", "hardtanh", "hardswish", "softplus", "clamp"),
    *("max_pool1d", "max_pool2d_with_indices", "avg_pool1d", "avg_pool2d", "_adaptive_avg_pool2d", "mean"),
    *("native_batch_norm", "_native_batch_norm_legit_no_training", "add", "sub", "mul", "div"),
    *("_log_softmax", "_softmax"),
}  # fmt: skip


class Paths:
    """The paths of a chain: `layers` are the names of its weights from first to last, each with the units it reads.

    Entries are given by those names, as tensors of the weights' shapes; `outputs` is how many there are.
    """

    def __init__(self, layers: Mapping[str, int], outputs: int) -> None:
        self.layers, self.outputs = dict(layers), outputs

    def lost(self, opened: Mapping[str, Tensor]) -> list[int]:
        """The outputs, by position, to which no path leads; entries that may be passed are above 0, or true."""
        widest: Tensor | None = None
        for name, before in self.layers.items():
            there = opened[name].flatten(1)
            if there.shape[1] != before:
                there = there.view(len(there), before, -1).amax(2)
            widest = (there if widest is None else torch.minimum(there, widest)).amax(1)
        assert widest is not None
        return (widest <= 0).nonzero().flatten().tolist()

    def best(self, chances: Mapping[str, Tensor], outputs: Iterable[int]) -> dict[str, Tensor]:
        """Layer -> the entries, as flat indices, of the likeliest path to each of the outputs; `chances` are log p."""
        likely: Tensor | None = None
        through = {}
        for name, before in self.layers.items():
            rows = chances[name].reshape(len(chances[name]), before, -1)
            sums = (rows if likely is None else rows + likely[:, None]).flatten(1)
            likely, through[name] = sums.max(1)
        row = torch.tensor(list(outputs), device=sums.device)
        found = {}
        for name, before in reversed(self.layers.items()):
            across = chances[name][0].numel()
            column = through[name][row]
            found[name] = (row * across + column).unique()
            row = column // (across // before)
        return found


def find_paths(model: nn.Module, inputs: Any) -> Paths | None:
    """The paths of a model that is a chain, as it is in evaluation on `inputs`; None for any other model."""
    try:
        recording = record(model, normalise(inputs))
    except TraceError:
        return None
    return _followed(recording)


def _followed(recording: Recording) -> Paths | None:
    """The layers in the order in which the run computed them, if every call goes on from the one before."""
    weights = {id(leaf.value): leaf.name for leaf in recording.own()}
    given = [leaf.value for leaf in recording.leaves if leaf.kind == "input"]
    if len(given) != 1 or len(recording.outputs) != 1:
        return None
    now, units = given[0], 0
    layers: dict[str, int] = {}
    for call in recording.calls:
        own = [value for value in call.tensors() if id(value) in weights]
        if call.op == "t" and own:
            weights[id(call.outs[0])] = weights[id(own[0])]
        elif len(own) < len(call.tensors()):
            before, now = now, call.outs[0]
            name = weights.get(id(call.tensors()[_WEIGHT[call.op]])) if call.op in _WEIGHT else None
            units = units or before.shape[1]
            if [value for value in call.tensors() if value not in own] != [before]:
                return None
            if name is not None and name not in layers and before.shape[1] % units == 0 and _ungrouped(call):
                layers[name], units = units, now.shape[1]
            elif name is not None or not _unitwise(call, before, now):
                return None
    return Paths(layers, units) if layers and recording.outputs[0] is now and now.shape[1:] == (units,) else None


def _ungrouped(call: Call) -> bool:
    return call.op != "convolution" or (call["groups"] == 1 and not call["transposed"])


def _unitwise(call: Call, before: Value, after: Value) -> bool:
    """Whether the call treats every unit for itself; views may spread a unit's space over columns."""
    if call.op in _VIEWS:
        return before.shape[:1] == after.shape[:1] and (len(after.shape) == 2 or before.shape == after.shape)
    return call.op in _UNITWISE and before.shape[:2] == after.shape[:2]
