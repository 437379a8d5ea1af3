"""A checkpoint one can trust: the tensors as safetensors and the cuts as JSON, replayed on the original constructor.

Nothing is pickled, so loading runs no code but the constructor that the caller passes. `plan.json` holds the format,
the original shapes, the indices kept of every tensor, the attributes that were set, what was asked and reached, and a
checksum of the tensors and of itself. Both files are complete on disk before either is moved into place; a save that is
killed leaves the old checkpoint, or a new one that `load` completes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from secateur.errors import CheckpointError, InputError
from secateur.graph.cutting import cut_tensor, like, rebuild
from secateur.graph.repair import get_attribute, set_attribute
from secateur.graph.trace import named_tensors
from secateur.surgery.record import GroupCut, Proof, Record, attach, record
from secateur.surgery.scale import keep_scale
from secateur.version import __version__

FORMAT, VERSION = "secateur checkpoint", 1
TENSORS, PLAN, MASK = "model.safetensors", "plan.json", "mask of "


def save(module: nn.Module, folder: str | Path, *, constructor: Mapping[str, Any] | None = None) -> Path:
    """The folder with `model.safetensors` and `plan.json` of a slim module, from which `load` gives it back.

    `constructor` is any JSON value that says how the original model is built; it is kept for the reader. A module that
    was never cut is saved with an empty plan. Raises `CheckpointError` where the folder cannot be written; a checkpoint
    that was there before stays whole until the new one is complete.

    >>> secateur.save(small, "out/")
    """
    entry = record(module) or Record()
    if entry.kind == "program":
        raise CheckpointError(
            "A program has no constructor to be loaded into. Save it with torch.export.save(exported, path), where "
            "exported = torch.export.export(program, inputs), and load it with torch.export.load(path).module()."
        )
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _complete(folder)
        tensors = _tensors(module, entry)
        _write(folder / f"{TENSORS}.new", lambda path: save_file(tensors, path))
        text = _plan_text(module, entry, constructor, _checksum(folder / f"{TENSORS}.new"))
        _write(folder / f"{PLAN}.new", lambda path: path.write_text(text, encoding="utf-8"))
        os.replace(folder / f"{TENSORS}.new", folder / TENSORS)
        os.replace(folder / f"{PLAN}.new", folder / PLAN)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"The checkpoint cannot be written to '{folder}': {error}. What was there before is unharmed."
        ) from error
    return folder


def load(build: Callable[[], nn.Module], folder: str | Path) -> nn.Module:
    """The slim module saved in `folder`, on the CPU in evaluation mode; `build` makes the original, uncut model.

    Needs no trace and no example. Raises `CheckpointError` naming the file for a checkpoint that is missing, damaged,
    of a newer format, or made from another model.

    >>> small = secateur.load(lambda: torchvision.models.resnet50(), "out/")
    """
    folder = Path(folder)
    plan, tensors = _read(folder)
    model = build()
    if not isinstance(model, nn.Module):
        raise InputError(
            f"The 'build' parameter of load must return a torch.nn.Module. Got {type(model).__name__} instead."
        )
    try:
        entry = _record(plan, tensors)
        _check_origin(model, plan, folder)
        own = {name: t for name, (_, t) in named_tensors(model).items()}
        parts = {name: cut_tensor(own[name], lines) for name, lines in entry.kept.items()}
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"'{folder / PLAN}' lacks a field or garbles one ({type(error).__name__}: {error}). Save the model again."
        ) from error
    parts |= {name: like(own[name], t) for name, t in tensors.items() if not name.startswith(MASK)}
    module = rebuild(model, parts)
    for path, attribute, value in entry.attributes:
        try:
            before = get_attribute(module.get_submodule(path), attribute)
            given = list(value) if isinstance(before, list) else value  # JSON knows no tuples, so they were made of all
            set_attribute(module.get_submodule(path), attribute, given)
        except AttributeError as error:
            raise _foreign(folder, f"it has no attribute '{attribute}' in module '{path}'") from error
    for path, scale in entry.scales.items():
        keep_scale(module.get_submodule(path), scale)
    attach(module, entry)
    return module.eval()


def describe(folder: str | Path) -> dict[str, Any]:
    """The contents of a checkpoint's `plan.json`, checked against the tensors beside it."""
    return _read(Path(folder))[0]


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file and flush it to the disk; nothing is left of it where that fails."""
    try:
        write(path)
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        path.chmod(0o644)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _complete(folder: Path) -> None:
    """Finish a save that was killed between its two moves, so that the next one cannot lose the plan that waits."""
    waiting, tensors = folder / f"{PLAN}.new", folder / TENSORS
    if not (waiting.is_file() and tensors.is_file()):
        return
    try:
        fits = _read_plan(waiting)["tensors"]["sha256"] == _checksum(tensors)
    except CheckpointError:  # the waiting plan is itself half-written: the one in place is the good one
        return
    if fits:
        os.replace(waiting, folder / PLAN)


def _tensors(module: nn.Module, entry: Record) -> dict[str, Tensor]:
    """Parameters and persistent buffers, each once, and the masks as packed bits."""
    persistent = set(module.state_dict())
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, (kind, tensor) in named_tensors(module).items()
        if kind != "attribute" and name in persistent
    }
    for name, mask in entry.masks.items():
        tensors[MASK + name] = torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1)))
    return tensors


def _plan_text(module: nn.Module, entry: Record, constructor: Mapping[str, Any] | None, checksum: str) -> str:
    plan = {
        "format": FORMAT,
        "version": VERSION,
        "made by": {"secateur": __version__, "torch": str(torch.__version__)},
        "model": type(module).__name__,
        "constructor": dict(constructor) if constructor else None,
        "kind": entry.kind,
        "budget": {"asked": entry.budget, "before": entry.before, "after": entry.after, "criterion": entry.criterion},
        "groups": [dataclasses.asdict(g) for g in entry.groups],
        "proof": dataclasses.asdict(entry.proof) if entry.proof else None,
        "notes": list(entry.notes),
        "attributes": [list(a) for a in entry.attributes],
        "scales": entry.scales,
        "shapes": {name: list(shape) for name, shape in _original_shapes(module, entry).items()},
        "kept": {name: {str(d): line.tolist() for d, line in lines.items()} for name, lines in entry.kept.items()},
        "tensors": {"file": TENSORS, "sha256": checksum},
    }
    return json.dumps(plan | {"sha256": _digest(plan)}, indent=1)


def _original_shapes(module: nn.Module, entry: Record) -> dict[str, tuple[int, ...]]:
    tensors = named_tensors(module).items()  # attributes that were not cut may be what the last run left behind
    kept = ((name, t) for name, (kind, t) in tensors if kind != "attribute" or name in entry.kept)
    return {name: entry.shapes.get(name, tuple(t.shape)) for name, t in kept}


def _digest(plan: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha(file.read())


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Plan and tensors that belong together; a save that was killed between its two moves is completed here."""
    if not (folder / TENSORS).is_file():
        raise CheckpointError(f"There is no checkpoint in '{folder}': '{TENSORS}' is missing.")
    checksum = _checksum(folder / TENSORS)
    waiting = folder / f"{PLAN}.new"
    plan = _read_plan(folder / PLAN) if (folder / PLAN).is_file() or not waiting.is_file() else {}
    if plan.get("tensors", {}).get("sha256") != checksum and waiting.is_file():
        newer = _read_plan(waiting)
        plan = newer if newer["tensors"]["sha256"] == checksum else plan
    if plan.get("tensors", {}).get("sha256") != checksum:
        raise CheckpointError(
            f"'{folder / TENSORS}' is not the file that '{PLAN}' was written with (its checksum differs): damaged, "
            f"cut short or from another checkpoint; save the model again."
        )
    try:
        return plan, load_file(folder / TENSORS)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"'{folder / TENSORS}' is not a safetensors file: {error}.") from error


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"There is no checkpoint in '{path.parent}': '{path.name}' is missing.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"'{path}' is not readable JSON ({error}); it is damaged or cut short.") from error
    if not isinstance(plan, dict) or plan.get("format") != FORMAT:
        raise CheckpointError(f"'{path}' is not a Secateur checkpoint: its 'format' is not {FORMAT!r}.")
    if plan.get("version") != VERSION:
        raise CheckpointError(
            f"'{path}' has format version {plan.get('version')}; this one reads {VERSION}. Update Secateur."
        )
    stated = plan.pop("sha256", None)
    if stated != _digest(plan):
        raise CheckpointError(
            f"'{path}' was changed after it was written: its checksum does not match. Save the model again."
        )
    return plan


