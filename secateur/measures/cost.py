"""What a model weighs: parameters, how many of them are not zero, and bytes on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Size:
    """Numbers of parameter entries (tied parameters once), and the bytes of the state dict as a safetensors file.

    `params` are all, `trainable` those that require a gradient, `nonzero` those whose value is not zero. `bytes` counts
    buffers and the file's header too; tensors that are tied are counted once.
    """

    params: int
    trainable: int
    nonzero: int
    bytes: int


@torch.no_grad()
def size(model: nn.Module) -> Size:
    """The size of `model` as it stands: zeros that a mask holds show in `nonzero` alone, a cut shows in all four.

    >>> size(torch.nn.Linear(4, 2))
    Size(params=10, trainable=10, nonzero=10, bytes=168)
    """
    parameters = list(model.parameters())
    return Size(
        params=sum(parameter.numel() for parameter in parameters),
        trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        nonzero=sum(int(parameter.count_nonzero()) for parameter in parameters),
        bytes=file_bytes(model.state_dict()),
    )


_CODES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.bfloat16: "BF16",
}  # of other types the code is a letter and the number of bits: three characters


def file_bytes(state: Mapping[str, Any]) -> int:
    """The length of the safetensors file that would hold these tensors, without making it.

    The format: eight bytes, a JSON header padded to a multiple of eight, then the values, wide types first and names in
    order.
    """
    unique = {_place(tensor): (name, tensor) for name, tensor in state.items() if isinstance(tensor, Tensor)}
    header: dict[str, dict[str, Any]] = {}
    end = 0
    for name, tensor in sorted(unique.values(), key=lambda item: (-item[1].element_size(), item[0])):
        start, end = end, end + tensor.numel() * tensor.element_size()
        code = _CODES.get(tensor.dtype, "F32")
        header[name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [start, end]}
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8 + end


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """What two names of one tensor have in common."""
    return (tensor.data_ptr() or id(tensor), tensor.dtype, tuple(tensor.shape), tensor.stride())
