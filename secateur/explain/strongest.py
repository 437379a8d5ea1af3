"""The strongest paths of a network, and the part of it that a page can draw."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.sparse import Network, edges


@dataclass(frozen=True, eq=False)
class Ranked:
    """The edges in the order of `sparse.edges`, with the rank of the strongest path through each, 1 the strongest.

    `strength`: the sum of all paths through an edge. `carried`: the share of the strength of all paths that the n
    strongest carry, element n - 1. `paths`: how many there are; those beyond the ones ranked have the rank `paths`.
    """

    rank: NDArray[np.int64]
    strength: NDArray[np.float64]
    carried: NDArray[np.float64]
    paths: int


def ranked(network: Network, scale: Tensor | None = None, *, most: int = 4000) -> Ranked:
    """Paths by what they carry: the product of their absolute weights and of their input's `scale`, `[in]`.

    At most the `most` strongest paths are told apart.
    """
    size = _scale(network, scale)
    found = edges(network)
    forward, backward = _sums(network, size)
    strength = np.abs(found["weight"].astype(np.float64))
    for number in range(len(network.layers)):
        own = found["layer"] == number
        strength[own] *= forward[number][found["source"][own]] * backward[number + 1][found["target"][own]]
    values, best = _best(network, size, most)
    counts = _sums(network, np.ones(len(size)), counted=True)[0][-1]
    paths, total = int(counts.sum()), float(forward[-1].sum())
    rank = np.full(len(found), paths, dtype=np.int64)
    for number in range(len(best) - 1, -1, -1):
        rank[best[number]] = number + 1
    return Ranked(rank, strength, np.cumsum(values) / total if total else np.zeros(0), paths)


@dataclass(frozen=True)
class Way:
    """One path: its units, a position in every column; the share of all strength it has; whether it speaks for (+1)."""

    units: tuple[int, ...]
    share: float
    sign: int


def strongest_paths(network: Network, scale: Tensor | None = None, *, most: int = 10) -> tuple[Way, ...]:
    """The strongest paths, by the product of their absolute weights and of their input's `scale`, `[in]`.

    `sign` is that of the product of the weights: -1 for a path that lowers its output as its input grows.

    >>> strongest_paths(network, inputs.std(0))[0].units
    """
    found, size = edges(network), _scale(network, scale)
    values, best = _best(network, size, most)
    total = float(_sums(network, size)[0][-1].sum())
    made = []
    for value, path in zip(values, best, strict=True):
        steps = found[path[::-1]]
        units = (*steps["source"].tolist(), int(steps["target"][-1]))
        made.append(Way(units, float(value) / total if total else 0.0, int(np.prod(np.sign(steps["weight"])))))
    return tuple(made)


def _scale(network: Network, scale: Tensor | None) -> NDArray[np.float64]:
    return np.ones(len(network.units[0])) if scale is None else scale.double().abs().numpy()


def _sums(
    network: Network, start: NDArray[np.float64], *, counted: bool = False
) -> tuple[list[NDArray[np.float64]], ...]:
    """The strength of all paths from the inputs to each unit, and from each unit to the outputs."""
    weights = [layer.weight.double().abs().numpy() for layer in network.layers]
    if counted:
        weights = [(weight != 0).astype(np.float64) for weight in weights]
    forward = [start]
    for weight in weights:
        forward.append(weight @ forward[-1])
    backward = [np.ones(len(network.units[-1]))]
    for weight in reversed(weights):
        backward.append(backward[-1] @ weight)
    return forward, backward[::-1]


Steps = list[list[list[tuple[int, int]]]]


def _best(network: Network, scale: NDArray[np.float64], most: int) -> tuple[NDArray[np.float64], list[list[int]]]:
    """The strengths of the strongest paths, falling, and the edges of each.

    Of every unit the `most` strongest paths to it are kept, as (edge, place among the paths to its source).
    """
    found = edges(network)
    paths = [np.array([value]) for value in scale]
    steps: Steps = []
    for number, layer in enumerate(network.layers):
        into: list[list[int]] = [[] for _ in range(len(layer.weight))]
        for edge in np.flatnonzero(found["layer"] == number):
            into[found["target"][edge]].append(int(edge))
        merged = [_merged(own, found, paths, most) for own in into]
        paths = [values for values, _ in merged]
        steps.append([came for _, came in merged])
    everything = [(value, unit, place) for unit, own in enumerate(paths) for place, value in enumerate(own)]
    chosen = sorted(everything, key=lambda one: -one[0])[:most]
    return np.array([value for value, *_ in chosen]), [_back(found, steps, unit, at) for _, unit, at in chosen]


def _back(found: NDArray[Any], steps: Steps, unit: int, place: int) -> list[int]:
    """The edges of a path, from the one that ends in an output back to the inputs."""
    path = []
    for step in reversed(steps):
        edge, place = step[unit][place]
        path.append(edge)
        unit = int(found["source"][edge])
    return path


def _merged(
    own: list[int], found: NDArray[Any], paths: list[NDArray[np.float64]], most: int
) -> tuple[NDArray[np.float64], list[tuple[int, int]]]:
    """The strongest paths over any of a unit's edges."""
    if not own:
        return np.zeros(0), []
    parts = [paths[found["source"][edge]] * abs(float(found["weight"][edge])) for edge in own]
    values = np.concatenate(parts)
    edge = np.repeat(own, [len(part) for part in parts])
    place = np.concatenate([np.arange(len(part)) for part in parts])
    order = np.argsort(-values, kind="stable")[:most]
    return values[order], list(zip(edge[order].tolist(), place[order].tolist(), strict=True))


def strongest_part(network: Network, scale: Tensor, *, edges_drawn: int, units_drawn: int) -> Network:
    """The network with the edges of its strongest paths alone, in the same columns: as many as a page can draw.

    Paths are taken whole, the strongest first, as long as there are at most `edges_drawn` edges and `units_drawn`
    units in a column.
    """
    found, kept = edges(network), set[int]()
    used: list[set[int]] = [set() for _ in network.units]
    for path in _best(network, _scale(network, scale), edges_drawn)[1]:
        ends = [(int(found["layer"][edge]), int(found["source"][edge])) for edge in path]
        ends.append((len(network.layers), int(found["target"][path[0]])))
        full = any(unit not in used[column] and len(used[column]) >= units_drawn for column, unit in ends)
        if full or len(kept.union(path)) > edges_drawn:
            continue
        kept.update(path)
        for column, unit in ends:
            used[column].add(unit)
    chosen = found[sorted(kept)]
    layers = []
    for number, layer in enumerate(network.layers):
        own = chosen[chosen["layer"] == number]
        target, source = (torch.from_numpy(own[end].astype(np.int64)) for end in ("target", "source"))
        weight = torch.zeros_like(layer.weight)
        weight[target, source] = layer.weight[target, source]
        layers.append(replace(layer, weight=weight))
    return replace(network, layers=tuple(layers))