def _record(plan: dict[str, Any], tensors: Mapping[str, Tensor]) -> Record:
    shapes = {name: tuple(shape) for name, shape in plan["shapes"].items()}
    masks = {}
    for key, packed in tensors.items():
        if key.startswith(MASK):
            shape = shapes[key.removeprefix(MASK)]
            bits = np.unpackbits(packed.numpy(), count=int(np.prod(shape)))
            masks[key.removeprefix(MASK)] = torch.from_numpy(bits.astype(bool)).view(shape)
    return Record(
        kept={name: {int(d): torch.tensor(line) for d, line in lines.items()} for name, lines in plan["kept"].items()},
        shapes={name: shapes[name] for name in plan["kept"]},
        attributes=tuple((m, a, tuple(v) if isinstance(v, list) else v) for m, a, v in plan["attributes"]),
        scales=plan["scales"],
        masks=masks,
        kind=plan["kind"],
        groups=tuple(GroupCut(**g) for g in plan["groups"]),
        budget=plan["budget"]["asked"],
        criterion=plan["budget"]["criterion"],
        before=plan["budget"]["before"],
        after=plan["budget"]["after"],
        proof=Proof(**plan["proof"]) if plan["proof"] else None,
        notes=tuple(plan["notes"]),
    )


def _check_origin(model: nn.Module, plan: Mapping[str, Any], folder: Path) -> None:
    tensors = named_tensors(model)
    own = {name: list(t.shape) for name, (_, t) in tensors.items()}
    theirs = plan["shapes"]
    missing = [name for name in theirs if name not in own]
    extra = [name for name, (kind, _) in tensors.items() if name not in theirs and kind != "attribute"]
    if missing or extra:
        some = f"'{(missing or extra)[0]}'"
        raise _foreign(
            folder,
            f"the checkpoint has {some} and it has not" if missing else f"it has {some} and the checkpoint has not",
        )
    for name, shape in theirs.items():
        if own[name] != shape:
            raise _foreign(folder, f"'{name}' has shape {own[name]} in it and {shape} in the checkpoint's original")


def _foreign(folder: Path, difference: str) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint in '{folder}' was made from another model than the 'build' function makes: {difference}. "
        f"Pass the constructor, with the arguments, of the model that was pruned."
    )
