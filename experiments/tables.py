"""Writes tables and plots of README and docs from results/ and from the schema of recipes, so that nothing is typed.

python experiments/tables.py            write them
python experiments/tables.py --check    exit with 1 where they are stale
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tabled import breast_cancer, decay, gradient_sampling, gradient_verdict, learned_sparsity, recipes, runs, speed
from tabled.common import ROOT
from tabled.plots import FOLDER, Plot

from secateur.errors import SecateurError

TOPICS = (runs, speed, recipes, decay, gradient_sampling, gradient_verdict, learned_sparsity, breast_cancer)
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
TABLES: dict[str, Callable[[], str]] = {name: make for topic in TOPICS for name, make in topic.TABLES.items()}
PLOTS: dict[str, Plot] = {**gradient_sampling.PLOTS}


def written(text: str) -> str:
    """The page with every table between its marks made anew."""
    for name, make in TABLES.items():
        marks = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if marks.search(text):
            made = make()
            text = marks.sub(lambda found, made=made: f"{found[1]}\n{made}\n\n{found[2]}", text)
    return text


def stale(folder: Path = FOLDER, plots: Mapping[str, Plot] = PLOTS) -> dict[Path, str | None]:
    """The pages and plots that are not what they should be, with that; None for a plot that should not be there."""
    now = {page: page.read_text() for page in PAGES} | {file: file.read_text() for file in folder.glob("*.svg")}
    made = {page: written(now[page]) for page in PAGES}
    made |= {folder / f"{name}.svg": text for name, plot in plots.items() if (text := plot()) is not None}
    return {path: made.get(path) for path in [*made, *(now.keys() - made.keys())] if made.get(path) != now.get(path)}


def main() -> int:
    """Write the pages, or say which are stale; 2 where a result is damaged or of another recipe than its name tells."""
    try:
        found = stale()
    except SecateurError as error:
        print(error)
        return 2
    if "--check" in sys.argv:
        for path in found:
            print(f"{path.name} is stale: run python experiments/tables.py")
        return 1 if found else 0
    for path, text in found.items():
        if text is None:
            path.unlink()
            print(f"removed {path.name}")
            continue
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        print(f"wrote {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
