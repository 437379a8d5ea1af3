"""The models that an evaluation compares: those of a run's folder, of two files, or modules pruned by anyone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from secateur import zoo
from secateur.building import device_of, load_data, source_of, weights_file
from secateur.data import Data
from secateur.errors import CheckpointError, InputError
from secateur.folder import DENSE, RECIPE, ROUNDS
from secateur.measures.cost import size
from secateur.recipe import Recipe
from secateur.report.page import FILES
from secateur.report.record import RunRecord
from secateur.report.trust_record import ModelRow, Role
from secateur.surgery.checkpoint import PLAN, load


@dataclass(frozen=True, eq=False)
class Subject:
    """A model under its name; `role` says what it is compared as, controls being dense networks trained apart."""

    name: str
    model: nn.Module
    role: Role = "pruned"

    def row(self, dense: int, computed: str = "") -> ModelRow:
        """What a record tells of it, beside a dense model of so many non-zero parameters."""
        found = size(self.model)
        ratio = max(0.0, 1 - found.nonzero / dense) if dense else 0.0
        return ModelRow(
            name=self.name, role=self.role, params=found.params, nonzero=found.nonzero, ratio=ratio, computed=computed
        )


def of_run(
    folder: str | Path, data_root: str | Path | None = None, *, rounds: bool = False
) -> tuple[list[Subject], Data, Recipe]:
    """The dense model of a finished run and the one it left, its data, and its recipe.

    With `rounds` the models that the rounds of the run left, "round 1" and so on, stand in place of the last one, which
    is that of the last round. Raises `CheckpointError` for a folder without a finished run or, if they are asked for,
    without rounds, or whose dense model cannot be made again.
    """
    folder = Path(folder)
    record = RunRecord.load(folder / FILES["json"])
    recipe = Recipe.load(folder / RECIPE)
    if record.plan is None:
        raise CheckpointError(
            f"The run in {folder} cut nothing, so there is nothing to compare. Give the folder of a run that prunes, "
            "or the weights of both models."
        )
    device = device_of(recipe)
    data = load_data(recipe, device, data_root)
    source = source_of(recipe, data)
    dense = source.build()
    if recipe.training.epochs:
        zoo.load_weights(dense, folder / DENSE)
    elif recipe.model.weights is not None:
        zoo.load_weights(dense, weights_file(recipe.model.weights))
    left = _rounds(folder) if rounds else {"pruned": folder}
    pruned = [Subject(name, load(source.build, place).to(device)) for name, place in left.items()]
    return [Subject("dense", dense.to(device), "dense"), *pruned], data, recipe


def _rounds(folder: Path) -> dict[str, Path]:
    """Where the model of every round lies, the first first."""
    numbers = sorted(int(path.name) for path in (folder / ROUNDS).glob("*") if path.name.isdigit())
    if not numbers:
        raise CheckpointError(
            f"The run in {folder} left no models of rounds. They come from 'pruning.rounds' or 'pruning.waypoints' of "
            "its recipe; without them compare the model that it left."
        )
    return {f"round {number}": folder / ROUNDS / str(number) for number in numbers}


def of_files(
    source: zoo.Source, dense: str | Path, pruned: Sequence[str | Path], controls: Sequence[str | Path] = ()
) -> list[Subject]:
    """Models of one architecture from their weights; a folder with a plan is a slim checkpoint and is loaded as such.

    Raises `CheckpointError` for a file that is missing, damaged, or of another model.
    """
    return [Subject("dense", _read(source, Path(dense)), "dense"), *beside(source, pruned, controls)]


def beside(source: zoo.Source, pruned: Sequence[str | Path], controls: Sequence[str | Path]) -> list[Subject]:
    """Pruned models and controls from their weights, each named after its file.

    The folder of another run is built as that run built it: a smaller dense network, or one that was trained as long.
    """
    asked: list[tuple[Role, Path]] = [("pruned", Path(file)) for file in pruned]
    asked += [("control", Path(file)) for file in controls]
    stems = [path.stem or str(path) for _, path in asked]
    names = [
        stem if stems.count(stem) == 1 else f"{path.parent.name}/{stem}"
        for stem, (_, path) in zip(stems, asked, strict=True)
    ]
    return [Subject(name, _read(source, path), role) for name, (role, path) in zip(names, asked, strict=True)]


def _read(source: zoo.Source, path: Path) -> nn.Module:
    if (path / PLAN).is_file():
        return load(_built_as(path / PLAN, source).build, path)
    return zoo.load_weights(source.build(), weights_file(str(path)))


def _built_as(plan: Path, source: zoo.Source) -> zoo.Source:
    """The source that a checkpoint names, or `source` where it names none or the same."""
    try:
        told = json.loads(plan.read_text(encoding="utf-8")).get("constructor")
    except (OSError, ValueError, AttributeError):
        return source  # damaged, and told as such where it is loaded
    if not isinstance(told, dict) or told == source.describe or not {"spec", "kwargs"} <= told.keys():
        return source
    return zoo.resolve(told["spec"], **told["kwargs"])


def checked(subjects: Sequence[Subject]) -> list[Subject]:
    """The subjects, the dense one first. Raises `InputError` where names, roles or devices do not fit together."""
    dense = [each for each in subjects if each.role == "dense"]
    if len(dense) != 1 or not any(each.role == "pruned" for each in subjects):
        raise InputError(
            "An evaluation needs exactly one dense model and at least one pruned one. "
            f"Got the roles {', '.join(each.role for each in subjects) or 'none'}."
        )
    names = [each.name for each in subjects]
    if len(set(names)) < len(names) or any(each.name == "dense" for each in subjects if each.role != "dense"):
        raise InputError(
            "The models of an evaluation need different names, and only the dense one may be called 'dense'. "
            f"Got {', '.join(names)}."
        )
    return dense + [each for each in subjects if each.role != "dense"]


def fingerprint(model: nn.Module) -> str:
    """A checksum of a model's tensors, which tells whether results that are kept belong to it."""
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
