"""A sparse network written down: CSR in safetensors, a NumPy list of edges, JSON, plain Python, a C header.

Every form has the numbers of the network as they are; sums are made in other orders, so outputs agree to rounding.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from secateur.errors import CheckpointError, InputError
from secateur.files import atomic_write
from secateur.sparse.network import ACTIVATIONS, Layer, Network

EDGE = np.dtype([("layer", "<i4"), ("source", "<i4"), ("target", "<i4"), ("weight", "<f4")])


def edges(network: Network) -> NDArray[Any]:
    """All edges as records (layer, source, target, weight), by the units' positions in the network's columns."""
    parts = []
    for number, layer in enumerate(network.layers):
        target, source = layer.weight.nonzero(as_tuple=True)
        part = np.empty(len(source), EDGE)
        part["layer"], part["source"], part["target"] = number, source.numpy(), target.numpy()
        part["weight"] = layer.weight[target, source].float().numpy()
        parts.append(part)
    return np.concatenate(parts)


def save_network(network: Network, path: str | Path) -> None:
    """Write the network as safetensors: for every layer the three tensors of its CSR form and its bias."""
    tensors: dict[str, Tensor] = {f"units.{i}": column.contiguous() for i, column in enumerate(network.units)}
    for number, layer in enumerate(network.layers):
        start, column, values = _csr(layer.weight)
        tensors |= {
            f"{number}.crow": start,
            f"{number}.col": column,
            f"{number}.values": values,
            f"{number}.bias": layer.bias.contiguous(),
        }
    about = [{"name": layer.name, "activations": layer.activations} for layer in network.layers]
    said = {"layers": json.dumps(about), "width": str(network.width)}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata=said)


def load_network(path: str | Path) -> Network:
    """The network that `save_network` wrote. Raises `CheckpointError` for a file that is damaged or something else."""
    try:
        with safe_open(path, "pt") as file:
            said = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        about = json.loads(said["layers"])
        units = tuple(tensors[f"units.{i}"] for i in range(len(about) + 1))
        layers = tuple(_layer(entry, tensors, i, len(units[i])) for i, entry in enumerate(about))
        return Network(layers, units, int(said["width"]))
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise CheckpointError(f"'{path}' does not hold a sparse network that can be read: {error}.") from error


def to_json(network: Network) -> str:
    """The network as JSON: which inputs it reads, and for every layer its activations, biases and edges."""
    return json.dumps(_plain(network))


def python_source(network: Network) -> str:
    """A Python module that needs nothing but Python: `evaluate(inputs)` takes all inputs of one sample as a list."""
    return _PYTHON.replace("NETWORK_AS_IT_IS", repr(_plain(network)))


def c_header(network: Network, name: str = "network") -> str:
    """A C header that needs `math.h` alone: `void NAME_evaluate(const float *x, float *y)` for all inputs of a sample.

    Raises `InputError` for a name that C does not take.
    """
    if not (name.isidentifier() and name.isascii()):
        raise InputError(f"The 'name' parameter of c_header must be a name in C. Got {name!r} instead.")
    widest = max(1, *(len(column) for column in network.units))
    lines = ["#include <math.h>", "", f"/* {network.width} inputs, {len(network.units[-1])} outputs */", ""]
    body = [f"    for (i = 0; i < {len(network.units[0])}; i++) a[i] = x[{name}_inputs[i]];"]
    lines.append(_array("int", f"{name}_inputs", network.units[0].tolist()))
    for number, layer in enumerate(network.layers):
        own = f"{name}_{number}"
        start, column, values = _csr(layer.weight)
        lines += [_array("int", f"{own}_row", start.tolist()), _array("int", f"{own}_column", column.tolist())]
        lines += [_array("float", f"{own}_value", values.tolist()), _array("float", f"{own}_bias", layer.bias.tolist())]
        last = number == len(network.layers) - 1
        body += [
            f"    for (i = 0; i < {len(layer.bias)}; i++) {{",
            f"        float s = {own}_bias[i];",
            f"        for (k = {own}_row[i]; k < {own}_row[i + 1]; k++) s += {own}_value[k] * a[{own}_column[k]];",
            *(f"        s = {_IN_C[activation]};" for activation in layer.activations),
            "        y[i] = s;" if last else "        b[i] = s;",
            "    }",
            *([] if last else [f"    for (i = 0; i < {len(layer.bias)}; i++) a[i] = b[i];"]),
        ]
    signature = f"static void {name}_evaluate(const float *x, float *y) {{"
    room = f"    float a[{widest}], b[{widest}];\n    int i, k;\n    (void)b;"
    return "\n".join([*lines, "", signature, room, *body, "}", ""])


def _csr(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where rows start, columns, values."""
    rows, columns = weight.nonzero(as_tuple=True)
    start = torch.zeros(len(weight) + 1, dtype=torch.int64)
    start[1:] = torch.bincount(rows, minlength=len(weight)).cumsum(0)
    return start, columns.contiguous(), weight[rows, columns].contiguous()


