"""What every input gave to every output for one sample: exact for rectified networks, which are linear around it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.explain.columns import read_inputs
from secateur.sparse import Network


@dataclass(frozen=True, eq=False)
class Contributions:
    """`inputs` `[samples, out, in]` and `constant` `[samples, out]`, float64, whose sum is the output.

    `live`, a bool `[samples, units]` for each layer: which of its units let anything through.
    """

    inputs: Tensor
    constant: Tensor
    live: tuple[Tensor, ...]

    @property
    def outputs(self) -> Tensor:
        """What they sum to, `[samples, out]`: the network's outputs."""
        return self.inputs.sum(2) + self.constant


def contributions(network: Network, inputs: Tensor) -> Contributions:
    """How each sample's outputs are made up: `x_j` times the slope of the linear piece that the sample lies on.

    Around a sample, f(x) = W(x) x + b(x), with W(x) the product of the layers' weights without the rows of units that
    are off. Raises `InputError` for a network with other activations than relu, for which there is no such sum.
    """
    for layer in network.layers:
        if set(layer.activations) - {"relu"}:
            raise InputError(
                f"Exact contributions need a network of relu alone. Layer '{layer.name}' has "
                f"{', '.join(layer.activations)}; use gradient_input."
            )
    x = read_inputs(network, inputs)
    live, now = [], x
    for layer in network.layers:
        sums = now @ layer.weight.double().t() + layer.bias.double()
        live.append(sums > 0 if layer.activations else torch.ones_like(sums, dtype=torch.bool))
        now = torch.where(live[-1], sums, 0)
    last = len(network.layers[-1].bias)
    slope = torch.eye(last, dtype=torch.float64).expand(len(x), last, last)
    constant = x.new_zeros(len(x), last)
    for layer, on in zip(reversed(network.layers), reversed(live), strict=True):
        slope = slope * on[:, None, :]
        constant = constant + slope @ layer.bias.double()
        slope = slope @ layer.weight.double()
    return Contributions(slope * x[:, None, :], constant, tuple(live))
