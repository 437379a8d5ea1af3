"""A training's checkpoint: one file that a killed run goes on from, to the same result to the last bit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.errors import CheckpointError
from secateur.training.batches import generators
from secateur.training.history import Epoch, History
from secateur.training.identity import differences
from secateur.training.optimisers import align_state, loose_parameters
from secateur.training.state import State
from secateur.training.tree import read_tree, write_tree

FILE = "training.safetensors"
KIND = "secateur training 1"


class Checkpoint:
    """The checkpoint in a folder, or none at all if the folder is None: then nothing is written or read.

    It holds the model, the optimizer, the methods' state and own parameters, the history, the loader's generators, and
    the run's identity. Random streams are not in it: each epoch seeds them from the run's seed.
    """

    def __init__(self, folder: str | Path | None, identity: Mapping[str, str]) -> None:
        self._path = Path(folder) / FILE if folder is not None else None
        self._identity = dict(identity)
        if self._path is not None:
            self._prepare(self._path)

    @staticmethod
    def _prepare(path: Path) -> None:
        """Make the folder, and remove what a run killed in the middle of writing left there."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for leftover in path.parent.glob(f".{path.name}.*.partial"):
                leftover.unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(f"The 'checkpoint' folder {path.parent} cannot be used: {error}.") from error

    def save(self, state: State, history: History, loader: Iterable[Any]) -> None:
        """Write where the training stands after an epoch; the file before it goes only once the new one is complete."""
        if self._path is None:
            return
        tree = {
            "identity": self._identity,
            "epoch": state.epoch,
            "step": state.step,
            "history": [asdict(row) for row in history.rows],
            "model": dict(state.model.state_dict()),
            "optimizer": state.optimizer.state_dict(),
            "loose": loose_parameters(state.optimizer, state.model),
            "methods": state.moments.state_dict(),
            "generators": [generator.get_state() for generator in generators(loader)],
        }
        write_tree(self._path, tree, KIND)

    def resume(self, state: State, history: History, loader: Iterable[Any]) -> bool:
        """Go on from the file, if there is one: whether there was. Raises `CheckpointError` if it is of another run."""
        if self._path is None or not self._path.exists():
            return False
        tree = read_tree(self._path, KIND)
        if differing := differences(tree["identity"], self._identity):
            raise CheckpointError(
                f"The checkpoint {self._path} must be of the same run. These differ: {'; '.join(differing)}. "
                "Name another folder, or give the settings of that run."
            )
        self._load(tree, state, loader)
        history.rows[:] = [Epoch(**row) for row in tree["history"]]
        state.epoch, state.step = tree["epoch"], tree["step"]
        return True

    def _load(self, tree: Mapping[str, Any], state: State, loader: Iterable[Any]) -> None:
        try:
            state.moments.load_state_dict(tree["methods"])
            state.model.load_state_dict(tree["model"])
            state.optimizer.load_state_dict(tree["optimizer"])
            _copy(tree["loose"], loose_parameters(state.optimizer, state.model))
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"The checkpoint {self._path} does not fit the model or its methods: {error}. "
                "A method that replaces the model must do so again in its load_state_dict."
            ) from error
        align_state(state.optimizer)
        for generator, position in zip(generators(loader), tree["generators"], strict=True):
            generator.set_state(position)


@torch.no_grad()
def _copy(stored: list[Tensor], parameters: list[Tensor]) -> None:
    for tensor, parameter in zip(stored, parameters, strict=True):
        parameter.copy_(tensor)
