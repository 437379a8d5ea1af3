"""Weights from files: safetensors, or torch's format restricted to tensors. Nothing is ever unpickled into code.

Published checkpoints wrap the state in other keys and prefix its names; both are undone where that makes the names
agree with the model's.
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from secateur.errors import CheckpointError

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module", "ema", "state_dict_ema", "model_ema")
"""Keys under which training scripts keep the state; the first one that is there is taken."""
PREFIXES = ("module.", "model.", "_orig_mod.")
"""What wrappers (DataParallel, Lightning, torch.compile) put before every name."""

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def load_weights(model: AnyModule, path: str | Path) -> AnyModule:
    """`model` itself, with the weights of the file at `path` copied in; everything is checked before the first copy.

    Reads `.safetensors`, and `.pth`, `.th`, `.pt`, `.bin` with `weights_only=True`. Values are cast to the model's
    types and stay on its device. Raises `CheckpointError` where the file is missing, is no checkpoint, would have to
    run code, or holds the state of another model; the model is then as it was.

    >>> load_weights(secateur.zoo.model("resnet20"), "resnet20.th")
    """
    path = Path(path)
    expected = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    state = _renamed(_unwrapped(read_state(path), path), set(expected))
    _check_names(state, expected, path)
    _check_shapes(state, expected, path)
    with torch.no_grad():
        for name in expected.keys() & state.keys():
            expected[name].copy_(state[name])
    return model


def read_state(path: Path) -> Any:
    """What the file holds: usually a mapping of names to tensors, on the CPU."""
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(
            f"The weights {path} {found}. Give the path of a .safetensors, .pth, .th, .pt or .bin file."
        )
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (safetensors.SafetensorError, OSError) as error:
            raise CheckpointError(
                f"The weights {path} are no readable safetensors file: {error}. Fetch them again."
            ) from error
    try:
        # Namespaces of command-line arguments are common in published files and carry no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(_why_unreadable(path, str(error))) from error


def _why_unreadable(path: Path, message: str) -> str:
    """A sentence for the user from what `torch.load` said."""
    code = re.search(r"(?:GLOBAL|Unsupported class) (\S+)", message)
    if code or "TorchScript" in message:
        what = code.group(1) if code else "a TorchScript program"
        return (
            f"The weights {path} were refused: reading them means unpickling {what}, and unpickling can run any code. "
            "Where you trust their origin, load them in a script of your own and save model.state_dict() with "
            "safetensors.torch.save_file."
        )
    return (
        f"The file {path} is not a checkpoint, or it is damaged ({path.stat().st_size:,} bytes). "
        "Expected .safetensors, or what torch.save writes of a state_dict."
    )


def _unwrapped(found: Any, path: Path) -> dict[str, Tensor]:
    """The mapping of names to tensors inside what the file held."""
    if isinstance(found, Mapping):
        for key in WRAPPERS:
            if isinstance(found.get(key), Mapping):
                return _unwrapped(found[key], path)
        state = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
        if state:
            return state
    keys = f" Its keys are {', '.join(map(str, list(found)[:5]))}." if isinstance(found, Mapping) else ""
    raise CheckpointError(
        f"The file {path} holds no weights: expected a mapping of names to tensors, alone or under one of "
        f"{', '.join(WRAPPERS)}. Got {type(found).__name__} instead.{keys}"
    )


def _renamed(state: dict[str, Tensor], expected: set[str]) -> dict[str, Tensor]:
    """`state` without the prefixes of up to three wrappers, as far as more names then agree with the model's."""
    candidates = [state]
    latest = candidates
    for _ in range(3):
        latest = [_without(known, prefix) for known in latest for prefix in PREFIXES]
        candidates = candidates + [known for known in latest if len(known) == len(state)]
    return max(candidates, key=lambda known: len(known.keys() & expected))  # the first of equals: the fewest changes


def _without(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """`state` with the prefix taken off every name; that of torch.compile also stands inside names."""
    if prefix == "_orig_mod.":
        return {name.replace(prefix, ""): value for name, value in state.items()}
    return {name.removeprefix(prefix): value for name, value in state.items()}


def _check_names(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Raise unless model and file have the same names; tied tensors may be there once, batch counters not at all."""
    present = {_storage(expected[name]) for name in expected.keys() & state.keys()}
    missing = [
        name
        for name, value in expected.items()
        if name not in state and not name.endswith("num_batches_tracked") and _storage(value) not in present
    ]
    unexpected = [name for name in state if name not in expected]
    if not missing and not unexpected:
        return
    parts = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for names, what in ((missing, "tensors of the model are missing"), (unexpected, "are not in the model"))
        if names
    ]
    raise CheckpointError(
        f"The weights {path} belong to another model: of {len(expected)} tensors in the model and {len(state)} in "
        f"the file, {' and '.join(parts)}. Build the model that the weights were trained in."
    )


def _storage(value: Tensor) -> tuple[object, ...]:
    """What two tensors share when they are one; tensors without memory are only themselves."""
    return (
        (value.data_ptr(), tuple(value.shape), value.stride()) if value.numel() and value.data_ptr() else (id(value),)
    )


def _check_shapes(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Raise unless every tensor of the file has the shape that the model gives it."""
    wrong = [name for name in expected.keys() & state.keys() if expected[name].shape != state[name].shape]
    if not wrong:
        return
    wrong.sort(key=list(expected).index)
    name = wrong[0]
    module, _, tensor = name.rpartition(".")
    found, needed = tuple(state[name].shape), tuple(expected[name].shape)
    hint = "Build the model with the widths that the weights were trained with."
    last = list(expected)[-1].rpartition(".")[0]
    if all(other.rpartition(".")[0] == last for other in wrong) and found[1:] == needed[1:]:
        hint = f"The file's model has {found[0]} outputs, this one {needed[0]}: build it with classes={found[0]}."
    more = f" {len(wrong) - 1} more differ." if len(wrong) > 1 else ""
    raise CheckpointError(
        f"The weights {path} do not fit module {module!r}: its {tensor} has shape {list(needed)} in the model "
        f"and {list(found)} in the file.{more} {hint}"
    )
