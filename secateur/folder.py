"""The folder of a run: refused before any work if it cannot serve, held by one process, gone on from after a kill."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from secateur.errors import CheckpointError, InputError
from secateur.files import atomic_write
from secateur.ranks import done_by_first, world
from secateur.recipe import Recipe, text
from secateur.report.page import FILES

RECIPE = "recipe.yaml"
DENSE = "dense.safetensors"
STAGES = "stages"
ROUNDS = "rounds"
"""Where the model of every round is left, fine-tuned, where there are several."""
LOCK, HOLDER = ".lock", ".holder.json"

Value = TypeVar("Value", bound=BaseModel)


@contextmanager
def held(path: str | Path) -> Iterator[None]:
    """A block in which the folder belongs to this process: no run of another one writes into it.

    The lock is the operating system's and ends with the process that holds it, however that ends; a holder that died is
    followed without a word. Raises `InputError` if the folder cannot be written, or names the process, the machine and
    the time since when another run has it.
    """
    folder = Path(path)
    _prepare(folder)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"The output folder {folder} is being written by another run{_holder(folder)}. Wait for it, stop it, or "
            "name another folder."
        ) from None
    try:
        with atomic_write(folder / HOLDER) as partial:
            partial.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}))
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()


def _holder(folder: Path) -> str:
    """Who has the folder, as far as it was written down."""
    try:
        found = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f" (process {found['pid']} on {found['host']}, since {found['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _prepare(folder: Path) -> None:
    """Make the folder, and write to it for a try."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"The output folder {folder} cannot be written: {reason}. Name another one.") from error


def _now() -> str:
    """The local time with its offset."""
    return datetime.fromtimestamp(time.time(), timezone.utc).astimezone().isoformat(" ", "seconds")


class Folder:
    """An output folder that belongs to one recipe; it is there, and `held`.

    While the run goes on, each stage that is done leaves its numbers in `stages/NAME.json`; the same recipe started
    again reads them back. When the report is written the stages are removed, for it holds all they did. Of several
    ranks the first one writes, and the others see the same folder.

    Raises `InputError` if the folder holds anything but a run of the same recipe.
    """

    def __init__(self, path: str | Path, recipe: Recipe) -> None:
        self.path = Path(path)
        self.recipe = recipe
        self._writes = world()[0] == 0
        done_by_first(self._check_owner)
        if not (self.path / RECIPE).exists():
            raise InputError(f"The output folder {self.path} must be the same for all ranks. This one does not see it.")
        self._clock: dict[str, Any] = self._read_clock()

    @property
    def done(self) -> bool:
        """Whether the run has come to its end: the page is what it writes last, beside the record."""
        return all((self.path / FILES[name]).exists() for name in ("page", "json"))

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
        return done_by_first(lambda: self._read(name, kind))

    def _read(self, name: str, kind: type[Value]) -> Value | None:
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
        """What the stage left, or what `compute` gives on the first rank, which leaves it."""
        found = self.read(name, kind)
        return found if found is not None else done_by_first(lambda: self.keep(name, compute()))

    def close(self) -> None:
        """Remove what only an unfinished run needs."""
        shutil.rmtree(self.path / STAGES, ignore_errors=True)

    def _write(self, name: str, content: str) -> None:
        if not self._writes:
            return
        with atomic_write(self.path / STAGES / f"{name}.json") as partial:
            partial.write_text(content, encoding="utf-8")

    def _check_owner(self) -> None:
        """Take an empty folder, or one of the same recipe."""
        path = self.path / RECIPE
        if path.exists():
            differing = differences(completed(text.read(path).values), self.recipe.to_dict())
            if differing:
                raise InputError(
                    f"The output folder {self.path} holds a run of another recipe. These differ: "
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
        if not path.exists():
            return {"started": _now(), "seconds": {}}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return {"started": str(found["started"]), "seconds": dict(found["seconds"])}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"The stage {path} is damaged. Remove {self.path} and start the run anew.") from error


def completed(values: Any) -> Any:
    """A stored recipe with the keys that came later at their defaults; as it is where it can no longer be read."""
    try:
        return Recipe.of(values).to_dict()
    except InputError:
        return values


def differences(stored: Any, present: Any, at: str = "") -> list[str]:
    """The dotted keys at which two nested values differ, each with both values."""
    if isinstance(stored, dict) and isinstance(present, dict):
        keys = [*stored, *(key for key in present if key not in stored)]
        return [
            d for key in keys for d in differences(stored.get(key), present.get(key), f"{at}.{key}" if at else str(key))
        ]
    if stored == present:
        return []
    pair = (_brief(value) for value in (stored, present))
    return [f"{at or 'everything'} ({' there, '.join(pair)} here)"]


def _brief(value: Any) -> str:
    """A value as YAML would have it; a mapping by its keys."""
    return f"{{{', '.join(map(str, value))}}}" if isinstance(value, dict) else json.dumps(value)
