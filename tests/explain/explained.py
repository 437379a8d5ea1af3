"""Small sparse networks for tests of explanations."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from secateur.sparse import Layer, Network, read


def random_network(widths=(6, 5, 4, 3), share=0.5, seed=0, activation=nn.ReLU) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts: list[nn.Module] = []
        for given, units in itertools.pairwise(widths):
            linear = nn.Linear(given, units)
            linear.weight.data *= torch.rand_like(linear.weight) < share
            parts += [linear, activation()]
        return read(nn.Sequential(*parts[:-1]), torch.zeros(1, widths[0]))


def of_weights(*weights, biases=None, width=None) -> Network:
    """Layers with relu between them, from nested lists."""
    layers = []
    for i, rows in enumerate(weights):
        weight = torch.tensor(rows, dtype=torch.float32)
        bias = torch.tensor(biases[i], dtype=torch.float32) if biases else torch.zeros(len(weight))
        layers.append(Layer(f"fc{i + 1}", weight, bias, ("relu",) if i < len(weights) - 1 else ()))
    sizes = [layers[0].weight.shape[1], *(len(layer.weight) for layer in layers)]
    return Network(tuple(layers), tuple(torch.arange(n) for n in sizes), width or sizes[0])


def rescaled(network: Network, layer: int, unit: int, factor: float) -> Network:
    """The same function: a rectified unit scaled by `factor`, and what reads it by its inverse."""
    layers = list(network.layers)
    up, down = layers[layer], layers[layer + 1]
    weight, bias, after = up.weight.clone(), up.bias.clone(), down.weight.clone()
    weight[unit] *= factor
    bias[unit] *= factor
    after[:, unit] /= factor
    layers[layer] = Layer(up.name, weight, bias, up.activations)
    layers[layer + 1] = Layer(down.name, after, down.bias, down.activations)
    return Network(tuple(layers), network.units, network.width)


def permuted(network: Network, layer: int, order: list[int]) -> Network:
    """The same function with the hidden units of a layer in another order."""
    layers = list(network.layers)
    up, down = layers[layer], layers[layer + 1]
    layers[layer] = Layer(up.name, up.weight[order], up.bias[order], up.activations)
    layers[layer + 1] = Layer(down.name, down.weight[:, order], down.bias, down.activations)
    units = [*network.units[: layer + 1], network.units[layer + 1][order], *network.units[layer + 2 :]]
    return Network(tuple(layers), tuple(units), network.width)


def all_paths(network: Network) -> list[tuple[int, ...]]:
    """Every path from an input to an output, by trying all."""
    widths = [len(column) for column in network.units]
    return [
        path
        for path in itertools.product(*map(range, widths))
        if all(layer.weight[path[i + 1], path[i]] != 0 for i, layer in enumerate(network.layers))
    ]
