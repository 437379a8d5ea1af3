"""Which inputs are alike as a heat-map with its dendrogram: inputs that are read alike stand side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform

from secateur.explain.drawing import LEVELS, shade
from secateur.explain.study import Study
from secateur.explain.symmetry import weight_symmetry
from secateur.report.charts import tag

MOST = 32
"""Inputs of the matrix: those of the largest importance."""


@dataclass(frozen=True)
class Matrix:
    """The drawing, how many inputs it has of how many, and the pairs worth telling."""

    drawing: Markup
    shown: int
    of: int


def matrix(study: Study) -> Matrix | None:
    """The cosines of the most important inputs, ordered by single links of |cosine|; None for fewer than two."""
    importance = next(iter(study.importances.values()))
    chosen = importance.argsort(descending=True, stable=True)[:MOST]
    if len(chosen) < 2:
        return None
    cosine = weight_symmetry(study.network)[chosen][:, chosen].numpy()
    away = (1 - np.abs(cosine)).clip(0)
    np.fill_diagonal(away, 0)
    tree = dendrogram(linkage(squareform(away, checks=False), "average"), no_plot=True)
    order = [int(leaf) for leaf in tree["leaves"]]
    names = [study.names[int(chosen[i])] for i in order]
    drawn = _drawn(cosine[order][:, order], names, list(zip(tree["icoord"], tree["dcoord"], strict=True)))
    return Matrix(drawn, len(chosen), len(importance))


def _drawn(values: np.ndarray, names: list[str], branches: list[tuple[list[float], list[float]]]) -> Markup:
    """Cells of 18 pixels, whose size the style sheet has, names to the left, the dendrogram to the right."""
    side, left = 18.0, min(210.0, 14 + 6.6 * max(map(len, names)))
    size, tree = side * len(names), 70.0
    cells = [
        tag(
            "rect",
            tag("title", f"{names[i]} and {names[j]}: {value:+.2f}"),
            x=round(left + side * j, 1),
            y=side * i,
            class_=_step(float(value)),
        )
        for (i, j), value in np.ndenumerate(values)
        if value
    ]
    rows = [tag("text", name, x=left - 8, y=side * i + 13, class_="end") for i, name in enumerate(names)]
    start = left + size + 4
    ends = [[f"{start + b * tree:.1f},{a / 10 * side:.1f}" for a, b in zip(*line, strict=True)] for line in branches]
    lines = [tag("polyline", points=" ".join(points)) for points in ends]
    return tag(
        "svg",
        tag("title", "Cosines of the weights that read each pair of inputs", id="matrix-title"),
        tag("path", d=f"M{left:g} 0h{size - 1:g}v{size - 1:g}h-{size - 1:g}z", class_="ground"),
        *rows,
        *cells,
        tag("g", *lines, class_="tree"),
        viewBox=f"0 0 {left + size + tree + 8:g} {size:g}",
        role="img",
        aria_labelledby="matrix-title",
        class_="chart matrix",
        style=f"max-width:{left + size + tree + 8:g}px",
    )


def _step(value: float) -> str:
    """The colour of a cosine, whose steps are even."""
    return shade(int(np.sign(value) * np.ceil(LEVELS * abs(value) - 1e-9).clip(1)))
