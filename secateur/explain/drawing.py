"""A network as SVG: a column a layer, edges as curves, colours by class, so that the page's style sheet has them.

The drawing stands without a script; the page's script moves it to the width of the screen and lights its paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from secateur.explain.ordering import Orders
from secateur.explain.study import Study
from secateur.report.charts import tag
from secateur.sparse import edges

LEVELS = 4
"""Steps of colour on either side of zero."""

WIDTH = 960
TOP, BOTTOM = 34, 14
CROWDED = 90
"""Edges between two columns above which they are drawn thinner."""


@dataclass(frozen=True, eq=False)
class Places:
    """Where units stand: `x` of every column, `y` of every unit by its position in the network."""

    x: tuple[float, ...]
    y: tuple[NDArray[np.float64], ...]
    height: float


def places(study: Study, orders: Orders) -> Places:
    """Columns at equal distances, the units of each evenly over the height."""
    named = study.grid is None
    widest = max(len(order) for order in orders)
    step = 24.0 if named else max(4.6, 560 / widest)
    inner = max(widest * step, 300.0)
    left = min(230.0, 22 + 7.3 * max(map(len, study.names))) if named else 16.0
    right = min(190.0, 26 + 7.4 * max(map(len, study.classes)))
    columns = len(orders)
    x = tuple(left + (WIDTH - left - right) * i / (columns - 1) for i in range(columns))
    y = []
    for order in orders:
        own = np.empty(len(order))
        own[order] = TOP + inner * (np.arange(len(order)) + 0.5) / max(len(order), 1)
        y.append(own)
    return Places(x, tuple(y), TOP + inner + BOTTOM)


def strengths(study: Study) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Of every edge of `sparse.edges` its weight times the spread of what it reads, in [-1, 1], and its colour.

    1 is the largest of the edge's layer. The colour is a step from -4 to 4, never 0, symmetric about it.
    """
    found = edges(study.drawn)
    scale = [column.numpy() for column in study.scale]
    value = np.array(
        [w * scale[n][s] for n, s, w in zip(found["layer"], found["source"], found["weight"], strict=True)]
    )
    for number in range(len(study.drawn.layers)):
        own = found["layer"] == number
        largest = np.abs(value[own]).max(initial=0)
        value[own] /= largest if largest else 1
    steps = np.ceil(LEVELS * np.sqrt(np.abs(value))).clip(1, LEVELS)
    return value, (np.where(found["weight"] < 0, -1, 1) * steps).astype(np.int64)


def drawing(study: Study, orders: Orders) -> Markup:
    """The whole drawing. Edges stand in the order of `by_strength`, units column by column from first to last."""
    at = places(study, orders)
    named = ["inputs", *(heading(i, layer.name) for i, layer in enumerate(study.drawn.layers, start=1))]
    starts = "head" if study.grid else "head end"
    heads = [
        tag("text", name, x=x, y=16, class_="head middle" if i else starts)
        for i, (name, x) in enumerate(zip(named, at.x, strict=True))
    ]
    return tag(
        "svg",
        tag("g", *heads, aria_hidden="true"),
        tag("g", *_edges(study, at), class_="edges", aria_hidden="true"),
        *(_column(study, at, order, i, named[i]) for i, order in enumerate(orders)),
        id="network",
        viewBox=f"0 0 {WIDTH} {at.height:g}",
        role="group",
        aria_label="The network, a column a layer. Arrow keys move between units, Enter holds one, Escape lets go.",
        class_="pictured" if study.grid else "named",
    )


def heading(number: int, name: str) -> str:
    """What a column is called: by its layer, unless that has but a number in its container."""
    last = name.rpartition(".")[2]
    return f"layer {number}" if not last or last.isdigit() else name


def by_strength(study: Study) -> NDArray[np.int64]:
    """The edges of `sparse.edges` in the order in which they are drawn: the strongest last, on top."""
    return np.argsort(study.ranked.strength, kind="stable")


def stroke(value: float, beside: int) -> float:
    """How wide an edge of a strength in [-1, 1] is, in pixels, among so many between the same columns."""
    return 0.6 + (3.4 if beside <= CROWDED else 1.8) * abs(value)


def shade(step: int) -> str:
    """The style's name of a step of colour: n4 to n1 below zero, p1 to p4 above."""
    return f"{'n' if step < 0 else 'p'}{abs(step)}"


def _edges(study: Study, at: Places) -> list[Markup]:
    found, (value, colour) = edges(study.drawn), strengths(study)
    beside, made = np.bincount(found["layer"]).tolist(), []
    for edge in by_strength(study):
        n, s, t = (int(found[name][edge]) for name in ("layer", "source", "target"))
        (x0, x1), y0, y1 = at.x[n : n + 2], at.y[n][s], at.y[n + 1][t]
        middle = (x0 + x1) / 2
        d = f"M{x0:.0f} {y0:.1f}C{middle:.0f} {y0:.1f} {middle:.0f} {y1:.1f} {x1:.0f} {y1:.1f}"
        made.append(
            tag("path", d=d, class_=shade(int(colour[edge])), stroke_width=round(stroke(value[edge], beside[n]), 2))
        )
    return made


def _column(study: Study, at: Places, order: Sequence[int] | NDArray[np.int64], column: int, name: str) -> Markup:
    step = min(abs(b - a) for a, b in pairwise(at.y[column][order])) if len(order) > 1 else 24.0
    size = float(np.clip(0.42 * step, 2.0, 6.0))
    last = column == len(at.x) - 1
    units = []
    for place, unit in enumerate(order):
        x, y, called = at.x[column], float(at.y[column][unit]), unit_name(study, column, int(unit))
        parts = [tag("circle", cx=x, cy=y, r=size)]
        if last:
            parts.append(tag("text", called, x=x + 12, y=y + 4))
        elif column == 0 and study.grid is None:
            parts.append(tag("text", called, x=x - 12, y=y + 4, class_="end"))
        focus = "0" if place == 0 else "-1"
        label = said(study, column, int(unit), called)
        units.append(tag("g", *parts, id=f"u{column}-{unit}", role="button", tabindex=focus, aria_label=label))
    kind = "units inputs" if column == 0 else "units outputs" if last else "units"
    return tag("g", *units, class_=kind, role="group", aria_label=f"{name}, {len(order)} units")


def unit_name(study: Study, column: int, unit: int) -> str:
    """What a unit of the drawing is called."""
    index = int(study.drawn.units[column][unit])
    if column == 0:
        return study.names[study.network.units[0].tolist().index(index)]
    if column == len(study.drawn.units) - 1:
        return study.classes[index]
    return f"unit {index}"


def said(study: Study, column: int, unit: int, called: str) -> str:
    """A unit in a phrase, for those who do not see it."""
    layers = study.drawn.layers
    reads = int((layers[column - 1].weight[unit] != 0).sum()) if column else 0
    feeds = int((layers[column].weight[:, unit] != 0).sum()) if column < len(layers) else 0
    parts = ([f"reads {reads}"] if column else []) + ([f"feeds {feeds}"] if column < len(layers) else [])
    return f"{called}: {', '.join(parts)}"
