"""How a run tells where it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import rich.progress

from secateur.folder import Folder
from secateur.training import Epoch


class Progress(Protocol):
    """What a run calls as it goes; `bars` is what trainings show their steps in."""

    bars: bool | rich.progress.Progress

    def begin(self, stage: str) -> None:
        """A stage begins."""

    def epoch(self, row: Epoch, of: int) -> None:
        """An epoch of a training `of` so many is done."""

    def end(self, stage: str, seconds: float, result: str) -> None:
        """A stage is done; `result` says in a few words what came out."""


class Silent:
    """No progress at all."""

    bars: bool | rich.progress.Progress = False

    def begin(self, stage: str) -> None:
        """Nothing is shown."""

    def epoch(self, row: Epoch, of: int) -> None:
        """Nothing is shown."""

    def end(self, stage: str, seconds: float, result: str) -> None:
        """Nothing is shown."""


@dataclass
class Note:
    """What a stage says when it is done."""

    text: str = ""


@contextmanager
def told(progress: Progress, name: str, folder: Folder | None = None) -> Iterator[Note]:
    """A stage: told when it begins and ends, its time added to the folder's, also where an error or a kill ends it."""
    progress.begin(name)
    started, note = time.perf_counter(), Note()
    try:
        yield note
    finally:
        seconds = time.perf_counter() - started
        if folder is not None:
            folder.spent(name, seconds)
    progress.end(name, seconds, note.text)
