"""Writes the tables of README and docs from results/ and from the schema of recipes, so that nothing in them is typed.

python experiments/tables.py            write them
python experiments/tables.py --check    exit with 1 where they are stale
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

from tabled import breast_cancer, decay, learned_sparsity, recipes, runs, speed
from tabled.common import ROOT

from secateur.errors import SecateurError

TOPICS = (runs, speed, recipes, decay, learned_sparsity, breast_cancer)
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
TABLES: dict[str, Callable[[], str]] = {name: make for topic in TOPICS for name, make in topic.TABLES.items()}


def written(text: str) -> str:
    """The page with every table between its marks made anew."""
    for name, make in TABLES.items():
        marks = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if marks.search(text):
            made = make()
            text = marks.sub(lambda found, made=made: f"{found[1]}\n{made}\n\n{found[2]}", text)
    return text


def main() -> int:
    """Write the pages, or say which are stale; 2 where a result is damaged or of another recipe than its name tells."""
    try:
        stale = [page for page in PAGES if written(page.read_text()) != page.read_text()]
    except SecateurError as error:
        print(error)
        return 2
    if "--check" in sys.argv:
        for page in stale:
            print(f"{page.name} is stale: run python experiments/tables.py")
        return 1 if stale else 0
    for page in stale:
        page.write_text(written(page.read_text()))
        print(f"wrote {page.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
