"""How much each input matters to each output: read off the edges, or found by changing the inputs.

Path products are the default: those of a rectified network stay as they are when a hidden unit is scaled by c and what
reads it by 1/c, which sums of absolute weights do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.errors import InputError
from secateur.explain.columns import chain, read_inputs
from secateur.sparse import Network

Loss = Callable[[Tensor, Tensor], Tensor]
Kind = Literal["absolute", "signed", "count"]
_TAKEN: dict[Kind, Callable[[Tensor], Tensor]] = {
    "absolute": torch.abs,
    "signed": lambda weight: weight,
    "count": lambda weight: (weight != 0).double(),
}


def path_product(network: Network, inputs: Tensor | None = None, *, kind: Kind = "absolute") -> Tensor:
    """Sums over all paths of the product of what they pass: `[out, in]`, float64, in the network's own columns.

    `kind`: "absolute" weights, `|W_L| ... |W_1|`; "signed" ones; or the "count" of paths. With `inputs`
    `[samples, ...]` every input's column is multiplied by its standard deviation over the samples, except in a count.

    >>> path_product(network, data.test.images).sum(0).argsort(descending=True)
    """
    taken = _TAKEN.get(kind)
    if taken is None:
        raise InputError(f"The 'kind' parameter of path_product must be one of {', '.join(_TAKEN)}. Got {kind!r}.")
    product = torch.eye(network.layers[0].weight.shape[1], dtype=torch.float64)
    for layer in network.layers:
        product = taken(layer.weight.double()) @ product
    if inputs is None or kind == "count":
        return product
    return product * read_inputs(network, inputs).std(0, correction=0)


def degree(network: Network) -> Tensor:
    """How many edges leave each input, `[in]`: the first layer's mask, summed over its rows (SNIP, section 5.4)."""
    return (network.layers[0].weight != 0).double().sum(0)


def gradient_input(network: Network, inputs: Tensor) -> Tensor:
    """The mean over samples of |gradient x (input - its mean)|, `[out, in]`, float64."""
    x = read_inputs(network, inputs).requires_grad_()
    outputs, away = chain(network, x), (x - x.mean(0)).detach()
    rows = []
    for k in range(outputs.shape[1]):
        (gradient,) = torch.autograd.grad(outputs[:, k].sum(), x, retain_graph=True)
        rows.append((gradient * away).abs().mean(0))
    return torch.stack(rows)


def permutation(
    network: Network, inputs: Tensor, targets: Tensor, *, loss: Loss | None = None, repeats: int = 3, seed: int = 0
) -> Tensor:
    """How much the loss rises when one input is shuffled over the samples, `[in]`, the mean of `repeats` shuffles.

    `loss` of (outputs, targets): cross-entropy for labels, mean squared error for numbers, if left out.
    """
    if repeats < 1:
        raise InputError(f"The 'repeats' parameter of permutation must be an int of at least 1. Got {repeats}.")
    x, loss = read_inputs(network, inputs), loss or usual_loss(targets)
    draws = torch.Generator().manual_seed(seed)
    first, rest = network.layers[0], replace(network, layers=network.layers[1:])
    weight, rises = first.weight.double(), torch.zeros(x.shape[1], dtype=torch.float64)
    sums = x @ weight.t() + first.bias.double()  # made once; below it is moved by what one input moves
    before = loss(chain(rest, first.activate(sums)), targets)
    for _ in range(repeats):
        order = torch.randperm(len(x), generator=draws)
        for j in range(x.shape[1]):
            moved = sums + (x[order, j] - x[:, j])[:, None] * weight[:, j]  # the first layer, anew where it differs
            rises[j] += loss(chain(rest, first.activate(moved)), targets) - before
    return rises / repeats


def usual_loss(targets: Tensor) -> Loss:
    """Cross-entropy where targets are labels, mean squared error where they are numbers."""
    return F.mse_loss if targets.is_floating_point() else F.cross_entropy


def importances(network: Network, inputs: Tensor, targets: Tensor | None = None, *, seed: int = 0) -> dict[str, Tensor]:
    """Every importance of every input that is read, `[in]` each, by name, the default first.

    Those an output has are summed over outputs; permutation needs `targets`.
    """
    found = {
        "path product × scale": path_product(network, inputs).sum(0),
        "path product": path_product(network).sum(0),
        "path count": path_product(network, kind="count").sum(0),
        "in-degree": degree(network),
        "gradient × input": gradient_input(network, inputs).sum(0),
    }
    if targets is not None:
        found["permutation"] = permutation(network, inputs, targets, seed=seed)
    return found
