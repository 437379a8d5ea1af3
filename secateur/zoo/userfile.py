"""Functions from a user's own Python file, imported without taking names that other modules need."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from secateur.errors import InputError


def load_function(path: Path, name: str) -> Callable[..., Any]:
    """The function `name` of the Python file at `path`; calling it can import the file's neighbours, as importing did.

    The file runs once per call of `load_function`, under a module name made from its path, so that a file called
    `timm.py` hides nothing. Raises `InputError` where the file or the function is missing, or the import fails.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}. A model is named 'path/to/file.py:function'.")
    module = _run(path)
    function = getattr(module, name, None)
    if not callable(function):
        own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        near = difflib.get_close_matches(name, own, n=3, cutoff=0.4) or own[:5]
        hint = f" Nearest: {', '.join(near)}." if near else " The file defines no function."
        raise InputError(f"There is no function {name!r} in {path}.{hint}")

    def call(*args: Any, **kwargs: Any) -> Any:
        with _beside(path.parent):
            return function(*args, **kwargs)

    call.__signature__ = inspect.signature(function)  # type: ignore[attr-defined] # what inspect.signature reads
    return call


def _run(path: Path) -> ModuleType:
    """The executed module of the file at `path`."""
    path = path.resolve()
    name = f"secateur_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"The file {path} is not a Python file: its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and type hints look their module up here
    try:
        with _beside(path.parent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise InputError(f"The file {path} could not be imported: {type(error).__name__}: {error}") from error
    return module


@contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """The files of `folder` can be imported inside the block; afterwards those names are free again.

    Two models may so each have a `layers.py` of their own. A neighbour that can be imported without `folder` stays
    imported.
    """
    folder = folder.resolve()
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        new = {name: sys.modules[name] for name in set(sys.modules) - before if not name.startswith("secateur_user_")}
        tops = {name.partition(".")[0] for name, module in new.items() if _lies_in(module, folder)}
        for top in tops - before:
            _forget(top, new)


def _lies_in(module: ModuleType, folder: Path) -> bool:
    """Whether the module was read from somewhere below `folder`."""
    file = getattr(module, "__file__", None)
    return file is not None and folder in Path(file).resolve().parents


def _forget(top: str, new: dict[str, ModuleType]) -> None:
    """Take the package `top` out of the imported modules, unless the ordinary search path finds the same one."""
    family = {name: module for name, module in new.items() if name == top or name.startswith(f"{top}.")}
    for name in family:
        del sys.modules[name]
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is not None and spec.origin is not None and spec.origin == getattr(family.get(top), "__file__", None):
        sys.modules.update(family)
