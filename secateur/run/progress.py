"""How a run tells where it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
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


class Stage:
    """A stage under way: its time goes to the folder, where there is one."""

    text: str = ""
    """What it says in a few words when it is done."""

    def __init__(self, name: str, folder: Folder | None) -> None:
        self._name, self._folder = name, folder
        self._started = self._kept = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self._started

    def keep_time(self) -> None:
        """Add what has passed since this was last called, so that a process that is killed loses no more than that."""
        now = time.perf_counter()
        if self._folder is not None:
            self._folder.spent(self._name, now - self._kept)
        self._kept = now


@contextmanager
def told(progress: Progress, name: str, folder: Folder | None = None) -> Iterator[Stage]:
    """A stage: told when it begins and ends, its time added to the folder's, also where an error ends it."""
    progress.begin(name)
    stage = Stage(name, folder)
    try:
        yield stage
    finally:
        stage.keep_time()
    progress.end(name, stage.seconds, stage.text)
