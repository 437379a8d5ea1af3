"""A run that takes seconds: the smallest residual network on a part of the digits."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from secateur.recipe import Recipe, changed
from secateur.run import Silent

VALUES: dict[str, Any] = {
    "model": {"spec": "zoo:resnet8"},
    "data": {"name": "digits", "limit": 256},
    "training": {"epochs": 1},
    "fine_tuning": {"epochs": 2},
    "batch_norm": {"batches": 2},
    "measures": {"runs": 2, "warmup": 1},
}


def recipe(out: Any = None, **changes: Any) -> Recipe:
    """The tiny recipe with values at dotted keys (written with double underscores) changed."""
    values = VALUES
    for key, value in changes.items():
        values = changed(values, key.replace("__", "."), value)
    return Recipe.of({**values, "out": str(out) if out is not None else None})


class Stopping(Silent):
    """Stops the run at the end of a stage, or of an epoch of it."""

    def __init__(self, stop: str) -> None:
        self.stop, self.at = stop, ""

    def begin(self, stage: str) -> None:
        self.at = stage

    def epoch(self, row: Any, of: int) -> None:
        if f"{self.at} epoch {row.epoch}" == self.stop:
            raise KeyboardInterrupt

    def end(self, stage: str, seconds: float, result: str) -> None:
        if stage == self.stop:
            raise KeyboardInterrupt


def script(path: str) -> dict[str, Any]:
    """What a script of the project defines."""
    return runpy.run_path(str(Path(__file__).resolve().parent.parent / path))
