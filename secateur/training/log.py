"""The log of a training: one row an epoch as JSON lines and CSV, and in the trackers that Accelerate knows."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from secateur.errors import InputError
from secateur.files import atomic_write
from secateur.training.devices import tell_accelerate
from secateur.training.history import Epoch, History

JSONL, CSV = "epochs.jsonl", "epochs.csv"


class Log:
    """The log in a folder, or none if the folder is None.

    Both files are written anew from the history after each epoch, whole: a run that was killed and goes on leaves
    neither a double row nor a gap nor half a line. A tracker is told each epoch once by each run. Raises `InputError`
    for a tracker whose package is missing, or a folder that cannot be made.
    """

    def __init__(
        self, folder: str | Path | None, trackers: Sequence[str], about: Mapping[str, str], device: torch.device
    ) -> None:
        self._folder = Path(folder) if folder is not None else None
        if self._folder is None:
            self._trackers: list[Any] = []
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"The 'log' folder {self._folder} cannot be used: {error}.") from error
        if trackers:
            tell_accelerate(device)
        self._trackers = [_started(name, self._folder, about) for name in trackers]

    def write(self, history: History) -> None:
        """Write all epochs so far to the files."""
        if self._folder is None:
            return
        rows = history.to_dict()["rows"]
        with atomic_write(self._folder / JSONL) as partial:
            partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with atomic_write(self._folder / CSV) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(Epoch.__dataclass_fields__))
            writer.writeheader()
            writer.writerows(rows)

    def track(self, row: Epoch) -> None:
        """Tell the trackers of a finished epoch."""
        values = {name: value for name, value in asdict(row).items() if value is not None and name != "epoch"}
        for tracker in self._trackers:
            tracker.log(values, step=row.epoch)

    def close(self) -> None:
        """Let the trackers end their runs."""
        for tracker in self._trackers:
            tracker.finish()


def _started(name: str, folder: Path, about: Mapping[str, str]) -> Any:
    """A tracker of Accelerate, started, that writes into `folder` and knows what the run is."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    if name not in [str(available) for available in get_available_trackers()]:
        raise InputError(
            f"The tracker {name!r} needs a package that is not installed: pip install {name}. "
            "The files epochs.jsonl and epochs.csv are written to 'log' without any."
        )
    place = {"dir" if name == "wandb" else "logging_dir": str(folder.resolve())}
    tracker = LOGGER_TYPE_TO_CLASS[name]("secateur", **place)
    tracker.start()
    tracker.store_init_configuration(dict(about))
    return tracker
