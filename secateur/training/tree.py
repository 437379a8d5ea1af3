"""Nested values with tensors in them as one safetensors file: the tensors in its body, the rest as JSON in its header.

Nothing in such a file is ever executed. A checksum over tensors and JSON tells a damaged file from a good one.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from secateur.errors import CheckpointError
from secateur.files import atomic_write


def write_tree(path: Path, tree: Any, kind: str) -> None:
    """Write `tree` (tensors, numbers, strings, None, and lists, tuples and dicts of them) to `path`, all or nothing.

    `kind` names what the file is, and its format's version; `read_tree` asks for the same.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_flatten(tree, tensors, kind))
    metadata = {"kind": kind, "tree": text, "checksum": _checksum(text, tensors)}
    try:
        with atomic_write(path) as partial:
            save_file(tensors, str(partial), metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"The checkpoint {path} could not be written: {error}. What was there before is intact."
        ) from error


def read_tree(path: Path, kind: str) -> Any:
    """What `write_tree` was given, its tensors on the CPU. Raises `CheckpointError` for any other or damaged file."""
    advice = "Delete it to start afresh, or name another folder."
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"The checkpoint {path} is damaged: {error}. {advice}") from error
    if metadata.get("kind") != kind:
        raise CheckpointError(
            f"{path} must be a {kind!r} file. It is {metadata.get('kind', 'of unknown kind')!r}. {advice}"
        )
    if metadata.get("checksum") != _checksum(metadata.get("tree", ""), tensors):
        raise CheckpointError(f"The checkpoint {path} is damaged: its checksum does not match. {advice}")
    return _unflatten(json.loads(metadata["tree"]), tensors)


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    total = zlib.crc32(text.encode())
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, total)
    return f"{total:08x}"


def _flatten(value: Any, tensors: dict[str, Tensor], where: str) -> Any:
    """`value` as JSON-able data; tensors go to `tensors`, `where` is the place that an error names."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"$tensor": name}
    if isinstance(value, list | tuple):
        items = [_flatten(item, tensors, f"{where}[{index}]") for index, item in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, Mapping) and all(isinstance(key, str | int) for key in value):
        return {"$dict": [[key, _flatten(item, tensors, f"{where}.{key}")] for key, item in value.items()]}
    raise CheckpointError(
        f"A checkpoint can hold tensors, numbers, strings, None, and lists, tuples and dicts of them. "
        f"{where} is a {type(value).__name__}."
    )


def _unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unflatten(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$tuple" in value:
        return tuple(_unflatten(item, tensors) for item in value["$tuple"])
    return {key: _unflatten(item, tensors) for key, item in value["$dict"]}
