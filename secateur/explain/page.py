"""The pathway page: one self-contained HTML file in which a network is read, by mouse, touch or keyboard."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from markupsafe import Markup

from secateur.explain.content import content, stops
from secateur.explain.drawing import LEVELS, drawing, unit_name
from secateur.explain.matrix import matrix
from secateur.explain.ordering import as_they_are, crossings, untangled
from secateur.explain.strongest import strongest_paths
from secateur.explain.structure import subgraph
from secateur.explain.study import Study
from secateur.explain.symmetry import map_symmetry
from secateur.files import atomic_write
from secateur.report import charts
from secateur.report.page import environment
from secateur.sparse import live
from secateur.version import __version__

FILE = "pathways.html"
SOURCES = ("report.css", "pathways.css", "pathways.js")


def write(study: Study, path: str | Path) -> Path:
    """Write the page of a study; comes back with its path.

    >>> write(study(network, data.test.inputs, names=data.feature_names), "out/pathways.html")
    """
    with atomic_write(path) as partial:
        partial.write_text(render(study), encoding="utf-8")
    return Path(path)


def render(study: Study) -> str:
    """The page as text. Every name that comes from data or a model is escaped."""
    orders = untangled(study.drawn)
    template = environment("explain", sources=SOURCES).get_template("pathways.html")
    return template.render(
        study=study,
        version=__version__,
        counts=study.network.counts,
        units=[len(column) for column in study.network.units],
        drawn=study.drawn.counts["edges"],
        content=content(study, orders),
        drawing=drawing(study, orders),
        crossings=(crossings(study.drawn, as_they_are(study.drawn)), crossings(study.drawn, orders)),
        stops=stops(study),
        levels=[f"n{i}" for i in range(LEVELS, 0, -1)] + [f"p{i}" for i in range(1, LEVELS + 1)],
        classes=_classes(study),
        strongest=ways(study),
        correlations=study.correlations.tolist(),
        deletion=_deletion(study),
        areas={name: curve.area for name, curve in study.deletions.items()},
        matrix=matrix(study),
        mirrored=_mirrored(study),
    )


@dataclass(frozen=True)
class ClassRow:
    """What one output reads: edges, inputs, hidden units of all layers, and its part."""

    name: str
    edges: int
    inputs: int
    hidden: int
    part: int | None


def _classes(study: Study) -> list[ClassRow]:
    """Every output's sub-graph in numbers; `part` counts components from 1 and is None for an output that is lost."""
    rows = []
    for k, name in enumerate(study.classes):
        own = subgraph(study.network, k)
        alive = [int(column.sum()) for column in live(own).units]
        part = next((i for i, one in enumerate(study.components, start=1) if k in one.outputs), None)
        rows.append(ClassRow(name, own.counts["edges"], alive[0], sum(alive[1:-1]), part))
    return rows


def ways(study: Study, most: int = 8) -> list[tuple[list[str], float, int]]:
    """The strongest paths of the drawing: the names of their units, their share of all strength, their sign."""
    found = strongest_paths(study.drawn, study.scale[0], most=most)
    return [([unit_name(study, i, unit) for i, unit in enumerate(one.units)], one.share, one.sign) for one in found]


SHOWN = {
    "path product × scale": ("paths", "slim"),
    "permutation": ("permutation", "train"),
    "in-degree": ("in-degree", "gone"),
}
"""Importances whose deletion is drawn, with the name and the style of their line."""


def _deletion(study: Study) -> Markup | None:
    """What is left as inputs are deleted in the order of some importances."""
    lines = []
    for name, (short, kind) in SHOWN.items():
        if curve := study.deletions.get(name):
            values = curve.accuracy or curve.loss
            lines.append(charts.Line(short, tuple(zip(curve.deleted, values, strict=True)), kind))
    if not lines:
        return None
    accurate = study.accuracy is not None
    return charts.lines(
        lines,
        title=f"{'Accuracy' if accurate else 'Loss'} as inputs are deleted",
        name="accuracy, %" if accurate else "loss",
        key="deletion",
        percent=accurate,
        across="inputs deleted, the most important first",
    )


def _mirrored(study: Study) -> dict[str, float]:
    """How far the map of kept pixels is its own mirror image."""
    if study.grid is None:
        return {}
    kept = torch.zeros(study.grid[0] * study.grid[1])
    kept[study.network.units[0] % len(kept)] = 1
    return map_symmetry(kept.view(study.grid))
