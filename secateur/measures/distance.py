"""How far a pruned network's function lies from the dense one's, on noisy images.

Liebenwein et al., "Lost in Pruning" (arXiv 2103.03014), section on function distance: noise drawn uniformly from
[-eps, eps] is added to every value of the normalised inputs, not clipped, and all networks see the same noisy images.
Told are the share of images with the same label and the Euclidean distance between the softmax outputs.

Differences from the published code: it holds the noisy images of all levels at once (18 GB for CIFAR-10); here one
batch is in memory. The noise of an image in one draw is the same at all levels, scaled by eps, so that neighbouring
levels differ by their eps alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.data.corruptions.draws import Draws
from secateur.errors import DataError, InputError

EPSILONS = tuple(round(0.05 * step, 2) for step in range(15))
"""0 to 0.7 in steps of 0.05, as published, in units of the normalised inputs."""
DRAWS = 10
"""Of the noise; 100 were published."""

Network = Callable[[Tensor], Tensor]
Noisy = tuple[Tensor, Tensor, Tensor]
"""Normalised inputs, labels, and the number of each image in its data set."""


@dataclass(frozen=True)
class Level:
    """At one `epsilon`: means over draws and their standard deviation, each draw over all images.

    `agreement`: the share of images with the dense network's label. `distance`: of the softmax outputs, 0 to sqrt(2).
    `accuracies`: of every draw; those of the dense network stand under its own name.
    """

    epsilon: float
    agreement: float
    agreement_deviation: float
    distance: float
    distance_deviation: float
    accuracies: tuple[float, ...]


@torch.no_grad()
def function_distance(
    dense: Network,
    others: Mapping[str, Network],
    batches: Iterable[Noisy],
    *,
    epsilons: Sequence[float] = EPSILONS,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, list[Level]]:
    """The distance of each network from `dense`, a list of levels a name; "dense" is the dense network itself.

    Networks map normalised inputs to scores. Raises `InputError` for levels below 0, no draw, or networks with other
    numbers of classes.

    >>> function_distance(dense, {"pruned": slim}, batches)["pruned"][0].agreement
    """
    if not epsilons or min(epsilons) < 0 or draws < 1:
        raise InputError(f"Function distance needs levels of at least 0 and a draw. Got {list(epsilons)} and {draws}.")
    if "dense" in others:
        raise InputError("The name 'dense' belongs to the dense network. Give the others different names.")
    networks = {"dense": dense, **others}
    sums = {name: torch.zeros(len(epsilons), draws, 3, dtype=torch.float64) for name in networks}
    images = 0
    for inputs, labels, indices in batches:
        images += len(inputs)
        for draw in range(draws):
            noise = Draws.of(seed, "noise", draw, indices.to(inputs.device)).uniform(-1, 1, *inputs.shape[1:])
            for level, epsilon in enumerate(epsilons):
                if draw and not epsilon:
                    continue  # without noise all draws are one
                for name, row in _sums(networks, torch.add(inputs, noise, alpha=epsilon), labels).items():
                    sums[name][level, draw] += row
    if not images:
        raise DataError("Function distance needs at least one image. There is none.")
    for table in sums.values():
        for level, epsilon in enumerate(epsilons):
            if not epsilon:
                table[level] = table[level, :1]
    return {name: _levels(table / images, epsilons) for name, table in sums.items()}


def _sums(networks: Mapping[str, Network], inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Of every network, summed over a batch: the same label as dense, distance from it, right answers."""
    outputs = {name: network(inputs) for name, network in networks.items()}
    first = outputs["dense"]
    ours, label = first.double().softmax(dim=1), first.argmax(dim=1)
    rows = {}
    for name, output in outputs.items():
        if output.shape != first.shape:
            raise InputError(
                f"Networks that are compared must have the same classes. '{name}' gives {list(output.shape)}, the "
                f"dense one {list(first.shape)}."
            )
        theirs = output.argmax(dim=1)
        apart = (output.double().softmax(dim=1) - ours).norm(dim=1).sum()
        rows[name] = torch.stack([(theirs == label).sum().double(), apart, (theirs == labels).sum().double()]).cpu()
    return rows


def _levels(table: Tensor, epsilons: Sequence[float]) -> list[Level]:
    """Means over draws, from [levels, draws, 3]."""
    mean, deviation = table.mean(dim=1).tolist(), table.std(dim=1, correction=0).tolist()
    return [
        Level(epsilon, mean[i][0], deviation[i][0], mean[i][1], deviation[i][1], tuple(table[i, :, 2].tolist()))
        for i, epsilon in enumerate(epsilons)
    ]
