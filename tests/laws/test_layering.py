"""Imports go one way along the river: a stage knows nothing of later ones."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import secateur

ROOT = Path(secateur.__file__).parent
RIVER = (
    ("version", "errors"),
    ("files", "schedule", "ranks", "hashing"),
    ("graph",),
    ("criteria",),
    ("planning",),
    ("sensitivity",),
    ("removal",),
    ("masks",),
    ("surgery",),
    ("testing", "training", "zoo", "data"),
    ("optim", "adapters", "measures", "methods", "sparse"),
    ("report",),
    ("explain",),
    ("recipe",),
    ("building", "folder", "inspection", "console"),
    ("run",),
    ("explaining", "evaluating"),
    ("cli",),
)
LEVEL = {stage: level for level, stages in enumerate(RIVER) for stage in stages}
MODULES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def stage(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The stages that a module imports, wherever in the file, but for types alone."""
    tree = ast.parse(path.read_text())
    for_types = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("secateur"):
            rest = node.module.split(".")[1:]
            found |= {rest[0]} if rest else {home(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("secateur.")}
    return found


def home(name: str) -> str:
    """The stage that a name of the package belongs to."""
    return name if name in LEVEL else secateur._HOME_OF[name].split(".")[1]


def test_every_module_has_its_place() -> None:
    assert {stage(p) for p in MODULES} <= LEVEL.keys()


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_earlier_stages_only(path: Path) -> None:
    own = stage(path)
    later = {s for s in imports(path) - {own} if LEVEL[s] >= LEVEL[own]}
    assert not later, f"{path.relative_to(ROOT)} belongs to '{own}' and imports {sorted(later)}"


def test_terms_know_no_torch() -> None:
    assert "torch" not in (ROOT / "graph" / "terms.py").read_text().replace("no torch operator", "")


@pytest.mark.parametrize("apart", ["training", "data", "measures", "zoo"])
def test_stages_beside_the_river_do_not_need_its_graph(apart: str) -> None:
    allowed = {"training": {"graph"}, "measures": {"graph"}}.get(apart, set())
    needed = set().union(*(imports(p) for p in MODULES if stage(p) == apart))
    assert not {"graph", "criteria", "planning", "surgery"} & needed - allowed
