"""A training's checkpoint: one file that a killed run goes on from, to the same result to the last bit."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.errors import CheckpointError
from secateur.ranks import mean_over_ranks
from secateur.training.batches import generators
from secateur.training.checks import check_weights
from secateur.training.devices import is_first
from secateur.training.evaluation import Meter
from secateur.training.history import Epoch, History
from secateur.training.identity import differences
from secateur.training.optimisers import align_state, loose_parameters
from secateur.training.sharding import load_whole, spread_state, whole
from secateur.training.state import State
from secateur.training.tree import read_tree, write_tree

FILE = "training.safetensors"
KIND = "secateur training 2"


class Checkpoint:
    """The checkpoint in a folder, or none at all if the folder is None: then nothing is written or read.

    It holds the model, its moving average, the optimizer, the methods' state and own parameters, the history, the sums
    of an epoch that is not over, the loader's generators as that epoch found them, and the run's identity. Random
    streams are not in it: each step seeds them from the run's seed. All ranks read it, the first one writes.
    """

    def __init__(self, folder: str | Path | None, minutes: float | None, identity: Mapping[str, str]) -> None:
        self._path = Path(folder) / FILE if folder is not None else None
        self._seconds = 60 * minutes if minutes is not None else None
        self._identity = dict(identity)
        self._drawn: list[Tensor] = []
        self._lock: int | None = None
        self._written = time.monotonic()
        if self._path is not None and is_first():
            self._prepare(self._path)

    def _prepare(self, path: Path) -> None:
        """Make the folder, keep other runs out, and remove what a run killed in the middle of writing left there."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(path.parent)
            for leftover in path.parent.glob(f".{path.name}.*.partial"):
                leftover.unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(f"The 'checkpoint' folder {path.parent} cannot be used: {error}.") from error

    def close(self) -> None:
        """Let other runs use the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def begin_epoch(self, loader: Iterable[Any]) -> None:
        """Note where the loader's generators stand before the epoch draws from them."""
        self._drawn = [generator.get_state() for generator in generators(loader)]

    def within_epoch(self, state: State, history: History, meter: Meter) -> None:
        """Write where the training stands between two steps if it is time to, unless the epoch is over anyway."""
        due = self._seconds is not None and time.monotonic() - self._written >= self._seconds
        if due and self._path is not None and is_first() and state.position < state.steps_per_epoch:
            meter.read(state)
            check_weights(state)
            self._write(state, history, {"position": state.position, "meter": meter.state_dict()})

    def after_epoch(self, state: State, history: History, loader: Iterable[Any]) -> None:
        """Write where the training stands after an epoch."""
        self.begin_epoch(loader)
        if self._path is not None and (is_first() or state.sharded):
            self._write(state, history, {"position": 0})

    def _write(self, state: State, history: History, place: Mapping[str, Any]) -> None:
        """Write the file; the one before it goes only once the new one is complete."""
        assert self._path is not None
        tree = {
            "identity": self._identity,
            "epoch": state.epoch,
            "step": state.step,
            **place,
            "history": [asdict(row) for row in history.rows],
            "model": whole(state.model.state_dict()),
            "average": state.average.tensors if state.average is not None else None,
            "optimizer": whole(state.optimizer.state_dict()),
            "scaler": state.scaler.state_dict() if state.scaler is not None else None,
            "loose": loose_parameters(state.optimizer, state.model),
            "methods": state.moments.state_dict(),
            "generators": self._drawn,
        }
        if is_first():
            write_tree(self._path, tree, KIND)
        self._written = time.monotonic()

    def resume(self, state: State, history: History, meter: Meter, loader: Iterable[Any]) -> bool:
        """Go on from the file, if there is one: whether there was. Raises `CheckpointError` if it is of another run."""
        if self._path is None or not _on_all_ranks(self._path):
            return False
        tree = read_tree(self._path, KIND)
        if differing := differences(tree["identity"], self._identity):
            raise CheckpointError(
                f"The checkpoint {self._path} must be of the same run. These differ: {'; '.join(differing)}. "
                "Name another folder, or give the settings of that run."
            )
        self._load(tree, state, loader)
        history.rows[:] = [Epoch(**row) for row in tree["history"]]
        state.epoch, state.step, state.position = tree["epoch"], tree["step"], tree["position"]
        if state.position:
            meter.load_state_dict(tree["meter"])
        return True

    def _load(self, tree: Mapping[str, Any], state: State, loader: Iterable[Any]) -> None:
        try:
            state.moments.load_state_dict(tree["methods"])
            load_whole(state.model, tree["model"])
            state.optimizer.load_state_dict(tree["optimizer"])
            spread_state(state.optimizer)
            _copy(tree["loose"], loose_parameters(state.optimizer, state.model))
            if state.average is not None:
                state.average.load(tree["average"])
            if state.scaler is not None:
                state.scaler.load_state_dict(tree["scaler"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"The checkpoint {self._path} does not fit the model or its methods: {error}. "
                "A method that replaces the model must do so again in its load_state_dict."
            ) from error
        align_state(state.optimizer)
        for generator, position in zip(generators(loader), tree["generators"], strict=True):
            generator.set_state(position)


def _on_all_ranks(path: Path) -> bool:
    """Whether the file is there. Raises `CheckpointError` where some ranks see it and others do not."""
    (share,) = mean_over_ranks([torch.tensor(float(path.exists()))])
    if 0 < share < 1:
        raise CheckpointError(
            f"The 'checkpoint' folder {path.parent} must be the same for all ranks. {path.name} is there for "
            f"{share:.0%} of them; name a folder that all of them see."
        )
    return bool(share)


@torch.no_grad()
def _copy(stored: list[Tensor], parameters: list[Tensor]) -> None:
    for tensor, parameter in zip(stored, parameters, strict=True):
        parameter.copy_(tensor)


def _locked(folder: Path) -> int | None:
    """A handle that keeps other processes out of the folder while it is open, even if this one is killed.

    None where the system or the file system has no such locks. Raises `CheckpointError` if another process has it.
    """
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise CheckpointError(
            f"The 'checkpoint' folder {folder} must belong to one run at a time. Another process is writing to it; "
            "wait for it, or name another folder."
        ) from None
    except OSError:
        os.close(handle)
        return None
    return handle
