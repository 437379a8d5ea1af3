"""The progress bar of a training: epochs, steps, time left, loss and accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from secateur.training.history import Epoch


class Bar:
    """One task of a rich Progress; without a Progress it does nothing."""

    def __init__(self, progress: Progress | None, task: TaskID | None, epochs: int) -> None:
        self._progress = progress
        self._task = task
        self._epochs = epochs
        self._validation = ""

    def step(self, epoch: int, loss: float) -> None:
        """One batch of the epoch (counted from 0) is done; `loss` is the epoch's mean so far."""
        if self._progress is not None and self._task is not None:
            text = f"epoch {epoch + 1}/{self._epochs}  loss {loss:.4f}{self._validation}"
            self._progress.update(self._task, advance=1, text=text)

    def skip(self, steps: int) -> None:
        """`steps` were done by the run that this one continues."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=steps)

    def epoch(self, row: Epoch) -> None:
        """An epoch is done; its validation accuracy stays in view during the next."""
        if row.val_accuracy is not None:
            self._validation = f"  validation {row.val_accuracy:.2%}"
        if self._progress is not None and self._task is not None:
            text = f"epoch {row.epoch}/{self._epochs}  loss {row.train_loss:.4f}{self._validation}"
            self._progress.update(self._task, text=text)


@contextmanager
def progress_bar(wanted: bool | Progress, epochs: int, steps: int) -> Iterator[Bar]:
    """A bar over `epochs * steps` steps, its own or inside a running Progress, or a silent one."""
    if wanted is False:
        yield Bar(None, None, epochs)
    elif isinstance(wanted, Progress):
        yield Bar(wanted, wanted.add_task("training", total=epochs * steps, text=""), epochs)
    else:
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        with Progress(TextColumn("{task.description}"), *columns) as progress:
            yield Bar(progress, progress.add_task("training", total=epochs * steps, text=""), epochs)
