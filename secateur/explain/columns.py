"""The inputs that a network reads, out of all that it is given; and values of those, laid out over all."""

from __future__ import annotations

from torch import Tensor

from secateur.errors import InputError
from secateur.sparse import Network


def read_inputs(network: Network, inputs: Tensor) -> Tensor:
    """The columns `[samples, in]` that the network reads, float64; `inputs` are all, flat or not.

    Raises `InputError` for another number of inputs than the network is given, and for no samples.
    """
    flat = inputs.flatten(1) if inputs.dim() > 1 else inputs[None]
    if flat.shape[1] != network.width:
        raise InputError(
            f"The 'inputs' parameter must have {network.width} inputs a sample, as the network has. "
            f"Got {flat.shape[1]} instead."
        )
    if not len(flat):
        raise InputError("The 'inputs' parameter must hold at least one sample. Got none.")
    return flat[:, network.units[0]].double().cpu()


def chain(network: Network, x: Tensor) -> Tensor:
    """The outputs `[samples, out]` for the columns `[samples, in]` that the network reads, in their type."""
    for layer in network.layers:
        x = layer(x)
    return x