def _layer(entry: dict[str, Any], tensors: dict[str, Tensor], number: int, width: int) -> Layer:
    start, column, values, bias = (tensors[f"{number}.{part}"] for part in ("crow", "col", "values", "bias"))
    unknown = set(entry["activations"]) - ACTIVATIONS.keys()
    if unknown or len(start) != len(bias) + 1:
        raise ValueError(f"layer {number} has {f'the activation {min(unknown)!r}' if unknown else 'rows left over'}")
    weight = torch.zeros(len(bias), width, dtype=values.dtype)
    weight[torch.arange(len(bias)).repeat_interleave(start.diff()), column] = values
    return Layer(entry["name"], weight, bias, tuple(entry["activations"]))


def _plain(network: Network) -> dict[str, Any]:
    layers = []
    for layer in network.layers:
        target, source = layer.weight.nonzero(as_tuple=True)
        weights = layer.weight[target, source].tolist()
        layers.append({
            "name": layer.name,
            "activations": list(layer.activations),
            "bias": layer.bias.tolist(),
            "edges": [list(edge) for edge in zip(source.tolist(), target.tolist(), weights, strict=True)],
        })  # fmt: skip
    return {"width": network.width, "inputs": network.units[0].tolist(), "layers": layers}


def _array(kind: str, name: str, values: list[Any]) -> str:
    """A C array; C has none of length 0, so an empty one holds a 0 that nothing reads."""
    text = ", ".join(f"{value:.9e}f" if kind == "float" else str(value) for value in values)
    return f"static const {kind} {name}[] = {{{text or '0'}}};"


_IN_C = {
    "relu": "s > 0 ? s : 0",
    "sigmoid": "1 / (1 + expf(-s))",
    "silu": "s / (1 + expf(-s))",
    "tanh": "tanhf(s)",
}

_PYTHON = '''"""A sparse network: `evaluate(inputs)` returns the outputs for the inputs of one sample, both lists."""

from math import exp, tanh

NETWORK = NETWORK_AS_IT_IS


def _sigmoid(s):
    return 1 / (1 + exp(-s)) if s >= 0 else exp(s) / (1 + exp(s))


ACTIVATIONS = {
    "relu": lambda s: max(s, 0.0),
    "sigmoid": _sigmoid,
    "silu": lambda s: s * _sigmoid(s),
    "tanh": tanh,
}


def evaluate(inputs):
    values = [inputs[i] for i in NETWORK["inputs"]]
    for layer in NETWORK["layers"]:
        sums = list(layer["bias"])
        for source, target, weight in layer["edges"]:
            sums[target] += weight * values[source]
        for name in layer["activations"]:
            sums = [ACTIVATIONS[name](s) for s in sums]
        values = sums
    return values
'''
