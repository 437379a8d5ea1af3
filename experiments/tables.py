"""Writes tables and plots of README and docs from results/ and from the schema of recipes, so that nothing is typed.

python experiments/tables.py            write them
python experiments/tables.py --check    exit with 1 where they are stale
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tabled import (
    bounds,
    breast_cancer,
    decay,
    gradient_sampling,
    gradient_training,
    gradient_verdict,
    learned_sparsity,
    lost_in_pruning,
    recipes,
    runs,
    speed,
)
from tabled.common import ROOT

from secateur.errors import SecateurError
from secateur.files import atomic_write

TOPICS = (
    runs,
    speed,
    recipes,
    decay,
    gradient_sampling,
    gradient_training,
    gradient_verdict,
    learned_sparsity,
    lost_in_pruning,
    bounds,
    breast_cancer,
)
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
TABLES: dict[str, Callable[[], str]] = {name: make for topic in TOPICS for name, make in topic.TABLES.items()}
IMAGES = ROOT / "docs" / "images"
DRAWN: dict[str, Callable[[], dict[str, str]]] = {
    "gradient_sampling": gradient_sampling.plots,
    lost_in_pruning.QUESTION: lost_in_pruning.plots,
    bounds.NAME: bounds.plots,
}
"""What draws the plots whose names begin so: name -> the text of the file."""


def written(text: str) -> str:
    """The page with every table between its marks made anew."""
    for name, make in TABLES.items():
        marks = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if marks.search(text):
            made = make()
            text = marks.sub(lambda found, made=made: f"{found[1]}\n{made}\n\n{found[2]}", text)
    return text


def fresh(folder: Path = IMAGES, drawn: Mapping[str, Callable[[], dict[str, str]]] = DRAWN) -> dict[Path, str | None]:
    """What every page and every plot should hold; None for a plot that no result gives any more."""
    found: dict[Path, str | None] = {page: written(page.read_text(encoding="utf-8")) for page in PAGES}
    for name, plots in drawn.items():
        found |= dict.fromkeys(folder.glob(f"{name}-*.svg"))
        found |= {folder / file: text for file, text in plots().items()}
    return found


def main() -> int:
    """Write pages and plots, or say which are stale; 2 where a result is damaged or not of the recipe of its name."""
    try:
        made = fresh()
    except SecateurError as error:
        print(error)
        return 2
    held = {path: path.read_text(encoding="utf-8") if path.exists() else None for path in made}
    stale = [path for path, text in made.items() if text != held[path]]
    for path in stale:
        if "--check" in sys.argv:
            print(f"{path.name} is stale: run python experiments/tables.py")
        elif (text := made[path]) is None:
            path.unlink()
            print(f"removed {path.name}")
        else:
            with atomic_write(path) as partial:
                partial.write_text(text, encoding="utf-8")
            print(f"wrote {path.name}")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
