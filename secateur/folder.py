"""The folder of a run: refused before any work if it cannot serve, and what a killed run goes on from."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from secateur.errors import CheckpointError, InputError
from secateur.files import atomic_write
from secateur.recipe import Recipe, read_yaml
from secateur.report.page import FILES

RECIPE = "recipe.yaml"
DENSE = "dense.safetensors"
STAGES = "stages"

Value = TypeVar("Value", bound=BaseModel)


class Folder:
    """An output folder that belongs to one recipe.

    While the run goes on, each stage that is done leaves its numbers in `stages/NAME.json`; the same recipe started
    again reads them back. When the report is written the stages are removed, for it holds all they did.

    Raises `InputError` if the folder cannot be written, or holds anything but a run of the same recipe.
    """

    def __init__(self, path: str | Path, recipe: Recipe) -> None:
        self.path = Path(path)
        self.recipe = recipe
        self._prepare()
        self._check_owner()
        self._clock: dict[str, Any] = self._read_clock()

    @property
    def done(self) -> bool:
        """Whether the run has come to its end: the page is what it writes last."""
        return (self.path / FILES["page"]).exists()

    @property
    def started(self) -> str:
        """When the run was first started, in local time with its offset."""
        return str(self._clock["started"])

    @property
    def seconds(self) -> dict[str, float]:
        """Wall seconds of every stage, over all the times the run was started."""
        return dict(self._clock["seconds"])

    def stage(self, name: str) -> Path:
        """Where a stage may keep files of its own."""
        return self.path / STAGES / name

    def spent(self, stage: str, seconds: float) -> None:
        """Add to the time of a stage."""
        times = self._clock["seconds"]
        times[stage] = round(times.get(stage, 0.0) + seconds, 3)
        self._write("clock", json.dumps(self._clock))

    def read(self, name: str, kind: type[Value]) -> Value | None:
        """What a stage left when it was done; None if it was not."""
        path = self.path / STAGES / f"{name}.json"
        if not path.exists():
            return None
        try:
            return kind.model_validate_json(path.read_text(encoding="utf-8"))
        except (ValidationError, OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"The stage {path} is damaged. Remove {self.path} and start the run anew.") from error

    def keep(self, name: str, value: Value) -> Value:
        """Leave what a stage found out, so that it need not be done again; returns it."""
        self._write(name, value.model_dump_json())
        return value

    def once(self, name: str, kind: type[Value], compute: Callable[[], Value]) -> Value:
        """What the stage left, or what `compute` gives, which it leaves."""
        found = self.read(name, kind)
        return found if found is not None else self.keep(name, compute())

    def close(self) -> None:
        """Remove what only an unfinished run needs."""
        shutil.rmtree(self.path / STAGES, ignore_errors=True)

    def _write(self, name: str, text: str) -> None:
        with atomic_write(self.path / STAGES / f"{name}.json") as partial:
            partial.write_text(text, encoding="utf-8")

    def _prepare(self) -> None:
        """Make the folder, and write to it for a try."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"The output folder {self.path} cannot be written: {reason}. Name another one.") from error

    def _check_owner(self) -> None:
        """Take an empty folder, or one of the same recipe."""
        path = self.path / RECIPE
        if path.exists():
            differing = _differences(read_yaml(path), self.recipe.to_dict())
            if differing:
                raise InputError(
                    f"The output folder {self.path} holds a run of another recipe, which differs in "
                    f"{', '.join(differing[:5])}{', ...' if len(differing) > 5 else ''}. Name another folder, or "
                    "remove it."
                )
            return
        others = [item.name for item in self.path.iterdir() if not item.name.startswith(".")]
        if others:
            raise InputError(
                f"The output folder {self.path} must be empty or hold a run of the same recipe. It holds "
                f"{', '.join(sorted(others)[:3])}{', ...' if len(others) > 3 else ''}. Name another folder."
            )
        self.recipe.save(path)

    def _read_clock(self) -> dict[str, Any]:
        path = self.path / STAGES / "clock.json"
        if path.exists():
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found
        now = datetime.fromtimestamp(time.time(), timezone.utc).astimezone()
        return {"started": now.isoformat(" ", "seconds"), "seconds": {}}


def _differences(stored: Any, present: Any, at: str = "") -> list[str]:
    """The dotted keys at which two nested values differ."""
    if isinstance(stored, dict) and isinstance(present, dict):
        keys = [*stored, *(key for key in present if key not in stored)]
        return [
            d
            for key in keys
            for d in _differences(stored.get(key), present.get(key), f"{at}.{key}" if at else str(key))
        ]
    return [] if stored == present else [at or "everything"]
