"""The tables of README are those that results/ give."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_tables_are_fresh():
    done = subprocess.run(
        [sys.executable, "experiments/tables.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_changed_figure_is_noticed():
    tables = runpy.run_path(str(ROOT / "experiments" / "tables.py"))
    page = (ROOT / "README.md").read_text()
    start = page.index("<!-- table: runs -->")
    stale = page[:start] + page[start:].replace("93.39", "99.99", 1)
    assert stale != page
    assert tables["written"](stale) == page
