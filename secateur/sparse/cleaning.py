"""What of a sparse network matters: edges on a path from an input to an output. The rest is folded into biases.

A unit that no input reaches is a constant, and its constant belongs into the biases of those that read it; only then
may its edges go. A unit from which no output is reached may go as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.sparse.network import Layer, Network


@dataclass(frozen=True, eq=False)
class Live:
    """Which units matter: `reached` from an input, and `reaching` an output, each bool of shape `[units]` a column."""

    reached: tuple[Tensor, ...]
    reaching: tuple[Tensor, ...]

    @property
    def units(self) -> tuple[Tensor, ...]:
        """The units on a path from an input to an output, a column each."""
        return tuple(there & back for there, back in zip(self.reached, self.reaching, strict=True))

    def lost(self) -> list[int]:
        """The outputs, by position, that no input reaches: they are constant."""
        return (~self.reached[-1]).nonzero().flatten().tolist()


def live(network: Network) -> Live:
    """The closure over live paths: edges are the weights that are not zero.

    >>> live(network).lost()
    """
    edges = [layer.weight != 0 for layer in network.layers]
    reached = [torch.ones(edges[0].shape[1], dtype=torch.bool)]
    for there in edges:
        reached.append((there & reached[-1]).any(1))
    reaching = [torch.ones(len(edges[-1]), dtype=torch.bool)]
    for there in reversed(edges):
        reaching.append((there & reaching[-1][:, None]).any(0))
    return Live(tuple(reached), tuple(reversed(reaching)))


def compact(network: Network, *, names: Sequence[str] = (), allow_lost: bool = False) -> Network:
    """The same function on live units alone: constants folded into biases, dead inputs and units left out.

    Constants are computed in float64, so that the outputs differ by rounding only. Raises `InputError` for an output
    that no input reaches any more, with its name if there are `names`; with `allow_lost` it stays, as its bias.

    >>> small = compact(read(model, example))
    """
    found = live(network)
    if found.lost() and not allow_lost:
        lost = ", ".join(repr(names[i]) if i < len(names) else str(i) for i in found.lost())
        raise InputError(
            f"No path leads from an input to output {lost}: it is constant. Keep more edges, or ask for "
            "allow_lost=True to keep it as a bias."
        )
    keep = [*found.units[:-1], torch.ones_like(found.units[-1])]
    constant = torch.zeros(network.layers[0].weight.shape[1], dtype=torch.float64)
    layers = []
    for number, layer in enumerate(network.layers):
        wide = layer.weight.double()
        bias = layer.bias.double() + wide @ constant.masked_fill(found.reached[number], 0)
        constant = layer.activate(bias)
        rows, columns = keep[number + 1], keep[number]
        weight = layer.weight[rows][:, columns]
        layers.append(Layer(layer.name, weight, bias[rows].to(layer.bias.dtype), layer.activations))
    units = tuple(column[kept] for column, kept in zip(network.units, keep, strict=True))
    return Network(tuple(layers), units, network.width)
