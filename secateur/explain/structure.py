"""How a network hangs together: which inputs reach which outputs, what falls apart, and one output's share of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from secateur.errors import InputError
from secateur.explain.importance import path_product
from secateur.sparse import Network, edges, live


def reachability(network: Network) -> Tensor:
    """Whether a path leads from an input to an output: bool `[out, in]`."""
    return path_product(network, kind="count") > 0


@dataclass(frozen=True)
class Component:
    """Units that hang together, as positions in the network's columns, one tuple a column."""

    units: tuple[tuple[int, ...], ...]

    @property
    def inputs(self) -> tuple[int, ...]:
        """Positions in the first column."""
        return self.units[0]

    @property
    def outputs(self) -> tuple[int, ...]:
        """Positions in the last column."""
        return self.units[-1]


def components(network: Network) -> tuple[Component, ...]:
    """The connected components of the live units, that of the most units first; what is dead is in none."""
    alive = live(network).units
    starts = np.cumsum([0, *(len(column) for column in network.units)])
    known = torch.cat(alive).numpy()
    found = edges(network)
    ends = (starts[found["layer"]] + found["source"], starts[found["layer"] + 1] + found["target"])
    both = known[ends[0]] & known[ends[1]]
    pairs = (ends[0][both], ends[1][both])
    graph = coo_array((np.ones(len(pairs[0]), dtype=bool), pairs), shape=(len(known), len(known)))
    _, labels = connected_components(graph, directed=False)
    made = []
    for label in np.unique(labels[known]):
        own = known & (labels == label)
        columns = (np.flatnonzero(own[a:b]).tolist() for a, b in pairwise(starts))
        made.append(Component(tuple(tuple(column) for column in columns)))
    return tuple(sorted(made, key=lambda one: (-sum(map(len, one.units)), one.units)))


def subgraph(network: Network, output: int) -> Network:
    """The part of a network that one output depends on, in the same columns; the other outputs have no edges.

    Edges that do not lead to the output are gone, so that `subgraph(network, k)(x)[:, k]` is `network(x)[:, k]`.
    Raises `InputError` for an output that the network does not have.
    """
    count = len(network.units[-1])
    if not 0 <= output < count:
        raise InputError(f"The 'output' parameter of subgraph must be an int in [0, {count - 1}]. Got {output}.")
    leads = torch.arange(count) == output
    layers = []
    for layer in reversed(network.layers):
        weight = layer.weight * leads[:, None]
        layers.append(replace(layer, weight=weight, bias=layer.bias * leads))
        leads = (weight != 0).any(0)
    return replace(network, layers=tuple(reversed(layers)))
