"""The strongest paths of a network, and the part of it that a page can draw."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.sparse import Network, edges, live


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
    found = edges(network)
    size = torch.ones(len(network.units[0])) if scale is None else scale
    forward, backward = _sums(network, size.double().abs().numpy())
    weight = np.abs(found["weight"].astype(np.float64))
    layer = found["layer"]
    strength = np.array([forward[n][s] for n, s in zip(layer, found["source"], strict=True)]) * weight
    strength *= np.array([backward[n + 1][t] for n, t in zip(layer, found["target"], strict=True)])
    values, last, steps = _best(network, found, size.double().abs().numpy(), most)
    counts = _sums(network, np.ones(len(size)), counted=True)[0][-1]
    paths, total = int(counts.sum()), float(forward[-1].sum())
    rank = np.full(len(found), paths, dtype=np.int64)
    for number in range(len(values) - 1, -1, -1):
        unit, place = last[number]
        for step in reversed(steps):
            edge, place_before = step[unit][place]
            rank[edge] = number + 1
            unit, place = int(found["source"][edge]), place_before
    return Ranked(rank, strength, np.cumsum(values) / total if total else np.zeros(0), paths)


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


def _best(
    network: Network, found: NDArray[np.void], scale: NDArray[np.float64], most: int
) -> tuple[NDArray[np.float64], list[tuple[int, int]], Steps]:
    """The strongest paths: their strengths, falling, where each ends (unit, place), and by which edges it came.

    Of every unit the `most` strongest paths to it are kept, as (edge, place among the paths to its source).
    """
    paths = [np.array([value]) for value in scale]
    steps: Steps = []
    for number, layer in enumerate(network.layers):
        into: list[list[int]] = [[] for _ in range(len(layer.weight))]
        for edge in np.flatnonzero(found["layer"] == number):
            into[found["target"][edge]].append(int(edge))
        next_paths, step = [], []
        for own in into:
            values, came = _merged(own, found, paths, most)
            next_paths.append(values)
            step.append(came)
        paths = next_paths
        steps.append(step)
    everything = [(value, unit, place) for unit, own in enumerate(paths) for place, value in enumerate(own)]
    everything.sort(key=lambda one: -one[0])
    chosen = everything[:most]
    return np.array([value for value, *_ in chosen]), [(unit, place) for _, unit, place in chosen], steps


def _merged(
    own: list[int], found: NDArray[np.void], paths: list[NDArray[np.float64]], most: int
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
    """The network with its strongest edges alone, in the same columns: as many as a page can draw.

    Edges go in the order of the strength of all paths through them, so that at most `edges_drawn` remain, and no
    column has more than `units_drawn` units with an edge left. What then is on no path goes too.
    """
    found, strength = edges(network), ranked(network, scale, most=1).strength
    kept = np.zeros(len(found), dtype=bool)
    used: list[set[int]] = [set() for _ in network.units]
    for edge in np.argsort(-strength, kind="stable"):
        ends = [(int(found["layer"][edge]), int(found["source"][edge]))]
        ends.append((ends[0][0] + 1, int(found["target"][edge])))
        if any(unit not in used[column] and len(used[column]) >= units_drawn for column, unit in ends):
            continue
        kept[edge] = True
        for column, unit in ends:
            used[column].add(unit)
        if kept.sum() == edges_drawn:
            break
    layers = []
    for number, layer in enumerate(network.layers):
        weight = torch.zeros_like(layer.weight)
        own = kept & (found["layer"] == number)
        target, source = (torch.from_numpy(found[end][own].astype(np.int64)) for end in ("target", "source"))
        weight[target, source] = layer.weight[target, source]
        layers.append(replace(layer, weight=weight))
    part = replace(network, layers=tuple(layers))
    alive = live(part).units
    layers = [
        replace(layer, weight=layer.weight * alive[i + 1][:, None] * alive[i])
        for i, layer in enumerate(part.layers)
    ]  # fmt: skip
    return replace(part, layers=tuple(layers))
