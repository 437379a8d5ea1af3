"""Recipes that come with the package, to be shown, copied and changed."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from secateur.errors import InputError
from secateur.files import atomic_write
from secateur.recipe import text
from secateur.recipe.choices import nearest
from secateur.recipe.text import Written

_FOLDER = files("secateur.recipe").joinpath("shipped")


def names() -> dict[str, str]:
    """The recipes that come with the package, each with the sentence it begins with."""
    found = sorted(item.name.removesuffix(".yaml") for item in _FOLDER.iterdir() if item.name.endswith(".yaml"))
    return {name: source(name).partition("\n")[0].removeprefix("#").strip() for name in found}


def source(name: str) -> str:
    """The text of a recipe that comes with the package."""
    return _FOLDER.joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def read(which: str | Path) -> Written:
    """The recipe in a file, or the one of that name that comes with the package."""
    path = Path(which)
    if path.exists() or path.suffix or path.name != str(which):
        return text.read(path)
    return text.parse(source(_known(str(which))), f"recipe {which}")


def copy(name: str, path: str | Path) -> Path:
    """The file that a recipe of the package was copied to. Raises `InputError` if it exists already."""
    path, found = Path(path), source(_known(name))
    if path.exists():
        raise InputError(f"The file {path} exists already. Name another one.")
    with atomic_write(path) as partial:
        partial.write_text(found, encoding="utf-8")
    return path


def _known(name: str) -> str:
    known = names()
    if name not in known:
        raise InputError(
            f"There is no recipe named '{name}', and no such file.{nearest(name, known)} "
            f"The package has {', '.join(known)}."
        )
    return name
